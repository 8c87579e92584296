//! Streams at full speed over real connections, with random clients, endings, taps and captures, under one
//! memory budget.
//!
//! Five seconds by default; `SOAK_SECONDS=60 cargo test --release --test soak -- --nocapture` for a minute.
//! Everything that is random follows from one seed, which is printed and can be given as `SOAK_SEED`; how
//! threads take turns does not, so what is asserted holds for every order.

#[path = "../support/heap.rs"]
mod heap;
#[path = "../support/mod.rs"]
mod support;

use std::future::ready;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use streaming_accumulator::{
    Audit, BackpressureStrategy, Capture, MemoryBudget, Outcome, StreamError, StreamHandle, StreamRecord,
    StreamingAccumulatorLayer, Tap, WhenFull,
};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

use support::server::BoxError;
use support::*;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Small enough to be used up many times.
const BUDGET: usize = if cfg!(debug_assertions) { 4 } else { 16 } * MIB;

/// Connections of each protocol.
const CLIENTS: usize = 24;

/// Streams at once on an HTTP/2 connection, at the most.
const AT_ONCE: usize = 4;

/// What upstreams are read into.
const READ_BUFFER: usize = 64 * KIB;

/// Resident memory over that at the start, beside the budget: half as much again as the 43 MiB that were
/// measured over a minute. 25 of these are there with `Capture::none` too: clients and servers of 48
/// connections, their buffers, and what the allocator holds back. Up to 13 are in the pools of five layers,
/// which may keep 7 MiB each that are not charged. The rest are read buffers, which a chunk of 1 KiB or more
/// keeps whole though it is charged alone.
const BESIDE: u64 = 64 * MIB as u64;

/// Bytes on the heap that may be left when layers and servers are gone: what the list of streams has not freed
/// yet.
const LEFT: i64 = 256 * KIB as i64;

/// Streams that one run can tell apart.
const MOST_STREAMS: usize = 1 << 23;

/// The content of every body, from a point that its number tells: a prime number of random bytes, over and
/// over.
struct Pattern(Box<[u8; Self::LEN]>);

/// What happens to one stream, all of it chosen by its number. Its client's part is not in it.
#[derive(Clone, Debug)]
struct Plan {
    n: u64,
    layer: usize,
    size: u64,
    largest_chunk: usize,
    fault: Fault,
    taps: Vec<Reader>,
    /// The body says how long it is.
    exact: bool,
    /// The body is not ready once every this many frames.
    pauses: u64,
}

/// What ends a stream early, after a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// The body fails.
    Error(u64),
    /// Somebody cancels the stream, and may come too late.
    Cancel(u64),
}

/// What a tap does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reader {
    ToTheEnd {
        waited: bool,
    },
    /// It is dropped after `after` chunks.
    Leaves {
        waited: bool,
        after: u64,
    },
    /// It is held as long as the body and never read.
    Idle {
        waited: bool,
    },
}

/// One layer's settings.
#[derive(Clone, Copy, Debug)]
struct Kind {
    capture: Capture,
    /// Bytes that the capture may hold.
    most: usize,
    strategy: BackpressureStrategy,
    buffer_limit: usize,
    when_full: WhenFull,
}

/// The body of a stream that follows its plan.
struct SoakBody {
    soak: Arc<Soak>,
    plan: Plan,
    rng: Rng,
    stream: StreamHandle,
    buffer: BytesMut,
    at: u64,
    frames: u64,
    ready: bool,
    _idle: Vec<Tap>,
}

/// How much of a stream a client wants.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wants {
    All,
    /// It leaves after this number of bytes.
    Bytes(u64),
    /// Its connection goes at any moment.
    Cut,
}

/// How a client's request ended for it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    Whole,
    Left,
    Broken,
    Rejected,
}

/// What a run has in common.
struct Soak {
    seed: u64,
    pattern: Pattern,
    kinds: Vec<Kind>,
    budget: MemoryBudget,
    deadline: Instant,
    /// The number of the next stream.
    next: AtomicU64,
    called: AtomicU64,
    recorded: Bits,
    /// Those that their clients read to the end.
    whole: Bits,
    open_taps: AtomicU64,
    /// The hooks hold what they have.
    stuck: watch::Sender<bool>,
    counts: Counts,
    complaints: Mutex<Vec<String>>,
}

#[derive(Debug, Default)]
struct Counts {
    whole: AtomicU64,
    left: AtomicU64,
    broken: AtomicU64,
    rejected: AtomicU64,
    bytes: AtomicU64,
    truncated: AtomicU64,
    tapped: AtomicU64,
    missed: AtomicU64,
    /// How often the budget was nearly used up.
    full: AtomicU64,
}

