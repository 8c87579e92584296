//! The state of one stream: written by the task that polls its body, read by any.

use std::fmt;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Waker;
use std::time::SystemTime;

use bytes::Bytes;
#[cfg(feature = "llm")]
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backpressure::BackpressureConfig;
use super::error::StreamError;
use super::head::{RequestHead, ResponseFacts};
use super::limits::TimeLimits;
#[cfg(feature = "llm")]
use super::meters::MeterSlots;
use super::metrics::{Passage, StreamMetrics};
use super::notify::{BodyWaker, Readers};
use super::outcome::Outcome;
use super::record::EndedStream;
#[cfg(feature = "llm")]
use super::report::open_meter;
use super::termination::EndSignal;
use super::trace::Span;
use crate::accumulator::{BufferConfig, BufferWriter, Content, MemoryBudget, StreamBuffer};
use crate::id::StreamId;
#[cfg(feature = "llm")]
use crate::meter::MeterSet;

/// The state of one stream.
pub(crate) struct StreamState {
    id: StreamId,
    config: Arc<StreamConfig>,
    request: RequestHead,
    metrics: StreamMetrics,
    buffer: StreamBuffer,
    #[cfg(feature = "llm")]
    meters: MeterSlots,
    flags: AtomicU8,
    /// `None` where the layer has no time limits.
    opened: Option<Instant>,
    pub(super) ending: Mutex<Ending>,
    /// How the body is to end, once somebody else ended the stream: with an error, or as if by itself.
    pub(super) closing: OnceLock<Option<StreamError>>,
    pub(super) outcome: OnceLock<Outcome>,
    /// Made when somebody reads the stream, or waits for its end.
    readers: OnceLock<Arc<Readers>>,
    body_waker: BodyWaker,
    /// The token is to be made cancelled.
    cancelled: AtomicBool,
    /// Made when somebody asks for it.
    token: OnceLock<CancellationToken>,
    span: Span,
}

/// What the streams of one layer have in common.
#[derive(Debug)]
pub(crate) struct StreamConfig {
    pub(crate) buffer: Arc<BufferConfig>,
    pub(crate) backpressure: BackpressureConfig,
    pub(crate) max_bytes_per_second: Option<u64>,
    pub(crate) limits: TimeLimits,
    pub(crate) budget: MemoryBudget,
    /// `None` where nothing is metered.
    #[cfg(feature = "llm")]
    pub(crate) meters: Option<Arc<MeterSet>>,
    /// The parent of each stream's token.
    pub(crate) token: CancellationToken,
}

/// What is called with a stream that has ended.
pub(crate) type OnEnd = Box<dyn FnOnce(EndedStream) + Send>;

/// What a stream needs for its record, until it is taken for that.
pub(super) struct Ending {
    pub(super) stage: Stage,
    pub(super) response: Option<ResponseFacts>,
}

/// How far a stream is from its end.
pub(super) enum Stage {
    /// Its context is being made. A stop that comes meanwhile waits for that.
    Opening(Option<EndSignal>),
    Open(OnEnd),
    Ended,
}

/// What is known of a stream's progress beside its counts: a set of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags(u8);

// === impl StreamState ===

impl StreamState {
    /// A stream that opens at `now`.
    pub(crate) fn new(
        id: StreamId,
        now: SystemTime,
        config: &Arc<StreamConfig>,
        request: RequestHead,
        span: Span,
    ) -> Self {
        Self {
            id,
            config: Arc::clone(config),
            request,
            metrics: StreamMetrics::start(now),
            buffer: StreamBuffer::new(&config.buffer),
            #[cfg(feature = "llm")]
            meters: MeterSlots::default(),
            flags: AtomicU8::new(0),
            opened: config.limits.any().then(Instant::now),
            ending: Mutex::new(Ending { stage: Stage::Opening(None), response: None }),
            closing: OnceLock::new(),
            outcome: OnceLock::new(),
            readers: OnceLock::new(),
            body_waker: BodyWaker::one(),
            cancelled: AtomicBool::new(false),
            token: OnceLock::new(),
            span,
        }
    }

    /// A stream that is not a response: it has begun, and many producers wait where a body would.
    pub(crate) fn without_head(
        id: StreamId,
        now: SystemTime,
        config: &Arc<StreamConfig>,
        request: RequestHead,
        span: Span,
    ) -> Self {
        Self {
            // Pending: as long as nobody pushes, it waits for its upstream.
            flags: AtomicU8::new(Flags::HEADLESS.0 | Flags::PENDING.0),
            body_waker: BodyWaker::many(),
            ..Self::new(id, now, config, request, span)
        }
    }

    pub(crate) fn id(&self) -> StreamId {
        self.id
    }

    pub(crate) fn config(&self) -> &StreamConfig {
        &self.config
    }

    pub(crate) fn request(&self) -> &RequestHead {
        &self.request
    }

