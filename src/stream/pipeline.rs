//! `StreamPipeline`: streams that are not HTTP bodies.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use bytes::Bytes;
use flume::{Receiver, Sender};
use http::HeaderValue;
use http::{Method, Uri, Version};
use tokio_util::sync::CancellationToken;

use super::backpressure::{BackpressureConfig, BackpressureStrategy, Throttle};
use super::check::ChunkCheck;
use super::error::PushError;
use super::handle::StreamHandle;
use super::head::RequestHead;
use super::limits::TimeLimits;
use super::metrics::{Passage, StreamMetrics};
use super::outcome::Outcome;
use super::settle::{Settlement, StreamGuard};
use super::state::{OnEnd, StreamConfig, StreamState};
use super::tap::Tap;
use super::termination::EndSignal;
use super::throttle::ReaderWait;
use super::trace;
use crate::accumulator::{BufferConfig, BufferWriter, Capture, Content, MemoryBudget, Pool};
use crate::id::StreamId;

/// What a pipeline of no layer keeps: as much as a layer does by default.
const MAX_SIZE: usize = 1024 * 1024;

/// Chunks that a producer moves before it lets another one go on with that.
const MOST_AT_ONCE: usize = 64;

/// A pipeline from any number of producers into one accumulator, for providers that are not HTTP bodies.
///
/// A chunk goes through a bounded channel into the accumulator. There is no task behind it: whichever producer finds
/// the far end of the channel free moves what waits there, and the others go on at once. Chunks of one producer keep
/// their order.
///
/// It is a stream like any other: it has metrics, taps, a backpressure strategy, and an outcome that is decided once.
/// [Opened](StreamPipelineBuilder::open) on a layer it obeys that layer's capture, time limits, meter and `on_chunk`,
/// its record goes to that layer's hooks, and it stands in the layer's audit. If the last clone is dropped before
/// [`finish`](Self::finish), the stream was cancelled.
///
/// Clones are of the same pipeline.
///
/// ```
/// use bytes::Bytes;
/// use streaming_accumulator::{Outcome, StreamPipeline};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pipeline = StreamPipeline::new(64);
/// pipeline.push(Bytes::from_static(b"hello ")).await?;
/// pipeline.push(Bytes::from_static(b"world")).await?;
/// assert!(pipeline.finish(Outcome::Completed));
///
/// assert_eq!(pipeline.snapshot().to_bytes()?, "hello world");
/// assert!(pipeline.push(Bytes::from_static(b"!")).await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct StreamPipeline {
    shared: Arc<Shared>,
}

