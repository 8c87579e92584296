//! One task that watches over the time limits of all streams of a layer.
//!
//! It looks at each stream a few times within the shortest limit and compares what it sees with what it
//! saw: frames counted, and whether the body waits for its upstream or for its reader. So a limit costs a
//! stream nothing per frame.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Streams;
use crate::stream::termination::Signal;
use crate::error::StreamError;
use crate::id::StreamId;
use crate::stream::limits::TimeLimits;
use crate::stream::state::{Pipeline, Stage};

/// Looks within the shortest limit. What happened between two looks is taken to have happened at the
/// second, so a limit is noticed up to two of them late.
const LOOKS: u32 = 32;

/// Finer than this, tokio's timer does not measure.
const FINEST: Duration = Duration::from_millis(1);

pub(super) struct Watchdog {
    limits: TimeLimits,
    running: Arc<AtomicBool>,
}

/// Marks the watchdog as not running, however its task ends.
struct Running(Arc<AtomicBool>);

/// What was seen of a stream, and since when it has been so.
#[derive(Clone, Copy)]
struct Seen {
    frames: u64,
    stage: Stage,
    since: Instant,
}

// === impl Watchdog ===

impl Watchdog {
    pub(super) fn new(limits: TimeLimits) -> Self {
        Self { limits, running: Arc::default() }
    }

    /// Whether it runs, or need not.
    pub(super) fn is_running(&self) -> bool {
        !self.limits.any() || self.running.load(SeqCst)
    }

    /// Starts it on `runtime` unless it runs. It ends with `stop`, or with the streams' list.
    pub(super) fn start(&self, runtime: &Handle, streams: &Arc<Streams>, stop: &CancellationToken) {
        let Some(shortest) = self.limits.shortest() else {
            return;
        };
        if self.running.swap(true, SeqCst) {
            return;
        }
        // Made here, not in the task: a runtime that is going down drops the task unpolled.
        let running = Running(Arc::clone(&self.running));
        let (limits, streams, stop) = (self.limits, Arc::downgrade(streams), stop.clone());
        let watch = async move {
            let _running = running;
            let mut looks = interval((shortest / LOOKS).max(FINEST));
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut seen = HashMap::new();
            loop {
                looks.tick().await;
                let Some(streams) = streams.upgrade() else {
                    return;
                };
                seen = look(&limits, &streams, &seen);
            }
        };
        #[expect(clippy::disallowed_methods, reason = "once for a layer, from a call or `build`")]
        runtime.spawn(async move { stop.run_until_cancelled_owned(watch).await });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

/// Ends the streams that have met a limit; what it saw of the others.
fn look(limits: &TimeLimits, streams: &Streams, before: &HashMap<StreamId, Seen>) -> HashMap<StreamId, Seen> {
    let now = Instant::now();
    let mut seen = HashMap::with_capacity(before.len());
    for entry in streams.iter() {
        let Some(exchange) = entry.value().upgrade() else {
            continue;
        };
        let stream = exchange.handle();
        let pipeline = stream.pipeline();
        let id = pipeline.id();
        let here = Seen { frames: pipeline.metrics().frames(), stage: pipeline.stage(), since: now };
        let here = match before.get(&id) {
            Some(then) if (then.frames, then.stage) == (here.frames, here.stage) => *then,
            _ => here,
        };
        match met(limits, pipeline, here, now) {
            Some(error) => {
                stream.end(Signal::Limit(error));
            }
            None => {
                seen.insert(id, here);
            }
        }
    }
    seen
}

/// The limit that a stream has met.
fn met(limits: &TimeLimits, pipeline: &Pipeline, seen: Seen, now: Instant) -> Option<StreamError> {
    let reached = |limit: Option<Duration>, since: Instant| limit.filter(|limit| now - since >= *limit);
    let opened = pipeline.opened()?;
    if let Some(limit) = reached(limits.total, opened) {
        return Some(StreamError::Timeout { limit });
    }
    if pipeline.metrics().chunks() == 0
        && let Some(limit) = reached(limits.first_chunk, opened)
    {
        return Some(StreamError::FirstChunkTimeout { limit });
    }
    if seen.stage.has(Stage::GATED) {
        return None;
    }
    if seen.stage.has(Stage::PENDING) || pipeline.head().is_none() {
        return reached(limits.idle, seen.since).map(|limit| StreamError::IdleTimeout { limit });
    }
    reached(limits.stalled_reader, seen.since).map(|limit| StreamError::StalledReader { limit })
}