    pub(crate) fn metrics(&self) -> &StreamMetrics {
        &self.metrics
    }

    pub(crate) fn buffer(&self) -> &StreamBuffer {
        &self.buffer
    }

    #[cfg(feature = "llm")]
    pub(crate) fn meters(&self) -> &MeterSlots {
        &self.meters
    }

    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// When the stream opened, where the layer has time limits.
    pub(crate) fn opened(&self) -> Option<Instant> {
        self.opened
    }

    /// The inner service has answered.
    pub(crate) fn set_response(&self, response: ResponseFacts) {
        self.set_flags(Flags::RESPONDED);
        // Nothing can panic under this lock.
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).response = Some(response);
    }

    /// Opens the meter for a response, if the layer has one and the response is metered as it goes by.
    #[cfg(feature = "llm")]
    pub(crate) fn open_meter(&self, response: &ResponseFacts) -> bool {
        let Some(meters) = self.config.meters.as_deref().filter(|meters| !meters.is_on_worker()) else {
            return false;
        };
        // A stream that was stopped before its head has its record already.
        if self.outcome().is_some() {
            return false;
        }
        let meter = open_meter(meters, &self.config.budget, &self.request, response);
        let content_type = response.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let has_events = content_type.to_ascii_lowercase().starts_with(b"text/event-stream")
            && !response.headers.contains_key(CONTENT_ENCODING);
        meter.map(|meter| self.meters.set_response(meter, has_events)).is_some()
    }

    /// Reads the request as it streams through; of it, at most `max` bytes are kept.
    #[cfg(feature = "llm")]
    pub(crate) fn read_request(&self, max: usize) {
        self.meters.read_request(max, &self.config.budget);
    }

    /// A number that changes whenever the stream gets on: its frames, or, where a meter reads server-sent events, its
    /// chunks that hold more than comments.
    pub(crate) fn progress(&self) -> u64 {
        #[cfg(feature = "llm")]
        if let Some(progress) = self.meters.progress() {
            return progress;
        }
        self.metrics.frames()
    }

    /// Whether there was a first chunk, or, where a meter reads server-sent events, a first one with more than comments.
    pub(crate) fn has_begun(&self) -> bool {
        #[cfg(feature = "llm")]
        if let Some(progress) = self.meters.progress() {
            return progress > 0;
        }
        self.metrics.chunks() > 0
    }

    // --- the body's side

    /// Marks that the inner service or body runs, until [`leave_poll`](Self::leave_poll). If it panics, the mark stays.
    ///
    /// `thread::panicking()` would not do: under an outer catch-panic layer the drop of the body comes after the
    /// unwinding was caught.
    #[inline]
    pub(crate) fn enter_poll(&self) {
        self.set_flags(self.flags().with(Flags::POLLING));
    }

    /// The inner service or body has returned; `flags` says what is known now.
    #[inline]
    pub(crate) fn leave_poll(&self, flags: Flags) {
        self.set_flags(flags);
    }

    fn set_flags(&self, flags: Flags) {
        self.flags.store(flags.0, Relaxed);
    }

    pub(crate) fn flags(&self) -> Flags {
        Flags(self.flags.load(Relaxed))
    }

    /// The body waits for its readers or its pace, or no longer does.
    pub(crate) fn set_throttled(&self, throttled: bool) {
        if throttled {
            self.flags.fetch_or(Flags::THROTTLED.0, SeqCst);
            // SeqCst: pairs with the fence in `reader_advanced`. Either the caller sees the reader's step, or the
            // reader sees that there is somebody to wake.
            fence(SeqCst);
        } else {
            self.flags.fetch_and(!Flags::THROTTLED.0, SeqCst);
        }
    }

    /// Keeps and counts a chunk, which is not empty and goes on to whoever polls, and has it metered if `metered`.
    /// False where the stream was ended meanwhile: then it is not counted and must not go on.
    #[inline]
    pub(crate) fn pass_chunk(
        &self,
        writer: &mut BufferWriter,
        chunk: &Bytes,
        hint: bool,
        metered: bool,
    ) -> bool {
        let now = self.metrics.now();
        // Kept before it is counted, so that whoever sees the count finds the bytes.
        self.keep(writer, chunk, now);
        let pass = || self.metrics.pass_chunk(chunk.len(), now, hint);
        #[cfg(feature = "llm")]
        let passage = if metered {
            self.meters.pass_and_feed(chunk, self.metrics.since_start(now), pass)
        } else {
            pass()
        };
        #[cfg(not(feature = "llm"))]
        let passage = {
            let _ = metered;
            pass()
        };
        match passage {
            Passage::Counted { tapped: false } => true,
            Passage::Counted { tapped: true } => {
                self.readers().ring();
                true
            }
            Passage::Closed => false,
        }
    }

    #[inline]
    fn keep(&self, writer: &mut BufferWriter, chunk: &Bytes, now: u64) {
        let tapped = self.buffer.is_watched();
        if tapped {
            let lossless = !self.config.backpressure.drops_oldest();
            self.buffer.set_needed(if lossless { self.readers().slowest() } else { u64::MAX });
        }
        if !writer.keeps() {
            if !tapped {
                if !writer.is_idle() {
                    self.buffer.pause(writer);
                }
                return;
            }
            if writer.is_idle() {
                self.buffer.resume(writer, self.metrics.bytes(), self.metrics.chunks());
            }
        }
        self.buffer.append(writer, chunk, self.metrics.arrival(now));
    }

    /// Whether the stream was ended: how its body is to end.
    #[inline]
    pub(crate) fn closing(&self) -> Option<&Option<StreamError>> {
        self.closing.get()
    }

    /// Wakes `waker` when the stream is ended from outside, and when a reader advances while the body is throttled.
    /// The caller must look at [`closing`](Self::closing) and at the readers afterwards.
    pub(crate) fn wake_on_change(&self, waker: &Waker) {
        self.body_waker.register(waker);
    }

    /// Wakes the body, or the producers. Their wakers are foreign code, whose panics go no further.
    pub(crate) fn wake_body(&self) {
        self.body_waker.wake();
    }

    /// Lets go of the waker, and with it of the task that polled the body.
    pub(crate) fn forget_waker(&self) {
        self.body_waker.take();
    }

    // --- the readers' side

    /// What the stream's readers share.
    pub(crate) fn readers(&self) -> &Arc<Readers> {
        self.readers.get_or_init(Arc::default)
    }

    /// As [`readers`](Self::readers), if there ever was one.
    pub(crate) fn some_readers(&self) -> Option<&Arc<Readers>> {
        self.readers.get()
    }

    /// Counts a reader in or out.
    pub(crate) fn count_reader(&self, come: bool) {
        self.readers().count(come, |any| {
            self.buffer.set_watched(any);
            self.metrics.set_tapped(any);
        });
    }

    /// A reader that the body may wait for has come further.
    pub(crate) fn reader_advanced(&self) {
        // SeqCst: pairs with the fence in `set_throttled`.
        fence(SeqCst);
        if self.flags().has(Flags::THROTTLED) {
            self.wake_body();
        }
    }

    /// How many of the `chunks` so far the slowest lossless reader has not read: exact from the mark on.
    pub(crate) fn reader_lag(&self, chunks: u64) -> u64 {
        self.readers.get().map_or(0, |readers| readers.lag(chunks, self.config.backpressure.high_water))
    }

    /// As [`reader_lag`](Self::reader_lag), or chunks that are not spilled yet, if these are more. Wakes `waker` when
    /// the file comes nearer.
    pub(crate) fn lag(&self, writer: &BufferWriter, waker: &Waker) -> u64 {
        let spill = self.buffer.spill_lag(writer, self.config.backpressure.high_water, waker);
        spill.max(self.reader_lag(writer.chunks()))
    }

    /// What is kept so far of the bytes that were counted.
    pub(crate) fn snapshot(&self) -> Content {
        self.buffer.snapshot(self.metrics.bytes())
    }

    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.get()
    }

    /// The stream's token.
    pub(crate) fn token(&self) -> CancellationToken {
        let token = self.token.get_or_init(|| self.config.token.child_token());
        // SeqCst: pairs with the fence in `cancel_token`. One of the two sees what the other wrote before its own.
        fence(SeqCst);
        if self.cancelled.load(Relaxed) {
            token.cancel();
        }
        token.clone()
    }

    /// Cancels the token, also one that is made later. Runs the wakers of whoever waits for it.
    pub(super) fn cancel_token(&self) {
        self.cancelled.store(true, Relaxed);
        fence(SeqCst);
        if let Some(token) = self.token.get() {
            token.cancel();
        }
    }
}

impl fmt::Debug for StreamState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamState").field("id", &self.id).finish_non_exhaustive()
    }
}

// === impl Flags ===

impl Flags {
    /// Nothing is known.
    pub(crate) const NONE: Self = Self(0);
    /// There is a response.
    pub(crate) const RESPONDED: Self = Self(1);
    /// The body was polled.
    pub(crate) const POLLED: Self = Self(1 << 1 | 1);
    /// The inner service or body runs. It panicked, if the stream is dropped meanwhile.
    pub(crate) const POLLING: Self = Self(1 << 2);
    /// The body was polled, and the inner body has nothing at the moment.
    pub(crate) const PENDING: Self = Self(1 << 3 | Self::POLLED.0);
    /// The body waits for its readers or its pace.
    pub(crate) const THROTTLED: Self = Self(1 << 4);
    /// There is no response, and so no head to wait for.
    pub(crate) const HEADLESS: Self = Self(1 << 5);

    /// Whether all bits of `other` are set.
    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[inline]
    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