/// Spawns a client's tasks, and can end them at once.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<Vec<AbortHandle>>>);

/// A set of numbers below [`MOST_STREAMS`].
struct Bits(Box<[AtomicU64]>);

// === impl Pattern ===

impl Pattern {
    /// The length after which it repeats.
    const PERIOD: usize = 65_521;
    const LEN: usize = 2 * Self::PERIOD;

    fn new(rng: &mut Rng) -> Self {
        let period: Vec<u8> = (0..Self::PERIOD).map(|_| rng.u8(..)).collect();
        let twice = period.iter().chain(&period).copied().collect::<Vec<u8>>();
        Self(twice.into_boxed_slice().try_into().expect("of that length"))
    }

    /// At most `most` bytes of stream `n` from `at` on.
    fn from(&self, n: u64, at: u64, most: usize) -> &[u8] {
        let start = ((n.wrapping_mul(7919) + at) % Self::PERIOD as u64) as usize;
        &self.0[start..start + most.min(Self::PERIOD)]
    }

    /// Whether `bytes` are those of stream `n` at `at`.
    fn has(&self, n: u64, at: u64, bytes: &[u8]) -> bool {
        let mut at = at;
        bytes.chunks(Self::PERIOD).all(|bytes| {
            let found = self.from(n, at, bytes.len()) == bytes;
            at += bytes.len() as u64;
            found
        })
    }
}

// === impl Plan ===

impl Plan {
    fn of(seed: u64, n: u64, kinds: &[Kind]) -> Self {
        let mut rng = Rng::with_seed(seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let layer = rng.usize(..kinds.len());
        let largest_chunk = *rng.choice(&[40, 200, 1000, 1500, 6000, 20_000]).expect("not empty");
        // As many short ones as long ones, and no more frames than take a moment.
        let doubled = rng.u32(0..22);
        let size = rng.u64(0..1 << doubled).min(largest_chunk as u64 * 1000);
        let somewhere = rng.u64(0..size.max(1));
        let fault = match rng.u8(..8) {
            0 => Fault::Error(somewhere),
            1 => Fault::Cancel(somewhere),
            _ => Fault::None,
        };
        let taps = if rng.u8(..3) == 0 { rng.usize(1..4) } else { 0 };
        // One that is waited for and never reads holds an adaptive stream for ever, as it should.
        let may_hang = matches!(kinds[layer].strategy, BackpressureStrategy::Adaptive { .. });
        let taps = (0..taps).map(|_| {
            let waited = rng.bool();
            match rng.u8(..4) {
                0 => Reader::Idle { waited: waited && !may_hang },
                1 => Reader::Leaves { waited, after: rng.u64(0..100) },
                _ => Reader::ToTheEnd { waited },
            }
        });
        let taps = taps.collect();
        Self { n, layer, size, largest_chunk, fault, taps, exact: rng.u8(..3) == 0, pauses: rng.u64(2..50) }
    }

    /// Whether a client that stays gets every byte.
    fn is_safe(&self, kinds: &[Kind]) -> bool {
        let waited = self.taps.iter().any(|tap| match tap {
            Reader::ToTheEnd { waited } | Reader::Leaves { waited, .. } | Reader::Idle { waited } => *waited,
        });
        let ends_it = matches!(
            kinds[self.layer].strategy,
            BackpressureStrategy::Reject | BackpressureStrategy::Block(_)
        );
        self.fault == Fault::None && !(waited && ends_it)
    }
}

// === impl Kind ===

impl Kind {
    /// One of each kind, of random sizes.
    fn all(rng: &mut Rng) -> Vec<Self> {
        let adaptive = BackpressureStrategy::Adaptive {
            initial_delay: Duration::from_micros(100),
            max_delay: Duration::from_millis(2),
            multiplier: 2.0,
        };
        let block = BackpressureStrategy::Block(Duration::from_millis(5));
        let [small, large] = [rng.usize(2..9) * KIB, rng.usize(1024..4096) * KIB];
        let [head, tail, only_tail] = [4..33, 4..33, 8..129].map(|sizes| rng.usize(sizes) * KIB);
        let kind = |capture, most, strategy, buffer_limit, when_full| Self {
            capture,
            most,
            strategy,
            buffer_limit,
            when_full,
        };
        vec![
            kind(Capture::all(small), small, adaptive, 64, WhenFull::Wait),
            kind(Capture::all(large), large, BackpressureStrategy::Reject, 256, WhenFull::Reject),
            kind(Capture::tail(only_tail), only_tail, BackpressureStrategy::DropOldest, 32, WhenFull::Wait),
            kind(Capture::head_tail(head, tail), head + tail, block, 16, WhenFull::Wait),
            kind(Capture::none(), 0, adaptive, 1024, WhenFull::Wait),
        ]
    }