/// Builds a [`StreamPipeline`].
///
/// What is not set is as the layer has it that the pipeline is [opened](Self::open) on; the defaults below are those
/// of a pipeline that belongs to no layer.
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` or `open`"]
pub struct StreamPipelineBuilder {
    buffer_limit: Option<usize>,
    high_water_mark: u8,
    strategy: Option<BackpressureStrategy>,
    capture: Option<Capture>,
    budget: Option<MemoryBudget>,
    token: Option<CancellationToken>,
    method: Method,
    uri: Uri,
    content_type: Option<HeaderValue>,
}

struct Shared {
    // Fields drop in order: the guard settles the stream first.
    guard: StreamGuard,
    handle: StreamHandle,
    token: CancellationToken,
    sender: Sender<Bytes>,
    /// Whoever holds it moves chunks, and so is the only writer of the buffer and the metrics.
    mover: Mutex<Mover>,
    waiting: Mutex<Waiting>,
}

struct Mover {
    receiver: Receiver<Bytes>,
    writer: BufferWriter,
    check: Option<ChunkCheck>,
}

/// The producers that wait for readers.
#[derive(Default)]
struct Waiting {
    throttle: Throttle,
    producers: usize,
}

/// Counts a producer among those that wait, while it lives.
struct WaitingProducer<'a> {
    shared: &'a Shared,
}

// === impl StreamPipeline ===

impl StreamPipeline {
    /// A pipeline in whose channel at most `buffer_limit` chunks (at least one) wait, and that keeps up to 1 MiB of
    /// content.
    pub fn new(buffer_limit: usize) -> Self {
        Self::builder().buffer_limit(buffer_limit).build()
    }

    /// A builder with the documented defaults.
    pub fn builder() -> StreamPipelineBuilder {
        StreamPipelineBuilder {
            buffer_limit: None,
            high_water_mark: 80,
            strategy: None,
            capture: None,
            budget: None,
            token: None,
            method: Method::GET,
            uri: Uri::default(),
            content_type: None,
        }
    }

    /// The id of this stream.
    pub fn id(&self) -> StreamId {
        self.stream().id()
    }

    /// The stream's handle: the one that [`Handle::streams`](crate::Handle::streams) lists.
    pub fn handle(&self) -> &StreamHandle {
        &self.shared.handle
    }

    /// Appends a chunk. Waits while the channel is full, and while a lossless reader is behind, as the backpressure
    /// strategy says.
    ///
    /// # Errors
    ///
    /// [`PushError::Ended`] where the pipeline was finished or its token cancelled, or [`PushError::Failed`] with the
    /// error that ended it. The chunk is then not appended, unless it waited and was taken in that very moment.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with its time driver enabled, where it has to be delayed.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits, it has not appended the chunk, with the same exception.
    pub async fn push(&self, chunk: Bytes) -> Result<(), PushError> {
        let shared = &*self.shared;
        shared.check()?;
        if self.stream().buffer().is_gated() {
            shared.unless_cancelled(shared.wait_for_readers()).await??;
        }
        if let Err(full) = shared.sender.try_send(chunk) {
            let sending = shared.sender.send_async(full.into_inner());
            shared.unless_cancelled(sending).await?.map_err(|_| PushError::Ended)?;
            shared.move_all();
            // Whoever ended the stream emptied the channel, too.
            return shared.check();
        }
        if shared.move_all() {
            return Ok(());
        }
        // Somebody ends the stream, and may still be deciding how.
        self.handle().ended().await;
        Err(shared.check().err().unwrap_or(PushError::Ended))
    }

    /// A token that is cancelled with the pipeline's own: when it finishes other than `Completed`.
    pub fn child_token(&self) -> CancellationToken {
        self.shared.token.child_token()
    }

    /// The stream's numbers.
    pub fn metrics(&self) -> &StreamMetrics {
        self.stream().metrics()
    }

    /// What was captured so far.
    pub fn snapshot(&self) -> Content {
        self.stream().snapshot()
    }

    /// A live reader of this stream's chunks.
    pub fn tap(&self) -> Tap {
        self.handle().tap()
    }

    /// How the pipeline was finished.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.stream().outcome()
    }

    /// Ends the stream. The first call wins: later ones change nothing and return false.
    ///
    /// Chunks whose `push` has returned are in the accumulator. Any other outcome than `Completed` cancels the
    /// pipeline's token.
    pub fn finish(&self, outcome: Outcome) -> bool {
        // Waits for whoever moves chunks: among them may be some whose `push` has returned.
        let mut mover = self.shared.mover();
        let there = mover.receiver.len();
        self.shared.move_with(&mut mover, there);
        let settlement = self.stream().settle(EndSignal::Finished(outcome), None);
        drop(mover);
        // Whoever found it taken meanwhile went on because of that, or waits for room in the channel.
        self.shared.move_all();
        settlement != Settlement::Already
    }

    fn stream(&self) -> &Arc<StreamState> {
        self.shared.guard.state()
    }
}

impl fmt::Debug for StreamPipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamPipeline")
            .field("id", &self.id())
            .field("bytes", &self.metrics().bytes())
            .field("outcome", &self.outcome())
            .finish_non_exhaustive()
    }
}

// === impl StreamPipelineBuilder ===

impl StreamPipelineBuilder {
    /// How many chunks wait in the channel at most, and how many a lossless reader may be behind. Default 64; 0 counts
    /// as 1.
    pub fn buffer_limit(mut self, chunks: usize) -> Self {
        self.buffer_limit = Some(chunks.max(1));
        self
    }

    /// At how many per cent of the buffer limit throttling starts. Default 80; more than 100 counts as 100, and 0 as 1.
    pub fn high_water_mark(mut self, percent: u8) -> Self {
        self.high_water_mark = percent.clamp(1, 100);
        self
    }

    /// What a producer does when a lossless reader falls behind. Default [`BackpressureStrategy::default`].
    pub fn backpressure(mut self, strategy: BackpressureStrategy) -> Self {
        self.strategy = Some(strategy);
        self
    }

    /// How much of the stream is kept. Default `Capture::all` of 1 MiB.
    pub fn capture(mut self, capture: Capture) -> Self {
        self.capture = Some(capture);
        self
    }

    /// How many bytes of content are kept: [`capture`](Self::capture) with `Capture::all`.
    pub fn max_size(self, bytes: usize) -> Self {
        self.capture(Capture::all(bytes))
    }

    /// What its memory is charged to. Default: nothing.
    pub fn memory_budget(mut self, budget: impl Into<MemoryBudget>) -> Self {
        self.budget = Some(budget.into());
        self
    }

    /// The token of which the pipeline's is a child. Default: none.
    pub fn token(mut self, parent: &CancellationToken) -> Self {
        self.token = Some(parent.clone());
        self
    }

    /// What stands for the request in the record. Default `GET /`.
    pub fn request(mut self, method: Method, uri: Uri) -> Self {
        (self.method, self.uri) = (method, uri);
        self
    }

    /// The media type of the content, which helps a layer's meter to choose how it reads. Default: unknown.
    pub fn content_type(mut self, content_type: HeaderValue) -> Self {
        self.content_type = Some(content_type);
        self
    }

    /// Builds the pipeline. It belongs to no layer, and no hook gets its record.
    pub fn build(self) -> StreamPipeline {
        let budget = MemoryBudget::unlimited();
        let backpressure = BackpressureConfig::new(BackpressureStrategy::default(), 64, 80);
        let layer = StreamConfig {
            buffer: Arc::new(BufferConfig::in_memory(
                Capture::all(MAX_SIZE),
                Pool::shared(),
                backpressure.buffer_limit,
                backpressure.drops_oldest(),
            )),
            backpressure,
            max_bytes_per_second: None,
            limits: TimeLimits::default(),
            budget,
            #[cfg(feature = "llm")]
            meters: None,
            token: CancellationToken::new(),
        };
        let stream = self.state(&Arc::new(layer));
        self.start(stream, None, Box::new(drop))
    }

    /// The state of a stream with the settings of `layer`, save those that were set here.
    pub(crate) fn state(&self, layer: &Arc<StreamConfig>) -> Arc<StreamState> {
        let now = SystemTime::now();
        let id = StreamId::at(now);
        let span = trace::stream(id, &self.method, self.uri.path());
        let (method, uri) = (self.method.clone(), self.uri.clone());
        let request = RequestHead { method, uri, version: Version::default() };
        Arc::new(StreamState::without_head(id, now, &self.config(layer), request, span))
    }

    /// The pipeline of `stream`, whose end is told to `on_end`.
    pub(crate) fn start(
        &self,
        stream: Arc<StreamState>,
        check: Option<ChunkCheck>,
        on_end: OnEnd,
    ) -> StreamPipeline {
        self.open_meter(&stream);
        let guard = StreamGuard::new(Arc::clone(&stream));
        stream.open(on_end);
        let limit = usize::try_from(stream.config().backpressure.buffer_limit).unwrap_or(usize::MAX);
        let (sender, receiver) = flume::bounded(limit);
        let shared = Shared {
            token: stream.token(),
            sender,
            mover: Mutex::new(Mover { receiver, writer: stream.buffer().writer(), check }),
            waiting: Mutex::default(),
            handle: StreamHandle::new(stream),
            guard,
        };
        StreamPipeline { shared: Arc::new(shared) }
    }

    fn config(&self, layer: &Arc<StreamConfig>) -> Arc<StreamConfig> {
        let Self { buffer_limit, strategy, capture, budget, token, .. } = self;
        let is_as_layer =
            buffer_limit.is_none() && strategy.is_none() && capture.is_none() && budget.is_none();
        if is_as_layer && token.is_none() {
            return Arc::clone(layer);
        }
        let before = &layer.backpressure;
        let backpressure = match buffer_limit {
            None => BackpressureConfig { strategy: strategy.unwrap_or(before.strategy), ..*before },
            Some(limit) => {
                BackpressureConfig::new(strategy.unwrap_or(before.strategy), *limit, self.high_water_mark)
            }
        };
        let mut buffer = (*layer.buffer).clone();
        (buffer.buffer_limit, buffer.drops_oldest) = (backpressure.buffer_limit, backpressure.drops_oldest());
        if let Some(capture) = capture {
            buffer.capture = *capture;
        }
        if let Some(budget) = budget {
            buffer.pool = Arc::new(Pool::new(budget.clone()));
        }
        Arc::new(StreamConfig {
            buffer: Arc::new(buffer),
            backpressure,
            budget: budget.as_ref().unwrap_or(&layer.budget).clone(),
            token: token.as_ref().unwrap_or(&layer.token).clone(),
            max_bytes_per_second: layer.max_bytes_per_second,
            limits: layer.limits,
            #[cfg(feature = "llm")]
            meters: layer.meters.clone(),
        })
    }

    /// Lets the layer's meter read the stream, as it would read a successful response of this media type.
    #[cfg(feature = "llm")]
    fn open_meter(&self, stream: &StreamState) {
        let content_type = self.content_type.iter().map(|value| (http::header::CONTENT_TYPE, value.clone()));
        stream.open_meter(&super::head::ResponseFacts {
            status: http::StatusCode::OK,
            headers: http::HeaderMap::from_iter(content_type),
            bodiless: false,
            empty: false,
            declared: None,
            bad_length: None,
        });
    }

    #[cfg(not(feature = "llm"))]
    fn open_meter(&self, _: &StreamState) {}
}

impl fmt::Debug for StreamPipelineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamPipelineBuilder")
            .field("method", &self.method)
            // Without the query: some providers take the key there.
            .field("path", &self.uri.path())
            .field("buffer_limit", &self.buffer_limit)
            .field("high_water_mark", &self.high_water_mark)
            .field("backpressure", &self.strategy)
            .field("capture", &self.capture)
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    fn stream(&self) -> &StreamState {
        self.guard.state()
    }

    /// The error of a push into a stream that has ended.
    fn check(&self) -> Result<(), PushError> {
        let stream = self.stream();
        // In the reverse of the order in which they are set, so that a late one is not seen without those before it.
        let (is_cancelled, outcome) = (self.token.is_cancelled(), stream.outcome());
        let failed = match (stream.closing(), outcome) {
            (Some(Some(error)), _) => Some(error.clone()),
            (_, Some(outcome)) => outcome.error().cloned(),
            (Some(None), None) => None,
            (None, None) if is_cancelled => None,
            (None, None) => return Ok(()),
        };
        Err(failed.map_or(PushError::Ended, PushError::Failed))
    }

    /// The result of `wait`, unless the token is cancelled first.
    async fn unless_cancelled<T>(&self, wait: impl Future<Output = T>) -> Result<T, PushError> {
        let (mut wait, mut cancelled) = (pin!(wait), pin!(self.token.cancelled()));
        poll_fn(|cx| {
            // In this order: a chunk that was taken while it waited is not an error.
            if let Poll::Ready(result) = wait.as_mut().poll(cx) {
                return Poll::Ready(Ok(result));
            }
            cancelled.as_mut().poll(cx).map(|()| Err(self.check().err().unwrap_or(PushError::Ended)))
        })
        .await
    }

    /// Moves what waits in the channel into the accumulator, unless somebody else is at it. False if a chunk was not
    /// taken, because the stream is ended.
    fn move_all(&self) -> bool {
        let mut all_taken = true;
        // Looked at again after the lock is free: a chunk that came while it was held, and whose producer went on
        // because of that, is moved by the one who held it.
        while !self.sender.is_empty() {
            // Poisoned only if the accumulator itself panicked.
            let Ok(mut mover) = self.mover.try_lock() else {
                break;
            };
            // After these, another producer may take over. Also of a stream that is ended: producers wait for room.
            all_taken &= self.move_with(&mut mover, MOST_AT_ONCE);
        }
        all_taken
    }

    fn move_with(&self, mover: &mut Mover, most: usize) -> bool {
        let Mover { receiver, writer, check } = mover;
        let stream = self.stream();
        let mut all_taken = true;
        for chunk in receiver.try_iter().take(most) {
            let may_go_on =
                all_taken && check.as_mut().is_none_or(|check| check.chunk(&chunk, stream).is_ok());
            all_taken = may_go_on
                && if chunk.is_empty() {
                    stream.metrics().pass_other(false) != Passage::Closed
                } else {
                    stream.pass_chunk(writer, &chunk, false, true)
                };
        }
        all_taken
    }

    async fn wait_for_readers(&self) -> Result<(), PushError> {
        let _producer = WaitingProducer::new(self);
        let mut wait = ReaderWait::default();
        poll_fn(|cx| self.poll_readers(&mut wait, cx)).await
    }

    fn poll_readers(&self, wait: &mut ReaderWait, cx: &mut Context<'_>) -> Poll<Result<(), PushError>> {
        let stream = self.stream();
        stream.wake_on_change(cx.waker());
        // After that: a stop that comes later wakes this producer.
        self.check()?;
        let lag = |waker: &Waker| self.lag(waker);
        let config = &stream.config().backpressure;
        let polled = wait.poll(cx, stream, lag, |lag| self.waiting().throttle.step(config, lag));
        polled.map_err(|error| {
            stream.settle(EndSignal::Limit(error.clone()), None);
            self.check().err().unwrap_or(PushError::Failed(error))
        })
    }

    fn lag(&self, waker: &Waker) -> u64 {
        let stream = self.stream();
        let Ok(mover) = self.mover.try_lock() else {
            // Somebody moves chunks, and a later look sees how far the spilled file is.
            return stream.reader_lag(stream.metrics().chunks());
        };
        let lag = stream.lag(&mover.writer, waker);
        drop(mover);
        // A producer that found it taken went on and left its chunk.
        self.move_all();
        lag
    }

    fn mover(&self) -> MutexGuard<'_, Mover> {
        self.mover.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing can panic under this lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl WaitingProducer ===

impl<'a> WaitingProducer<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.waiting().producers += 1;
        Self { shared }
    }
}

impl Drop for WaitingProducer<'_> {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting();
        waiting.producers -= 1;
        if waiting.producers == 0 {
            self.shared.stream().set_throttled(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn producers_keep_their_order() {
        const PRODUCERS: u8 = 8;
        const CHUNKS: u32 = 2_000;
        let pipeline = StreamPipeline::new(4);
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let pipeline = pipeline.clone();
                tokio::spawn(async move {
                    for n in 0..CHUNKS {
                        let mut chunk = vec![producer; 5];
                        chunk[1..].copy_from_slice(&n.to_le_bytes());
                        pipeline.push(chunk.into()).await.unwrap();
                    }
                })
            })
            .collect();
        for producer in producers {
            producer.await.unwrap();
        }
        assert!(pipeline.finish(Outcome::Completed));

        let mut next = [0; PRODUCERS as usize];
        for chunk in pipeline.snapshot().chunks() {
            let chunk = chunk.unwrap();
            let n = u32::from_le_bytes(chunk[1..].try_into().unwrap());
            assert_eq!(n, next[chunk[0] as usize]);
            next[chunk[0] as usize] += 1;
        }
        assert_eq!(next, [CHUNKS; PRODUCERS as usize]);
        assert_eq!(pipeline.metrics().chunks(), u64::from(PRODUCERS) * u64::from(CHUNKS));
    }

    #[tokio::test(start_paused = true)]
    #[expect(clippy::await_holding_lock, reason = "stands for a producer that is stuck with it")]
    async fn push_waits_while_the_channel_is_full() {
        let pipeline = StreamPipeline::new(2);
        // As if another producer were stuck while it moves chunks.
        let stuck = pipeline.shared.mover.lock().unwrap();
        for _ in 0..2 {
            pipeline.push(Bytes::from_static(b"x")).await.unwrap();
        }
        let mut third = tokio_test::task::spawn(pipeline.push(Bytes::from_static(b"y")));
        assert!(third.poll().is_pending());
        let mut fourth = tokio_test::task::spawn(pipeline.push(Bytes::from_static(b"z")));
        assert!(fourth.poll().is_pending());
        drop(fourth);
        drop(stuck);
        assert!(pipeline.shared.move_all());
        assert!(third.is_woken());
        assert_eq!(third.await, Ok(()));
        assert_eq!(pipeline.snapshot().to_bytes().unwrap(), "xxy");

        let stuck = pipeline.shared.mover.lock().unwrap();
        for _ in 0..2 {
            pipeline.push(Bytes::from_static(b"x")).await.unwrap();
        }
        let mut waiting = tokio_test::task::spawn(pipeline.push(Bytes::from_static(b"y")));
        assert!(waiting.poll().is_pending());
        drop(stuck);
        assert!(pipeline.finish(Outcome::Cancelled));
        assert!(waiting.is_woken());
        assert_eq!(waiting.await, Err(PushError::Ended), "it waited too long");
        assert_eq!(pipeline.snapshot().to_bytes().unwrap(), "xxyxx");
        assert!(pipeline.push(Bytes::from_static(b"!")).await.is_err());
    }

    #[tokio::test]
    #[expect(clippy::await_holding_lock, reason = "stands for a producer that is stuck with it")]
    async fn cancellation_ends_a_waiting_push() {
        let parent = CancellationToken::new();
        let pipeline = StreamPipeline::builder().buffer_limit(1).token(&parent).build();
        let _stuck = pipeline.shared.mover.lock().unwrap();
        pipeline.push(Bytes::from_static(b"x")).await.unwrap();
        let mut waiting = tokio_test::task::spawn(pipeline.push(Bytes::from_static(b"y")));
        assert!(waiting.poll().is_pending());
        parent.cancel();
        assert!(waiting.is_woken());
        assert!(matches!(waiting.await, Err(PushError::Ended)));
    }

    #[tokio::test]
    async fn first_finish_wins_and_tokens_follow() {
        let parent = CancellationToken::new();
        let pipeline = StreamPipeline::builder().token(&parent).build();
        let child = pipeline.child_token();
        assert!(pipeline.finish(Outcome::Completed));
        assert!(!pipeline.finish(Outcome::Cancelled));
        assert_eq!(pipeline.outcome(), Some(&Outcome::Completed));
        assert!(!child.is_cancelled());

        let pipeline = StreamPipeline::builder().token(&parent).build();
        let child = pipeline.child_token();
        parent.cancel();
        assert!(child.is_cancelled());
        assert!(pipeline.push(Bytes::from_static(b"x")).await.is_err());
    }

    #[tokio::test]
    async fn content_beyond_the_limit_is_counted() {
        let pipeline = StreamPipeline::builder().max_size(4).build();
        for _ in 0..3 {
            pipeline.push(Bytes::from_static(b"abc")).await.unwrap();
        }
        assert_eq!(pipeline.metrics().bytes(), 9);
        assert!(pipeline.metrics().elapsed() < Duration::from_secs(3600));
        let content = pipeline.snapshot();
        assert_eq!(
            (content.to_bytes().unwrap(), content.is_truncated()),
            (Bytes::from_static(b"abca"), true)
        );
    }
}
