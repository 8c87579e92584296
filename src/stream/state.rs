//! One stream's shared state: what the body writes, and what handles read.

use std::fmt;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, fence};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::accumulator::{BufferConfig, BufferWriter, Content, ContentReader, StreamBuffer};
use crate::stream::backpressure::Pressure;
use crate::stream::termination::{Facts, Signal};
use crate::error::StreamError;
use crate::id::StreamId;
use crate::stream::limits::TimeLimits;
use crate::meter::{AnswerHead, Metering};
use crate::stream::meters::{Metered, Meters};
use crate::stream::metrics::StreamMetrics;
use crate::stream::outcome::{Evidence, Outcome};
use crate::stream::stop::StopReason;
use crate::stream::trace::{self, Span};
use crate::stream::notify::Watch;

/// The core of one stream. Written by the one task that polls it, read by any.
pub(crate) struct Pipeline {
    id: StreamId,
    rules: Arc<Rules>,
    request: RequestHead,
    metrics: StreamMetrics,
    capture: StreamBuffer,
    metered: Metered,
    head: OnceLock<ResponseHead>,
    stage: AtomicU8,
    opened: Option<Instant>,
    /// Set once the stream was stopped from outside: the next poll ends it with this, or as if by itself.
    stopped: OnceLock<Option<StreamError>>,
    outcome: OnceLock<Outcome>,
    /// Made when somebody taps the stream.
    watch: OnceLock<Arc<Watch>>,
    body_waker: AtomicWaker,
    /// The token must be born cancelled.
    cancelled: AtomicBool,
    layer_token: CancellationToken,
    /// Made when somebody asks for it.
    token: OnceLock<CancellationToken>,
    span: Span,
}

/// What the streams of one layer have in common.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) keeping: Arc<BufferConfig>,
    pub(crate) pressure: Pressure,
    pub(crate) max_bytes_per_second: Option<u64>,
    pub(crate) limits: TimeLimits,
    /// None where nothing is metered.
    pub(crate) meters: Option<Meters>,
}

/// How far a stream is, as far as that is not counted: a set of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stage(u8);

/// Marks a panic while it lives. Without a panic it does nothing at all.
///
/// `thread::panicking()` would not do: under an outer catch-panic layer the drop of the body comes after
/// the unwinding was caught.
#[must_use]
pub(crate) struct InPoll<'a> {
    stage: &'a AtomicU8,
}

/// What of the request the record keeps.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
}

/// What of the inner response the decision and the record need.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bodiless: bool,
    pub(crate) empty: bool,
    pub(crate) declared: Option<u64>,
    pub(crate) bad_length: Option<Box<str>>,
}

/// Ends a stream: implemented by the exchange, which knows the context and the dispatcher.
pub(crate) trait Settle: Send + Sync {
    /// Decides how the stream ended and hands its record over. The first call wins; `None` for later
    /// ones.
    fn settle(&self, signal: Signal, trailers: Option<&HeaderMap>) -> Option<Settled>;

    /// The handle of the stream that `self` ends.
    fn handle(self: Arc<Self>) -> StreamHandle;
}

/// What whoever settled a stream may have to do next.
pub(crate) struct Settled {
    /// The error with which the layer itself ends the body.
    pub(crate) error: Option<StreamError>,
    /// What the decision rests on.
    pub(crate) evidence: Evidence,
}

/// A live view of one stream.
///
/// The layer puts one into the extensions of each request that it admits; [`Handle::streams`] lists
/// them. It stays usable after the stream's end, with its last numbers, until it is dropped.
///
/// [`Handle::streams`]: crate::Handle::streams
///
/// ```
/// use streaming_accumulator::StreamHandle;
///
/// async fn handler(request: http::Request<()>) {
///     if let Some(stream) = request.extensions().get::<StreamHandle>() {
///         let token = stream.cancellation_token();
///         tokio::spawn(async move {
///             token.cancelled().await; // the client left: stop the work
///         });
///     }
/// }
/// ```
#[derive(Clone)]
pub struct StreamHandle {
    pipeline: Arc<Pipeline>,
    exchange: Weak<dyn Settle>,
}

// === impl Pipeline ===

impl Pipeline {
    pub(crate) fn new(
        id: StreamId,
        rules: &Arc<Rules>,
        request: RequestHead,
        token: &CancellationToken,
        span: Span,
    ) -> Self {
        Self {
            id,
            rules: Arc::clone(rules),
            request,
            metrics: StreamMetrics::start(),
            capture: StreamBuffer::new(&rules.keeping),
            metered: Metered::default(),
            head: OnceLock::new(),
            stage: AtomicU8::new(0),
            opened: rules.limits.any().then(Instant::now),
            stopped: OnceLock::new(),
            outcome: OnceLock::new(),
            watch: OnceLock::new(),
            body_waker: AtomicWaker::new(),
            cancelled: AtomicBool::new(false),
            layer_token: token.clone(),
            token: OnceLock::new(),
            span,
        }
    }

