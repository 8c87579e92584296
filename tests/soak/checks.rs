//! What a run has in common, and what it checks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use fastrand::Rng;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use streaming_accumulator::{
    MemoryBudget, Outcome, StreamError, StreamHandle, StreamRecord, StreamingAccumulatorLayer, Tap,
};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::BUDGET;
use crate::body::SoakBody;
use crate::clients::{Seen, Wants};
use crate::plan::{Fault, Kind, Pattern, Plan, Reader, number};
use crate::support::*;

/// Streams that one run can tell apart.
pub(crate) const MOST_STREAMS: usize = 1 << 23;

/// A set of numbers below [`MOST_STREAMS`].
pub(crate) struct Bits(Box<[AtomicU64]>);

impl Bits {
    pub(crate) fn new() -> Self {
        Self((0..MOST_STREAMS / 64).map(|_| AtomicU64::new(0)).collect())
    }

    /// False if it was in it.
    pub(crate) fn insert(&self, n: u64) -> bool {
        let bit = 1 << (n % 64);
        self.0[n as usize / 64].fetch_or(bit, SeqCst) & bit == 0
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.load(SeqCst).count_ones())).sum()
    }

    pub(crate) fn is_subset_of(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a.load(SeqCst) & !b.load(SeqCst) == 0)
    }
}

/// What a run has in common.
pub(crate) struct Soak {
    pub(crate) seed: u64,
    pub(crate) pattern: Pattern,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) budget: MemoryBudget,
    pub(crate) deadline: Instant,
    /// The number of the next stream.
    pub(crate) next: AtomicU64,
    pub(crate) called: AtomicU64,
    pub(crate) recorded: Bits,
    /// Those that their clients read to the end.
    pub(crate) whole: Bits,
    pub(crate) open_taps: AtomicU64,
    /// The hooks hold what they have.
    pub(crate) stuck: watch::Sender<bool>,
    pub(crate) counts: Counts,
    pub(crate) complaints: Mutex<Vec<String>>,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) whole: AtomicU64,
    pub(crate) left: AtomicU64,
    pub(crate) broken: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) truncated: AtomicU64,
    pub(crate) tapped: AtomicU64,
    pub(crate) missed: AtomicU64,
    /// How often the budget was nearly used up.
    pub(crate) full: AtomicU64,
}

impl Soak {
    /// The inner service.
    pub(crate) fn answer(self: &Arc<Self>, request: &Request<Incoming>) -> Response<SoakBody> {
        self.called.fetch_add(1, Relaxed);
        let stream = request.extensions().get::<StreamHandle>().expect("put there by the layer").clone();
        let plan = Plan::of(self.seed, number(request.uri()), &self.kinds);
        let mut idle = Vec::new();
        for reader in &plan.taps {
            let (Reader::ToTheEnd { waited } | Reader::Leaves { waited, .. } | Reader::Idle { waited }) =
                *reader;
            let tap = if waited { stream.tap().lossless() } else { stream.tap() };
            let most = match reader {
                Reader::ToTheEnd { .. } => u64::MAX,
                Reader::Leaves { after, .. } => *after,
                Reader::Idle { .. } => {
                    idle.push(tap);
                    continue;
                }
            };
            self.open_taps.fetch_add(1, SeqCst);
            let (soak, n, stream) = (Arc::clone(self), plan.n, stream.clone());
            tokio::spawn(async move {
                soak.read(n, tap, most, &stream).await;
                drop(stream);
                soak.open_taps.fetch_sub(1, SeqCst);
            });
        }
        let rng = Rng::with_seed(self.seed.wrapping_add(plan.n));
        Response::new(SoakBody {
            soak: Arc::clone(self),
            plan,
            rng,
            stream,
            buffer: BytesMut::new(),
            at: 0,
            frames: 0,
            ready: false,
            _idle: idle,
        })
    }

    /// Reads a tap, and checks what it reads.
    pub(crate) async fn read(&self, n: u64, mut tap: Tap, most: u64, stream: &StreamHandle) {
        let (mut at, mut chunks, mut fits) = (0, 0, true);
        while chunks < most {
            let Some(chunk) = tap.recv().await else {
                // A chunk on which a limit falls comes in two parts, and what is missed at last is not seen.
                let (seen, all) = (chunks + tap.lagged(), stream.metrics().chunks());
                self.check_that(seen <= all + 1, || format!("a tap of {n} counts {seen} chunks of {all}"));
                self.check_that(tap.outcome().is_some(), || format!("a tap of {n} ends too early"));
                break;
            };
            chunks += 1;
            if tap.lagged() == 0 && fits {
                fits = self.pattern.has(n, at, &chunk.bytes);
                self.check_that(fits, || {
                    format!(
                        "a tap of {n} reads something else at {at}: {:?}",
                        Plan::of(self.seed, n, &self.kinds)
                    )
                });
                at += chunk.bytes.len() as u64;
            }
        }
        self.counts.tapped.fetch_add(chunks, Relaxed);
        self.counts.missed.fetch_add(tap.lagged(), Relaxed);
    }