    fn layer(&self, soak: &Arc<Soak>) -> StreamingAccumulatorLayer<u64> {
        let checker = Arc::clone(soak);
        StreamingAccumulatorLayer::builder()
            .context(|parts| number(&parts.uri))
            .capture(self.capture)
            .memory_budget(&soak.budget)
            .backpressure(self.strategy)
            .buffer_limit(self.buffer_limit)
            .when_full(self.when_full)
            .on_end(move |record| {
                let soak = Arc::clone(&checker);
                async move {
                    soak.check(&record);
                    // It never fails: the sender is in the soak.
                    let _ = soak.stuck.subscribe().wait_for(|stuck| !stuck).await;
                }
            })
            .build()
            .unwrap()
    }
}

fn number(uri: &http::Uri) -> u64 {
    uri.path().trim_start_matches('/').parse().expect("the number of a stream")
}

// === impl SoakBody ===

impl Body for SoakBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Plan { n, size, fault, pauses, largest_chunk, .. } = this.plan;
        match fault {
            Fault::Error(at) if this.at >= at => return Poll::Ready(Some(Err("planned".into()))),
            Fault::Cancel(at) if this.at >= at => {
                this.plan.fault = Fault::None;
                let stream = this.stream.clone();
                tokio::spawn(async move { stream.cancel() });
            }
            _ => {}
        }
        if this.at == size {
            return Poll::Ready(None);
        }
        if this.ready && this.frames % pauses == pauses - 1 {
            this.ready = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.ready = true;
        this.frames += 1;
        if this.buffer.is_empty() {
            let len = READ_BUFFER.min((size - this.at) as usize);
            this.buffer = BytesMut::from(this.soak.pattern.from(n, this.at, len));
        }
        let len = this.rng.usize(1..=largest_chunk).min(this.buffer.len());
        this.at += len as u64;
        Poll::Ready(Some(Ok(Frame::data(this.buffer.split_to(len).freeze()))))
    }

    fn size_hint(&self) -> SizeHint {
        if self.plan.exact { SizeHint::with_exact(self.plan.size - self.at) } else { SizeHint::default() }
    }
}

// === impl Soak ===