    /// A stream that is no response: it has begun, and its content goes to `reader`.
    pub(crate) fn without_head(
        id: StreamId,
        rules: &Arc<Rules>,
        request: RequestHead,
        reader: &ContentReader,
        token: &CancellationToken,
        span: Span,
    ) -> Self {
        let capture = StreamBuffer::with_reader(&rules.keeping, reader);
        let stage = AtomicU8::new(Stage::HEADLESS.0 | Stage::POLLED.0);
        Self { capture, stage, ..Self::new(id, rules, request, token, span) }
    }

    pub(crate) fn id(&self) -> StreamId {
        self.id
    }

    pub(crate) fn request(&self) -> &RequestHead {
        &self.request
    }

    pub(crate) fn metrics(&self) -> &StreamMetrics {
        &self.metrics
    }

    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    pub(crate) fn head(&self) -> Option<&ResponseHead> {
        self.head.get()
    }

    pub(crate) fn set_head(&self, head: ResponseHead) {
        // There is one response, so it is never set yet.
        let _ = self.head.set(head);
    }

    pub(crate) fn metered(&self) -> &Metered {
        &self.metered
    }

    /// The meter for the response, if one of the layer's takes it.
    pub(crate) fn open_metering(&self) -> Option<Metering> {
        let meters = self.rules.meters.as_ref()?;
        let (set, head) = (meters.set.as_ref()?, self.head().filter(|head| !head.bodiless)?);
        let RequestHead { method, uri, .. } = &self.request;
        let answer = AnswerHead { method, uri, status: head.status, headers: &head.headers };
        catch_unwind(AssertUnwindSafe(|| set.open(&answer, &meters.budget))).unwrap_or_else(|_| {
            trace::callback_panicked(Some(&self.span), "meter");
            None
        })
    }

    /// Has the response metered as it goes by, if the layer does that and has a meter for it.
    pub(crate) fn meter_answer(&self) -> bool {
        let in_body = self.rules.meters.as_ref().is_some_and(|meters| !meters.is_on_worker());
        // A stream that was stopped before its head has its record already.
        if !in_body || self.outcome().is_some() {
            return false;
        }
        let metering = self.open_metering();
        metering.map(|metering| self.metered.meter_answer(metering)).is_some()
    }

    /// Has the request read as it goes by, if the layer does that.
    pub(crate) fn read_request(&self) -> bool {
        let Some(Meters { request: Some(max), budget, .. }) = &self.rules.meters else {
            return false;
        };
        self.metered.read_request(*max, budget);
        true
    }

    /// Runs `f`, the inner service or body, so that a panic in it is told from other drops.
    pub(crate) fn in_poll<T>(&self, f: impl FnOnce() -> T) -> T {
        let entered = self.enter_poll();
        let result = f();
        entered.leave();
        result
    }