    /// Checks a record.
    pub(crate) fn check(&self, record: &StreamRecord<u64>) {
        let n = *record.context().expect("every stream has a number");
        self.check_that(self.recorded.insert(n), || format!("a second record of {n}"));
        let plan = Plan::of(self.seed, n, &self.kinds);
        let (pulled, content) = (record.metrics().bytes(), record.content());
        let fits = match record.outcome() {
            Outcome::Completed => pulled == plan.size,
            Outcome::Cancelled => true,
            Outcome::Failed(StreamError::Body(_)) => matches!(plan.fault, Fault::Error(_)),
            Outcome::Failed(StreamError::Backpressure { .. }) => !plan.is_safe(&self.kinds),
            _ => false,
        };
        self.check_that(fits, || format!("{record:?} of {plan:?}"));

        let (kind, len) = (self.kinds[plan.layer], content.len() as u64);
        let complete = content.is_truncated() == (len < pulled);
        self.check_that(complete, || format!("{content:?} of {pulled} bytes of {n}"));
        let bounded = content.len() <= kind.most;
        self.check_that(bounded, || format!("{content:?} of {pulled} bytes for {kind:?}"));
        self.counts.truncated.fetch_add(u64::from(content.is_truncated()), Relaxed);
        // The stream's first bytes, then its last.
        let (mut at, mut in_head) = (0, true);
        for chunk in content.chunks() {
            let chunk = chunk.expect("spilled content is readable");
            in_head &= self.pattern.has(n, at, &chunk);
            let fits = in_head || self.pattern.has(n, pulled - (len - at), &chunk);
            self.check_that(fits, || format!("{n}: other content at {at} of {content:?} of {pulled} bytes"));
            at += chunk.len() as u64;
        }
        self.check_that(at == len, || format!("{n}: {at} bytes of {content:?}"));
    }

    /// Until the time is over, looks at what holds at any moment, and has the hooks fill the budget: they get
    /// stuck while it is nearly empty, until it is nearly full and a while longer.
    pub(crate) async fn press(&self, layers: &[StreamingAccumulatorLayer<u64>]) {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        let mut full = None;
        while !self.is_over() {
            tick.tick().await;
            let used = self.budget.used();
            self.check_that(used <= BUDGET as u64, || format!("{used} bytes of the budget are used"));
            for audit in layers.iter().map(|layer| layer.handle().audit()) {
                // The numbers are not of one moment, but what settled was opened before.
                self.check_that(audit.settled() <= audit.opened(), || format!("{audit:?}"));
            }
            if used < BUDGET as u64 / 4 {
                full = None;
                self.stuck.send_replace(true);
            } else if used > BUDGET as u64 / 8 * 7 {
                full = full.or_else(|| {
                    self.counts.full.fetch_add(1, Relaxed);
                    Some(Instant::now())
                });
            }
            if full.is_some_and(|since| since.elapsed() > Duration::from_millis(50)) {
                self.stuck.send_replace(false);
            }
        }
        self.stuck.send_replace(false);
    }

    pub(crate) fn check_that(&self, holds: bool, complaint: impl FnOnce() -> String) {
        if !holds {
            self.complaints.lock().unwrap().push(complaint());
        }
    }

    /// The numbers of the next streams.
    pub(crate) fn take(&self, streams: usize) -> Vec<u64> {
        let first = self.next.fetch_add(streams as u64, Relaxed);
        (first..first + streams as u64).collect()
    }

    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline || self.next.load(Relaxed) as usize + 1024 > MOST_STREAMS
    }

    /// A client's part of stream `n`.
    pub(crate) async fn receive(
        &self,
        n: u64,
        wants: Wants,
        response: impl Future<Output = hyper::Result<Response<Incoming>>>,
    ) -> Seen {
        let plan = Plan::of(self.seed, n, &self.kinds);
        if wants == Wants::Bytes(0) {
            // Before there is a head, as a rule.
            let _ = tokio::time::timeout(Duration::from_millis(1), response).await;
            return Seen::Left;
        }
        let Ok(response) = within("a head", response).await else {
            return self.broken(&plan, wants, 0);
        };
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            return Seen::Rejected;
        }
        let (mut body, mut at) = (response.into_body(), 0);
        while let Some(frame) = within("a frame", body.frame()).await {
            let Ok(frame) = frame else { return self.broken(&plan, wants, at) };
            let Ok(data) = frame.into_data() else { continue };
            let fits = self.pattern.has(n, at, &data);
            self.check_that(fits, || format!("the client of {n} reads something else at {at}"));
            at += data.len() as u64;
            self.counts.bytes.fetch_add(data.len() as u64, Relaxed);
            if matches!(wants, Wants::Bytes(bytes) if at >= bytes) {
                return Seen::Left;
            }
        }
        self.check_that(at == plan.size, || format!("an end after {at} bytes of {plan:?}"));
        self.whole.insert(n);
        Seen::Whole
    }

    pub(crate) fn broken(&self, plan: &Plan, wants: Wants, at: u64) -> Seen {
        let expected = wants == Wants::Cut || !plan.is_safe(&self.kinds);
        self.check_that(expected, || format!("the client got {at} bytes of {plan:?}"));
        Seen::Broken
    }

    pub(crate) fn count(&self, seen: Seen) {
        let count = match seen {
            Seen::Whole => &self.counts.whole,
            Seen::Left => &self.counts.left,
            Seen::Broken => &self.counts.broken,
            Seen::Rejected => &self.counts.rejected,
        };
        count.fetch_add(1, Relaxed);
    }
}