impl Soak {
    /// The inner service.
    fn answer(self: &Arc<Self>, request: &Request<Incoming>) -> Response<SoakBody> {
        self.called.fetch_add(1, Relaxed);
        let stream = request.extensions().get::<StreamHandle>().expect("put there by the layer").clone();
        let plan = Plan::of(self.seed, number(request.uri()), &self.kinds);
        let mut idle = Vec::new();
        for reader in &plan.taps {
            let (Reader::ToTheEnd { waited } | Reader::Leaves { waited, .. } | Reader::Idle { waited }) =
                *reader;
            let tap = if waited { stream.tap().waited() } else { stream.tap() };
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
    async fn read(&self, n: u64, mut tap: Tap, most: u64, stream: &StreamHandle) {
        let (mut at, mut chunks, mut fits) = (0, 0, true);
        while chunks < most {
            let Some(chunk) = tap.recv().await else {
                // A chunk on which a limit falls comes in two parts, and what is missed at last is not seen.
                let (seen, all) = (chunks + tap.missed(), stream.metrics().chunks());
                self.check_that(seen <= all + 1, || format!("a tap of {n} counts {seen} chunks of {all}"));
                self.check_that(tap.outcome().is_some(), || format!("a tap of {n} ends too early"));
                break;
            };
            chunks += 1;
            if tap.missed() == 0 && fits {
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
        self.counts.missed.fetch_add(tap.missed(), Relaxed);
    }

    /// Checks a record.
    fn check(&self, record: &StreamRecord<u64>) {
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
            in_head &= self.pattern.has(n, at, &chunk);
            let fits = in_head || self.pattern.has(n, pulled - (len - at), &chunk);
            self.check_that(fits, || format!("{n}: other content at {at} of {content:?} of {pulled} bytes"));
            at += chunk.len() as u64;
        }
        self.check_that(at == len, || format!("{n}: {at} bytes of {content:?}"));
    }

    /// Until the time is over, looks at what holds at any moment, and has the hooks fill the budget: they get
    /// stuck while it is nearly empty, until it is nearly full and a while longer.
    async fn press(&self, layers: &[StreamingAccumulatorLayer<u64>]) {
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

    fn check_that(&self, holds: bool, complaint: impl FnOnce() -> String) {
        if !holds {
            self.complaints.lock().unwrap().push(complaint());
        }
    }

    /// The numbers of the next streams.
    fn take(&self, streams: usize) -> Vec<u64> {
        let first = self.next.fetch_add(streams as u64, Relaxed);
        (first..first + streams as u64).collect()
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.deadline || self.next.load(Relaxed) as usize + 1024 > MOST_STREAMS
    }

    /// A client's part of stream `n`.
    async fn receive(
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

    fn broken(&self, plan: &Plan, wants: Wants, at: u64) -> Seen {
        let expected = wants == Wants::Cut || !plan.is_safe(&self.kinds);
        self.check_that(expected, || format!("the client got {at} bytes of {plan:?}"));
        Seen::Broken
    }

    fn count(&self, seen: Seen) {
        let count = match seen {
            Seen::Whole => &self.counts.whole,
            Seen::Left => &self.counts.left,
            Seen::Broken => &self.counts.broken,
            Seen::Rejected => &self.counts.rejected,
        };
        count.fetch_add(1, Relaxed);
    }
}

fn request(n: u64) -> Request<Empty<Bytes>> {
    Request::get(format!("http://a/{n}")).body(Empty::new()).unwrap()
}

/// One request after the other, over as few connections as it can.
async fn h1_client(soak: Arc<Soak>, addr: SocketAddr, mut rng: Rng) {
    let mut connection = None;
    while !soak.is_over() {
        let (mut requests, driver) = match connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(addr).await.unwrap();
                let (requests, driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
                (requests, tokio::spawn(driver))
            }
        };
        if within("the connection", requests.ready()).await.is_err() {
            continue;
        }
        let n = soak.take(1)[0];
        let seen = soak.receive(n, Wants::some(&mut rng), requests.send_request(request(n))).await;
        soak.count(seen);
        match seen {
            Seen::Whole | Seen::Rejected => connection = Some((requests, driver)),
            Seen::Left | Seen::Broken => driver.abort(),
        }
    }
}

/// A few requests at once over one connection, which goes in the end: sometimes while they run.
async fn h2_client(soak: Arc<Soak>, addr: SocketAddr, mut rng: Rng) {
    while !soak.is_over() {
        let stream = TcpStream::connect(addr).await.unwrap();
        let tasks = Tasks::default();
        let (requests, driver) = http2::handshake(tasks.clone(), TokioIo::new(stream)).await.unwrap();
        tasks.execute(async { drop(driver.await) });
        let mut rounds = rng.usize(1..30);
        while rounds > 0 && !soak.is_over() {
            rounds -= 1;
            let cut = rounds == 0 && rng.bool();
            let mut streams = JoinSet::new();
            for n in soak.take(rng.usize(1..=AT_ONCE)) {
                let (soak, mut requests) = (Arc::clone(&soak), requests.clone());
                let wants = if cut { Wants::Cut } else { Wants::some(&mut rng) };
                streams.spawn(async move {
                    let seen = soak.receive(n, wants, requests.send_request(request(n))).await;
                    soak.count(seen);
                });
            }
            if cut {
                tokio::time::sleep(Duration::from_micros(rng.u64(0..5000))).await;
                tasks.abort();
            }
            streams.join_all().await;
        }
        tasks.abort();
    }
}

// === impl Wants ===

impl Wants {
    fn some(rng: &mut Rng) -> Self {
        let most = 1 << rng.u32(0..18);
        if rng.u8(..4) == 0 { Self::Bytes(rng.u64(0..most)) } else { Self::All }
    }
}

// === impl Tasks ===

impl Tasks {
    fn abort(&self) {
        self.0.lock().unwrap().iter().for_each(AbortHandle::abort);
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.lock().unwrap().push(tokio::spawn(future).abort_handle());
    }
}

// === impl Bits ===

impl Bits {
    fn new() -> Self {
        Self((0..MOST_STREAMS / 64).map(|_| AtomicU64::new(0)).collect())
    }

    /// False if it was in it.
    fn insert(&self, n: u64) -> bool {
        let bit = 1 << (n % 64);
        self.0[n as usize / 64].fetch_or(bit, SeqCst) & bit == 0
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.load(SeqCst).count_ones())).sum()
    }

    fn is_subset_of(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a.load(SeqCst) & !b.load(SeqCst) == 0)
    }
}

/// A line of `/proc/self/status`, in bytes; resident memory is `VmRSS`, its peak `VmHWM`.
fn status(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_speed_loses_nothing_within_bounded_memory() {
    let (seed, seconds) = (setting("SOAK_SEED", 0x5eed), setting("SOAK_SECONDS", 5));
    println!("SOAK_SEED={seed} SOAK_SECONDS={seconds}");
    let mut rng = Rng::with_seed(seed);
    let soak = Arc::new(Soak {
        seed,
        pattern: Pattern::new(&mut rng),
        kinds: Kind::all(&mut rng),
        budget: MemoryBudget::new(BUDGET),
        deadline: Instant::now() + Duration::from_secs(seconds),
        next: AtomicU64::new(0),
        called: AtomicU64::new(0),
        recorded: Bits::new(),
        whole: Bits::new(),
        open_taps: AtomicU64::new(0),
        stuck: watch::Sender::new(false),
        counts: Counts::default(),
        complaints: Mutex::default(),
    });
    soak.kinds.iter().for_each(|kind| println!("{kind:?}"));
    let layers: Vec<_> = soak.kinds.iter().map(|kind| kind.layer(&soak)).collect();
    let answering = Arc::clone(&soak);
    let inner = tower::service_fn(move |request: Request<Incoming>| {
        ready(Ok::<_, BoxError>(answering.answer(&request)))
    });
    let stacks: Vec<_> = layers.iter().map(|layer| layer.layer(inner.clone())).collect();
    let routing = Arc::clone(&soak);
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let plan = Plan::of(routing.seed, number(request.uri()), &routing.kinds);
        stacks[plan.layer].clone().oneshot(request)
    });
    let (h1, h2) = (serve(Options::h1(), service.clone()).await, serve(Options::h2(), service.clone()).await);