    /// As [`in_poll`](Self::in_poll), in two halves: the hot path moves no result through a closure.
    #[inline]
    pub(crate) fn enter_poll(&self) -> InPoll<'_> {
        InPoll { stage: &self.stage }
    }

    #[inline]
    pub(crate) fn set_stage(&self, stage: Stage) {
        self.stage.store(stage.0, Relaxed);
    }

    pub(crate) fn stage(&self) -> Stage {
        Stage(self.stage.load(Relaxed))
    }

    /// The body waits for its readers, or no longer does.
    pub(crate) fn set_gated(&self, gated: bool) {
        if gated {
            self.stage.fetch_or(Stage::GATED.0, SeqCst);
            // Pairs with the one in `reader_advanced`: either the reader's step is seen by the caller, or
            // the reader sees that there is somebody to wake.
            fence(SeqCst);
        } else {
            self.stage.fetch_and(!Stage::GATED.0, SeqCst);
        }
    }

    /// A reader that the body may wait for has come further.
    pub(crate) fn reader_advanced(&self) {
        fence(SeqCst);
        if self.stage().has(Stage::GATED) {
            self.body_waker.wake();
        }
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(crate) fn pressure(&self) -> &Pressure {
        &self.rules.pressure
    }

    /// When the stream opened, where that is needed.
    pub(crate) fn opened(&self) -> Option<Instant> {
        self.opened
    }

    pub(crate) fn capture(&self) -> &StreamBuffer {
        &self.capture
    }

    /// What the stream's readers share.
    pub(crate) fn watch(&self) -> &Arc<Watch> {
        self.watch.get_or_init(|| Arc::new(Watch::new()))
    }

    /// Chunks that the slowest reader that is waited for has not read, or that are not spilled yet; exact
    /// from the mark on. Has `waker` woken when the file comes nearer.
    pub(crate) fn lag(&self, writer: &BufferWriter, waker: &Waker) -> u64 {
        let spill = self.capture.spill_lag(writer, self.pressure().high_water, waker);
        spill.max(self.readers_lag(writer.chunks()))
    }

    /// As [`lag`](Self::lag), of the readers alone, in a stream of so many chunks.
    pub(crate) fn readers_lag(&self, chunks: u64) -> u64 {
        self.watch.get().map_or(0, |watch| watch.lag(chunks, self.pressure().high_water))
    }

    /// The writing end of the capture, for the body.
    pub(crate) fn writer(&self) -> BufferWriter {
        self.capture.writer()
    }

    /// Keeps and counts a chunk that goes on to whoever polls. Returns the time of it, by the metrics' clock;
    /// an empty frame is no chunk.
    #[inline]
    pub(crate) fn record_chunk(&self, writer: &mut BufferWriter, chunk: &Bytes) -> Option<u64> {
        if chunk.is_empty() {
            self.metrics.record_other();
            return None;
        }
        let now = self.metrics.now();
        let watched = self.capture.is_watched();
        let watch = if watched { self.watch.get() } else { None };
        if let Some(watch) = watch {
            self.capture.set_needed(if self.pressure().drops_oldest() { u64::MAX } else { watch.slowest() });
        }
        // Kept before counted, so that whoever sees the count finds the bytes.
        if writer.keeps() {
            self.capture.append(writer, chunk, self.metrics.arrival(now));
        } else if watched {
            if writer.is_idle() {
                self.capture.resume(writer, self.metrics.bytes(), self.metrics.chunks());
            }
            self.capture.append(writer, chunk, self.metrics.arrival(now));
        } else if !writer.is_idle() {
            self.capture.pause(writer);
        }
        self.metrics.record_chunk(chunk.len(), now);
        if let Some(watch) = watch {
            watch.ring();
        }
        Some(now)
    }

    /// Has the response's meter read a chunk, at the time that [`record_chunk`](Self::record_chunk) gave.
    // Out of the way of streams without a meter, which so pay one branch.
    #[cold]
    pub(crate) fn meter_chunk(&self, chunk: &Bytes, now: u64) {
        self.metered.feed_answer(chunk, self.metrics.since_start(now));
    }

    /// What is kept so far.
    pub(crate) fn snapshot(&self) -> Content {
        self.capture.snapshot(self.metrics.bytes())
    }

    /// The facts as they stand, for [`decide`](crate::stream::termination::decide).
    pub(crate) fn facts(&self, signal: Signal) -> Facts {
        let (stage, head) = (self.stage(), self.head());
        let panicked = stage.has(Stage::PANICKED);
        Facts {
            signal,
            has_head: head.is_some() || stage.has(Stage::HEADLESS),
            // The bit is set after the poll: a panic in the first one leaves it unset.
            polled: stage.has(Stage::POLLED) || (panicked && head.is_some()),
            panicked,
            bodiless: head.is_some_and(|head| head.bodiless),
            empty: head.is_some_and(|head| head.empty),
            end_hint: stage.has(Stage::END_HINT),
            declared: head.and_then(|head| head.declared),
            bad_length: head.and_then(|head| head.bad_length.clone()),
            produced: self.metrics.bytes_produced(),
            grpc: None,
            terminated: false,
            in_band: None,
        }
    }

    /// How the body is to end, once the stream was stopped from outside: with an error, or as if by itself.
    #[inline]
    pub(crate) fn stopped(&self) -> Option<&Option<StreamError>> {
        self.stopped.get()
    }

    /// The stream has ended: its readers are told.
    pub(crate) fn set_outcome(&self, outcome: &Outcome) {
        // A stream is settled once.
        let _ = self.outcome.set(outcome.clone());
        self.capture.complete(self.metrics.bytes());
        if let Some(watch) = self.watch.get() {
            watch.close();
        }
    }

    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.get()
    }

    pub(crate) fn stop(&self, error: Option<StreamError>) {
        // A second stop changes nothing: the first cause wins.
        let _ = self.stopped.set(error);
        self.body_waker.wake();
    }

    /// Has `waker` woken by a stop, and while the body is gated by its readers. The caller must look at
    /// [`stopped`](Self::stopped) afterwards.
    pub(crate) fn wake_on_stop(&self, waker: &Waker) {
        self.body_waker.register(waker);
    }

    /// Lets go of the waker, and with it of the task that polled the body: records outlive it.
    pub(crate) fn forget_waker(&self) {
        self.body_waker.take();
    }

    fn token(&self) -> CancellationToken {
        let token = self.token.get_or_init(|| self.layer_token.child_token());
        // Pairs with the fence in `fire_token`: one of the two sees what the other wrote before its own.
        fence(SeqCst);
        if self.cancelled.load(Relaxed) {
            token.cancel();
        }
        token.clone()
    }

    /// Tells everybody who holds a token that the stream did not complete.
    pub(crate) fn fire_token(&self) {
        self.cancelled.store(true, Relaxed);
        fence(SeqCst);
        if let Some(token) = self.token.get() {
            token.cancel();
        }
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("id", &self.id).finish_non_exhaustive()
    }
}

