//! One task that watches over the time limits of all streams of a layer.
//!
//! It looks at each stream a few times within the shortest limit and compares what it sees with what it saw: frames
//! counted, and whether the body waits for its upstream or for its reader. A limit therefore costs a stream nothing per
//! frame.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::registry::Registry;
use crate::id::StreamId;
use crate::stream::error::StreamError;
use crate::stream::limits::TimeLimits;
use crate::stream::state::{Flags, StreamState};
use crate::stream::termination::EndSignal;

/// Looks within the shortest limit. What happened between two looks is taken to have happened at the
/// second, which is why a limit is noticed up to two of them late.
const LOOKS: u32 = 32;

/// Finer than this, tokio's timer does not measure.
const FINEST: Duration = Duration::from_millis(1);

/// Longer than this it does not sleep, also where the limits are endless.
const COARSEST: Duration = Duration::from_secs(3600);

pub(super) struct Watchdog {
    limits: TimeLimits,
    running: Arc<AtomicBool>,
    task: Mutex<Option<AbortHandle>>,
}

/// Marks the watchdog as not running, however its task ends.
struct Running(Arc<AtomicBool>);

/// What was seen of a stream, and since when it has been so.
#[derive(Clone, Copy)]
struct Seen {
    progress: u64,
    flags: Flags,
    since: Instant,
}

// === impl Watchdog ===

impl Watchdog {
    pub(super) fn new(limits: TimeLimits) -> Self {
        Self { limits, running: Arc::default(), task: Mutex::default() }
    }

    /// Whether it runs, or need not.
    pub(super) fn is_running(&self) -> bool {
        !self.limits.any() || self.running.load(SeqCst)
    }

    /// Starts it on `runtime` unless it runs. It ends with [`stop`](Self::stop), or with the list of streams.
    pub(super) fn start(&self, runtime: &Handle, streams: &Arc<Registry>) {
        let Some(shortest) = self.limits.shortest() else {
            return;
        };
        if self.running.swap(true, SeqCst) {
            return;
        }
        // Made here, not in the task: a runtime that is going down drops the task unpolled.
        let running = Running(Arc::clone(&self.running));
        let (limits, streams) = (self.limits, Arc::downgrade(streams));
        let watch = async move {
            let _running = running;
            let mut looks = interval((shortest / LOOKS).clamp(FINEST, COARSEST));
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
        let task = runtime.spawn(watch);
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
    }

    /// Stops it where it is.
    pub(super) fn stop(&self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

/// Ends the streams that have met a limit. Returns what it saw of the others.
fn look(
    limits: &TimeLimits,
    streams: &Registry,
    before: &HashMap<StreamId, Seen>,
) -> HashMap<StreamId, Seen> {
    let now = Instant::now();
    let mut seen = HashMap::with_capacity(before.len());
    for stream in streams.all() {
        let here = Seen { progress: stream.progress(), flags: stream.flags(), since: now };
        let here = match before.get(&stream.id()) {
            Some(then) if (then.progress, then.flags) == (here.progress, here.flags) => *then,
            _ => here,
        };
        match met(limits, &stream, here, now) {
            Some(error) => {
                stream.settle(EndSignal::Limit(error), None);
            }
            None => {
                seen.insert(stream.id(), here);
            }
        }
    }
    seen
}

/// The limit that a stream has met.
fn met(limits: &TimeLimits, stream: &StreamState, seen: Seen, now: Instant) -> Option<StreamError> {
    let reached = |limit: Option<Duration>, since: Instant| limit.filter(|limit| now - since >= *limit);
    let opened = stream.opened()?;
    if let Some(limit) = reached(limits.total, opened) {
        return Some(StreamError::Timeout { limit });
    }
    if !stream.has_begun()
        && let Some(limit) = reached(limits.first_chunk, opened)
    {
        return Some(StreamError::FirstChunkTimeout { limit });
    }
    if seen.flags.has(Flags::THROTTLED) {
        return None;
    }
    let has_head = seen.flags.has(Flags::RESPONDED) || seen.flags.has(Flags::HEADLESS);
    if seen.flags.has(Flags::PENDING) || !has_head {
        return reached(limits.idle, seen.since).map(|limit| StreamError::IdleTimeout { limit });
    }
    reached(limits.stalled_reader, seen.since).map(|limit| StreamError::StalledReader { limit })
}