    let (start, heap) = (status("VmRSS"), heap::live());
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(h1_client(Arc::clone(&soak), h1.addr, rng.fork()));
        clients.spawn(h2_client(Arc::clone(&soak), h2.addr, rng.fork()));
    }
    soak.press(&layers).await;
    clients.join_all().await;
    h1.all_closed().await;
    h2.all_closed().await;
    let quiet = || {
        let audits: Vec<_> = layers.iter().map(|layer| layer.handle().audit()).collect();
        let over = audits.iter().all(|audit| audit.in_flight() == 0 && audit.hooks()[0].queued() == 0);
        over && soak.open_taps.load(SeqCst) == 0
    };
    until("the last record and the last tap", quiet).await;
    until("the budget to be whole again", || soak.budget.used() == 0).await;

    let audits: Vec<_> = layers.iter().map(|layer| layer.handle().audit()).collect();
    let sum = |count: fn(&Audit) -> u64| audits.iter().map(count).sum::<u64>();
    let (opened, settled) = (sum(Audit::opened), sum(Audit::settled));
    println!("{:#?}\npeak of the budget: {:.1} MiB", soak.counts, in_mib(soak.budget.peak()));
    println!(
        "{opened} streams: {} completed, {} cancelled, {} failed; {} rejected, {} abandoned",
        sum(Audit::completed),
        sum(Audit::cancelled),
        sum(Audit::failed),
        sum(Audit::rejected),
        sum(Audit::abandoned)
    );
    let complaints = std::mem::take(&mut *soak.complaints.lock().unwrap());
    let first: Vec<_> = complaints.iter().take(10).collect();
    assert!(complaints.is_empty(), "{} complaints, the first are {first:#?}", complaints.len());
    assert!(audits.iter().all(Audit::is_balanced), "{audits:#?}");
    assert_eq!((opened, soak.called.load(SeqCst), soak.recorded.len()), (settled, settled, settled));
    assert_eq!(sum(|audit| audit.hooks()[0].delivered()), settled);
    assert!(soak.whole.is_subset_of(&soak.recorded), "whoever got a whole answer is on record");
    assert!(soak.counts.whole.load(SeqCst) > 0);
    assert!(soak.budget.peak() <= BUDGET as u64);

    drop((service, layers, h1, h2));
    println!(
        "heap: {:.2} MiB at the start, {:.2} at the end",
        in_mib(heap as u64),
        in_mib(heap::live() as u64)
    );
    until("the heap to be as it was", || heap::live() < heap + LEFT).await;
    println!("heap: {:.2} MiB when all is gone", in_mib(heap::live() as u64));
    match (start, status("VmHWM")) {
        (Some(start), Some(peak)) => {
            println!("resident: {:.1} MiB at the start, {:.1} at the most", in_mib(start), in_mib(peak));
            assert!(peak <= start + BUDGET as u64 + BESIDE, "{peak} from {start}");
        }
        _ => println!("resident memory is not looked at: /proc/self/status is not there"),
    }
}

fn in_mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}