// === impl InPoll ===

impl InPoll<'_> {
    #[inline]
    pub(crate) fn leave(self) {
        mem::forget(self);
    }
}

impl Drop for InPoll<'_> {
    fn drop(&mut self) {
        self.stage.fetch_or(Stage::PANICKED.0, Relaxed);
    }
}

// === impl Stage ===

impl Stage {
    /// The body was polled.
    pub(crate) const POLLED: Self = Self(1);
    /// The inner service or body panicked.
    pub(crate) const PANICKED: Self = Self(1 << 1);
    /// The inner body said that its last frame was its last.
    pub(crate) const END_HINT: Self = Self(1 << 2);
    /// The inner body has nothing at the moment.
    pub(crate) const PENDING: Self = Self(1 << 3);
    /// The body waits for its readers.
    pub(crate) const GATED: Self = Self(1 << 4);
    /// There is no response, and so no head to wait for.
    pub(crate) const HEADLESS: Self = Self(1 << 5);

    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// With the bits of `other` in it, if so.
    #[inline]
    pub(crate) fn and(self, other: Self, set: bool) -> Self {
        if set { Self(self.0 | other.0) } else { self }
    }
}

// === impl StreamHandle ===

impl StreamHandle {
    pub(crate) fn new(pipeline: Arc<Pipeline>, exchange: Weak<dyn Settle>) -> Self {
        Self { pipeline, exchange }
    }

    pub(crate) fn pipeline(&self) -> &Arc<Pipeline> {
        &self.pipeline
    }

    /// The stream's id, which its record will carry.
    pub fn id(&self) -> StreamId {
        self.pipeline.id
    }

    /// The request's method.
    pub fn method(&self) -> &Method {
        &self.pipeline.request.method
    }

    /// The request's URI, query included.
    pub fn uri(&self) -> &Uri {
        &self.pipeline.request.uri
    }

    /// The stream's numbers, live.
    pub fn metrics(&self) -> &StreamMetrics {
        &self.pipeline.metrics
    }

    /// A token that is cancelled when the stream ends in any other way than `Completed`: within
    /// microseconds of the moment at which the server drops the response.
    ///
    /// It is a child of the layer's token. Cancelling the token by hand stops whoever listens to it,
    /// not the stream: for that there is [`cancel`](Self::cancel). It does not fire on completion, so
    /// that work which follows a complete response is not cut off.
    pub fn cancellation_token(&self) -> CancellationToken {
        self.pipeline.token()
    }

    /// What was captured so far.
    pub fn snapshot(&self) -> Content {
        self.pipeline.snapshot()
    }

    /// Stops the stream: its record says `Cancelled`, ended by the layer, and whoever polls the body
    /// next gets [`StreamError::Stopped`].
    ///
    /// The record is settled before this returns, also if nobody polls the body. Before there is a response
    /// the inner service is left to answer (its work can listen to the token); the body of its response
    /// then yields the error at once. Returns false, and
    /// changes nothing, where the stream has ended already or has handed over all that it declared.
    ///
    /// Where a [meter](crate::Builder::meter) has seen the protocol's own end, the stream is `Completed` and its
    /// body ends without an error: this returns false, too. Where it has seen an error inside the stream, that
    /// stands in the record, and in the body, in the place of the stop.
    pub fn cancel(&self) -> bool {
        self.stop(StopReason::Cancelled)
    }

    pub(crate) fn stop(&self, reason: StopReason) -> bool {
        self.end(Signal::Stopped(reason))
    }

    /// Settles the stream from outside of its body, and has the body end with the same error.
    pub(crate) fn end(&self, signal: Signal) -> bool {
        let Some(exchange) = self.exchange.upgrade() else {
            return false;
        };
        let Some(Settled { error, evidence }) = exchange.settle(signal, None) else {
            return false;
        };
        let is_stopped = error.is_some();
        // What follows the protocol's own end may never come: nobody else would end the body then.
        if is_stopped || evidence == Evidence::LogicalEnd {
            self.pipeline.stop(error);
        }
        is_stopped
    }
}

impl fmt::Debug for StreamHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamHandle")
            .field("id", &self.id())
            .field("bytes", &self.metrics().bytes())
            .finish_non_exhaustive()
    }
}
