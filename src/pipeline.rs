//! One stream's shared state: what the body writes, and what handles read.

use std::fmt;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, fence};
use std::sync::{Arc, OnceLock, Weak};

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use tokio_util::sync::CancellationToken;

use crate::accumulator::{CaptureWriter, Capturing, Content};
use crate::ending::{Facts, Signal};
use crate::error::StreamError;
use crate::id::StreamId;
use crate::metrics::StreamMetrics;
use crate::stop::StopReason;
use crate::telemetry::Span;

/// The core of one stream. Written by the one task that polls it, read by any.
pub(crate) struct Pipeline {
    id: StreamId,
    request: RequestHead,
    metrics: StreamMetrics,
    capture: Capturing,
    head: OnceLock<ResponseHead>,
    progress: Progress,
    /// Set once the stream was stopped from outside: the next poll ends it with this.
    stopped: OnceLock<StreamError>,
    body_waker: AtomicWaker,
    layer_token: CancellationToken,
    /// Made when somebody asks for it.
    token: OnceLock<CancellationToken>,
    span: Span,
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

/// The facts that change while the stream runs.
#[derive(Debug, Default)]
struct Progress {
    polled: AtomicBool,
    in_poll: AtomicBool,
    end_hint: AtomicBool,
    /// The token must be born cancelled.
    cancelled: AtomicBool,
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
        request: RequestHead,
        capture: Capturing,
        token: &CancellationToken,
        span: Span,
    ) -> Self {
        Self {
            id,
            request,
            metrics: StreamMetrics::start(),
            capture,
            head: OnceLock::new(),
            progress: Progress::default(),
            stopped: OnceLock::new(),
            body_waker: AtomicWaker::new(),
            layer_token: token.clone(),
            token: OnceLock::new(),
            span,
        }
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

    /// Runs `f`, the inner service or body, so that a panic in it is told from other drops.
    ///
    /// `thread::panicking()` would not do: under an outer catch-panic layer the drop comes after the
    /// unwinding was caught.
    pub(crate) fn in_poll<T>(&self, f: impl FnOnce() -> T) -> T {
        self.enter_poll();
        let result = f();
        self.leave_poll();
        result
    }

    /// As [`in_poll`](Self::in_poll), in two halves: the hot path moves no result through a closure.
    #[inline]
    pub(crate) fn enter_poll(&self) {
        self.progress.in_poll.store(true, Relaxed);
    }

    #[inline]
    pub(crate) fn leave_poll(&self) {
        self.progress.in_poll.store(false, Relaxed);
    }

    #[inline]
    pub(crate) fn set_polled(&self) {
        self.progress.polled.store(true, Relaxed);
    }

    #[inline]
    pub(crate) fn set_end_hint(&self, hint: bool) {
        self.progress.end_hint.store(hint, Relaxed);
    }

    /// The writing end of the capture, for the body.
    pub(crate) fn writer(&self) -> CaptureWriter {
        self.capture.writer()
    }

    /// Keeps and counts a chunk that goes on to whoever polls.
    #[inline]
    pub(crate) fn record_chunk(&self, writer: &mut CaptureWriter, chunk: &Bytes) {
        // Kept before counted, so that whoever sees the count finds the bytes.
        if !chunk.is_empty() {
            self.capture.append(writer, chunk);
        }
        self.metrics.record_frame(chunk.len());
    }

    /// What is kept so far.
    pub(crate) fn snapshot(&self) -> Content {
        // The count is read first: the content is then at least as new.
        let pulled = self.metrics.bytes();
        self.capture.snapshot(pulled)
    }

    /// The facts as they stand, for [`decide`](crate::ending::decide).
    pub(crate) fn facts(&self, signal: Signal) -> Facts {
        let Progress { polled, in_poll, end_hint, cancelled: _ } = &self.progress;
        let head = self.head();
        let in_poll = in_poll.load(Relaxed);
        Facts {
            signal,
            has_head: head.is_some(),
            // `polled` is set after the poll: a panic in the first one leaves it unset.
            polled: polled.load(Relaxed) || (in_poll && head.is_some()),
            in_poll,
            bodiless: head.is_some_and(|head| head.bodiless),
            empty: head.is_some_and(|head| head.empty),
            end_hint: end_hint.load(Relaxed),
            declared: head.and_then(|head| head.declared),
            bad_length: head.and_then(|head| head.bad_length.clone()),
            produced: self.metrics.bytes_produced(),
            grpc: None,
        }
    }

    /// The error with which the body is to end, once the stream was stopped from outside.
    #[inline]
    pub(crate) fn stopped(&self) -> Option<&StreamError> {
        self.stopped.get()
    }

    pub(crate) fn stop(&self, error: StreamError) {
        // A second stop changes nothing: the first cause wins.
        let _ = self.stopped.set(error);
        self.body_waker.wake();
    }

    /// Has `waker` woken by a stop. The caller must look at [`stopped`](Self::stopped) afterwards.
    pub(crate) fn wake_on_stop(&self, waker: &std::task::Waker) {
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
        if self.progress.cancelled.load(Relaxed) {
            token.cancel();
        }
        token.clone()
    }

    /// Tells everybody who holds a token that the stream did not complete.
    pub(crate) fn fire_token(&self) {
        self.progress.cancelled.store(true, Relaxed);
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

// === impl StreamHandle ===

impl StreamHandle {
    pub(crate) fn new(pipeline: Arc<Pipeline>, exchange: Weak<dyn Settle>) -> Self {
        Self { pipeline, exchange }
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
    pub fn cancel(&self) -> bool {
        self.stop(StopReason::Cancelled)
    }

    pub(crate) fn stop(&self, reason: StopReason) -> bool {
        let Some(exchange) = self.exchange.upgrade() else {
            return false;
        };
        let settled = exchange.settle(Signal::Stopped(reason), None);
        let Some(error) = settled.and_then(|settled| settled.error) else {
            return false;
        };
        self.pipeline.stop(error);
        true
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
