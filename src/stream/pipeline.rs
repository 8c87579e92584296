//! A pipeline for streams that are not HTTP bodies.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use flume::{Receiver, Sender};
use http::{Method, Uri, Version};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::accumulator::{BufferConfig, BufferWriter, Capture, ContentReader, Pool};
use crate::stream::backpressure::{BackpressureStrategy, Pressure, Step, Throttle};
use crate::accumulator::MemoryBudget;
use crate::delivery::{Config, Dispatcher};
use crate::stream::termination::Signal;
use crate::error::StreamError;
use crate::stream::settle::{self, Guard};
use crate::delivery::handle::Handle;
use crate::id::StreamId;
use crate::stream::limits::TimeLimits;
use crate::stream::metrics::StreamMetrics;
use crate::stream::outcome::Outcome;
use crate::stream::state::{Pipeline, RequestHead, Rules, StreamHandle};
use crate::delivery::retry::RetryPolicy;
use crate::stream::stop::StopReason;
use crate::stream::tap::Tap;
use crate::stream::trace;

/// What [`StreamPipeline::new`] keeps: as much as the layer does by default.
const MAX_SIZE: usize = 1024 * 1024;

/// Chunks that a producer moves before it lets another one go on with that.
const MOST_AT_ONCE: usize = 64;

/// A pipeline from any number of producers into one accumulator, for providers that are not HTTP bodies.
///
/// A chunk goes through a bounded channel into the accumulator. There is no task behind it: whichever
/// producer finds the far end of the channel free moves what waits there, and the others go on at once.
/// Chunks of one producer keep their order. Content beyond the accumulator's limit is counted and not
/// kept.
///
/// It is a stream like any other: it has metrics, taps, a backpressure strategy, an outcome that is decided
/// once, and, [opened](StreamPipelineBuilder::open) for a layer, a record that goes to that layer's hooks,
/// and a place in its audit. If the last clone is dropped before [`finish`](Self::finish), the stream was
/// cancelled.
///
/// Clones are of the same pipeline.
///
/// ```
/// use bytes::Bytes;
/// use streaming_accumulator::{Outcome, StreamPipeline};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), streaming_accumulator::BoxError> {
/// let pipeline = StreamPipeline::new(64);
/// pipeline.push(Bytes::from_static(b"hello ")).await?;
/// pipeline.push(Bytes::from_static(b"world")).await?;
/// assert!(pipeline.finish(Outcome::Completed));
///
/// assert_eq!(pipeline.accumulator().snapshot().to_bytes()?, "hello world");
/// assert!(pipeline.push(Bytes::from_static(b"!")).await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct StreamPipeline {
    shared: Arc<Shared>,
}

/// Builds a [`StreamPipeline`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` or `open`"]
pub struct StreamPipelineBuilder {
    buffer_limit: usize,
    high_water_mark: u8,
    strategy: BackpressureStrategy,
    max_size: usize,
    budget: Option<MemoryBudget>,
    token: Option<CancellationToken>,
    method: Method,
    uri: Uri,
}

struct Shared {
    guard: Guard,
    reader: ContentReader,
    token: CancellationToken,
    sender: Sender<Bytes>,
    /// Whoever holds it is the one that moves chunks, and so the only writer of capture and metrics.
    mover: Mutex<Mover>,
    throttle: Mutex<Throttle>,
    advanced: Arc<Advanced>,
    /// Of `advanced`.
    waker: Waker,
}

struct Mover {
    waiting: Receiver<Bytes>,
    writer: BufferWriter,
}

/// Wakes all producers that wait for readers.
#[derive(Default)]
struct Advanced(Notify);

// === impl StreamPipeline ===

impl StreamPipeline {
    /// A pipeline in whose channel at most `buffer_limit` chunks (at least one) wait, and that keeps up to
    /// 1 MiB of content.
    pub fn new(buffer_limit: usize) -> Self {
        Self::builder().buffer_limit(buffer_limit).build()
    }

    /// A builder with the documented defaults.
    pub fn builder() -> StreamPipelineBuilder {
        StreamPipelineBuilder {
            buffer_limit: 64,
            high_water_mark: 80,
            strategy: BackpressureStrategy::default(),
            max_size: MAX_SIZE,
            budget: None,
            token: None,
            method: Method::GET,
            uri: Uri::default(),
        }
    }

    /// The id of this stream.
    pub fn id(&self) -> StreamId {
        self.pipeline().id()
    }

    /// The stream's handle: the one that [`Handle::streams`] lists.
    pub fn handle(&self) -> &StreamHandle {
        self.shared.guard.handle()
    }

    /// Appends a chunk. Waits while the channel is full, and while a reader that asked to be waited for is
    /// behind, as the backpressure strategy says.
    ///
    /// # Errors
    ///
    /// [`StreamError::Stopped`] where the pipeline was finished or its token cancelled, or the error that
    /// ended it. The chunk is then not appended, unless it waited and was taken in that very moment.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits, it has not appended the chunk, with the same exception.
    pub async fn push(&self, chunk: Bytes) -> Result<(), StreamError> {
        let shared = &*self.shared;
        shared.check()?;
        if self.pipeline().capture().is_watched() {
            shared.unless_cancelled(shared.wait_for_readers()).await?;
        }
        if let Err(full) = shared.sender.try_send(chunk) {
            let sending = shared.sender.send_async(full.into_inner());
            shared.unless_cancelled(async { sending.await.map_err(|_| stopped()) }).await?;
        }
        shared.move_all();
        Ok(())
    }

    /// A token that is cancelled with the pipeline's own: when it finishes other than `Completed`.
    pub fn child_token(&self) -> CancellationToken {
        self.shared.token.child_token()
    }

    /// The stream's numbers.
    pub fn metrics(&self) -> &StreamMetrics {
        self.pipeline().metrics()
    }

    /// Reads what the pipeline has accumulated.
    pub fn accumulator(&self) -> &ContentReader {
        &self.shared.reader
    }

    /// A live reader of this stream's chunks, as [`StreamHandle::tap`] gives one.
    pub fn tap(&self) -> Tap {
        self.handle().tap()
    }

    /// How the pipeline was finished.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.pipeline().outcome()
    }

    /// Ends the stream. The first call wins: later ones change nothing and return false.
    ///
    /// Chunks whose `push` has returned are in the accumulator. Any other outcome than `Completed`
    /// cancels the pipeline's token.
    pub fn finish(&self, outcome: Outcome) -> bool {
        // Waits for whoever moves chunks: among them may be some whose `push` has returned.
        let mut mover = self.shared.mover.lock().unwrap_or_else(PoisonError::into_inner);
        let there = mover.waiting.len();
        self.shared.move_with(&mut mover, there);
        let is_first = self.shared.end(Signal::Finished(outcome)).is_some();
        drop(mover);
        // Who found it taken meanwhile went on because of that, or waits for room in the channel.
        self.shared.move_all();
        is_first
    }

    fn pipeline(&self) -> &Pipeline {
        self.shared.guard.pipeline()
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
    /// How many chunks wait in the channel at the most, and how many a reader that is waited for may be
    /// behind. Default 64; 0 counts as 1.
    pub fn buffer_limit(mut self, chunks: usize) -> Self {
        self.buffer_limit = chunks.max(1);
        self
    }

    /// At how many per cent of the buffer limit throttling starts. Default 80; at most 100.
    pub fn high_water_mark(mut self, percent: u8) -> Self {
        self.high_water_mark = percent.min(100);
        self
    }

    /// What a producer does when a reader that asked to be waited for falls behind. Default
    /// [`BackpressureStrategy::default`].
    pub fn backpressure(mut self, strategy: BackpressureStrategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// How many bytes of content are kept. Default 1 MiB.
    pub fn max_size(mut self, bytes: usize) -> Self {
        self.max_size = bytes;
        self
    }

    /// What its memory is charged to. Default: the budget of the layer that it is opened for, if any.
    pub fn memory_budget(mut self, budget: impl Into<MemoryBudget>) -> Self {
        self.budget = Some(budget.into());
        self
    }

    /// The token of which the pipeline's is a child. Default: that of the layer that it is opened for, if
    /// any.
    pub fn token(mut self, parent: &CancellationToken) -> Self {
        self.token = Some(parent.clone());
        self
    }

    /// What stands for the request in the record. Default `GET /`.
    pub fn request(mut self, method: Method, uri: Uri) -> Self {
        (self.method, self.uri) = (method, uri);
        self
    }

    /// Builds the pipeline. It belongs to no layer, and no hook gets its record.
    pub fn build(self) -> StreamPipeline {
        let budget = self.budget.clone().unwrap_or_else(MemoryBudget::unlimited);
        let config = Config {
            retry: RetryPolicy::default(),
            hook_timeout: Duration::MAX,
            workers: 1,
            max_in_flight: 1,
            dead_letters: 1,
            on_dead_letter: None,
            limits: TimeLimits::default(),
            budget,
        };
        let dispatcher = Arc::new(Dispatcher::<()>::new(config, Vec::new()));
        let slots = Arc::clone(dispatcher.slots());
        let slot = slots.try_acquire_owned().expect("the only one is free");
        self.start(&dispatcher, slot, ())
    }

    /// Opens the pipeline as a stream of a layer: its record goes to that layer's hooks, with `context`.
    /// Waits for a slot, and for memory.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use streaming_accumulator::{Outcome, StreamPipeline, StreamingAccumulatorLayer};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = StreamingAccumulatorLayer::builder()
    ///     .context(|_| "from HTTP")
    ///     .on_complete(|record| async move { println!("{:?}: {record:?}", record.context()) })
    ///     .build()?;
    /// let pipeline = StreamPipeline::builder().open(&layer.handle(), "from a queue").await?;
    /// pipeline.push(Bytes::from_static(b"hello")).await?;
    /// pipeline.finish(Outcome::Completed);
    /// layer.handle().shutdown(std::time::Duration::from_secs(5)).await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StreamError::Stopped`] where the layer's shutdown has begun.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits, it has opened nothing.
    pub async fn open<C: Send + Sync + 'static>(
        self,
        handle: &Handle<C>,
        context: C,
    ) -> Result<StreamPipeline, StreamError> {
        let dispatcher = handle.dispatcher();
        dispatcher.start();
        let slot = dispatcher.slot().await;
        let slot = slot.ok_or(StreamError::Stopped { reason: StopReason::Shutdown })?;
        Ok(self.start(dispatcher, slot, context))
    }

    fn start<C: Send + Sync + 'static>(
        self,
        dispatcher: &Arc<Dispatcher<C>>,
        slot: OwnedSemaphorePermit,
        context: C,
    ) -> StreamPipeline {
        let budget = self.budget.as_ref().unwrap_or(dispatcher.budget());
        let pool = Arc::new(Pool::new(budget.clone()));
        let reader = ContentReader::new(self.max_size);
        let token = self.token.as_ref().unwrap_or(dispatcher.token());
        let id = StreamId::new();
        let span = trace::stream(id, &self.method, self.uri.path());
        let rules = Arc::new(self.rules(pool));
        let head = RequestHead { method: self.method, uri: self.uri, version: Version::default() };
        let pipeline = Pipeline::without_head(id, &rules, head, &reader, token, span);
        let guard = settle::open(dispatcher, pipeline, slot, |_| Some(context));

        let (sender, waiting) = flume::bounded(self.buffer_limit);
        let advanced = Arc::new(Advanced::default());
        let shared = Shared {
            reader,
            token: guard.handle().cancellation_token(),
            sender,
            mover: Mutex::new(Mover { waiting, writer: guard.pipeline().writer() }),
            throttle: Mutex::default(),
            waker: Arc::clone(&advanced).into(),
            advanced,
            guard,
        };
        StreamPipeline { shared: Arc::new(shared) }
    }

    fn rules(&self, pool: Arc<Pool>) -> Rules {
        let capture = Capture::all(self.max_size);
        let pressure = Pressure::new(self.strategy, self.buffer_limit, self.high_water_mark);
        let keeping =
            BufferConfig::in_memory(capture, pool, pressure.buffer_limit, pressure.drops_oldest());
        Rules {
            keeping: Arc::new(keeping),
            pressure,
            max_bytes_per_second: None,
            limits: TimeLimits::default(),
            meters: None,
        }
    }
}

// === impl Shared ===

impl Shared {
    fn check(&self) -> Result<(), StreamError> {
        let pipeline = self.guard.pipeline();
        if let Some(error) = pipeline.stopped() {
            return Err(error.clone().unwrap_or_else(stopped));
        }
        if let Some(outcome) = pipeline.outcome() {
            return Err(outcome.error().cloned().unwrap_or_else(stopped));
        }
        if self.token.is_cancelled() { Err(stopped()) } else { Ok(()) }
    }

    /// Waits for `wait`, until the token is cancelled.
    async fn unless_cancelled(
        &self,
        wait: impl Future<Output = Result<(), StreamError>>,
    ) -> Result<(), StreamError> {
        tokio::select! {
            // In this order: a chunk that was taken while it waited is no error.
            biased;
            waited = wait => waited,
            () = self.token.cancelled() => Err(self.check().err().unwrap_or_else(stopped)),
        }
    }

    /// Settles the stream, unless somebody did before; then the error with which it ended, if any.
    fn end(&self, signal: Signal) -> Option<Option<StreamError>> {
        let ended = self.guard.settle_shared(signal);
        // Who waits for readers need not wait for the end.
        self.advanced.0.notify_waiters();
        ended
    }

    /// Moves what waits in the channel into the accumulator, unless somebody else is at it.
    fn move_all(&self) {
        // Looked at again after the lock is free: a chunk that came while it was held, and whose producer
        // went on because of that, is moved by the one who held it.
        while !self.sender.is_empty() {
            // Poisoned only if the accumulator itself panicked.
            let Ok(mut mover) = self.mover.try_lock() else {
                return;
            };
            // After so many, another producer may take over.
            self.move_with(&mut mover, MOST_AT_ONCE);
        }
    }

    fn move_with(&self, Mover { waiting, writer }: &mut Mover, most: usize) {
        for chunk in waiting.try_iter().take(most) {
            // Beyond the limit it is counted and not kept: the snapshot says that it is truncated.
            self.guard.pipeline().record_chunk(writer, &chunk);
        }
    }

    /// Does to this producer what [`Gate`](crate::stream::throttle::Gate) does to a body; there may be several at once.
    async fn wait_for_readers(&self) -> Result<(), StreamError> {
        let pipeline = self.guard.pipeline();
        let pressure = pipeline.pressure();
        let mut deadline = None;
        while !pressure.drops_oldest() {
            let advanced = self.advanced.0.notified();
            tokio::pin!(advanced);
            // Before the look at the lag: what is read after it is not missed.
            advanced.as_mut().enable();
            pipeline.wake_on_stop(&self.waker);
            pipeline.set_gated(true);
            self.check()?;
            let lag = self.lag();
            let step = self.throttle().step(pressure, lag);
            match step {
                Step::Go => return Ok(()),
                Step::Delay(delay) => return self.delay(delay).await,
                Step::Hold(None) => advanced.await,
                Step::Hold(Some(longest)) => {
                    let until = *deadline.get_or_insert_with(|| Instant::now() + longest);
                    if timeout_at(until, advanced).await.is_err() {
                        return self.too_far(lag);
                    }
                }
                Step::Fail => return self.too_far(lag),
            }
        }
        Ok(())
    }

    /// Waits so long, or until the readers are near again.
    async fn delay(&self, delay: Duration) -> Result<(), StreamError> {
        let timer = sleep(delay);
        tokio::pin!(timer);
        let pipeline = self.guard.pipeline();
        loop {
            let advanced = self.advanced.0.notified();
            tokio::pin!(advanced);
            advanced.as_mut().enable();
            pipeline.wake_on_stop(&self.waker);
            self.check()?;
            if self.lag() < pipeline.pressure().high_water {
                return Ok(());
            }
            tokio::select! {
                () = &mut timer => return Ok(()),
                () = advanced => {}
            }
        }
    }

    fn lag(&self) -> u64 {
        let pipeline = self.guard.pipeline();
        pipeline.readers_lag(pipeline.metrics().chunks())
    }

    fn too_far(&self, lag: u64) -> Result<(), StreamError> {
        let error = self.guard.pipeline().pressure().too_far(lag);
        let ended = self.end(Signal::Limit(error));
        Err(ended.flatten().or_else(|| self.check().err()).unwrap_or_else(stopped))
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        // Nothing can panic under this lock.
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Advanced ===

impl Wake for Advanced {
    fn wake(self: Arc<Self>) {
        self.0.notify_waiters();
    }
}

fn stopped() -> StreamError {
    StreamError::Stopped { reason: StopReason::Cancelled }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_producers_lose_nothing_and_each_keeps_its_order() {
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
        for chunk in pipeline.accumulator().snapshot().chunks().map(Result::unwrap) {
            let n = u32::from_le_bytes(chunk[1..].try_into().unwrap());
            assert_eq!(n, next[chunk[0] as usize]);
            next[chunk[0] as usize] += 1;
        }
        assert_eq!(next, [CHUNKS; PRODUCERS as usize]);
        assert_eq!(pipeline.metrics().chunks(), u64::from(PRODUCERS) * u64::from(CHUNKS));
    }

    #[tokio::test(start_paused = true)]
    #[expect(clippy::await_holding_lock, reason = "stands for a producer that is stuck with it")]
    async fn a_push_waits_while_the_channel_is_full_and_the_end_ends_the_wait() {
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
        pipeline.shared.move_all();
        assert!(third.is_woken());
        assert_eq!(third.await, Ok(()));
        assert_eq!(pipeline.accumulator().snapshot().to_bytes().unwrap(), "xxy");

        let stuck = pipeline.shared.mover.lock().unwrap();
        for _ in 0..2 {
            pipeline.push(Bytes::from_static(b"x")).await.unwrap();
        }
        let mut waiting = tokio_test::task::spawn(pipeline.push(Bytes::from_static(b"y")));
        assert!(waiting.poll().is_pending());
        drop(stuck);
        assert!(pipeline.finish(Outcome::Cancelled));
        assert!(waiting.is_woken());
        assert_eq!(waiting.await, Ok(()), "it was taken while it waited");
        assert_eq!(pipeline.accumulator().snapshot().to_bytes().unwrap(), "xxyxxy");
        assert!(pipeline.push(Bytes::from_static(b"!")).await.is_err());
    }

    #[tokio::test]
    #[expect(clippy::await_holding_lock, reason = "stands for a producer that is stuck with it")]
    async fn cancellation_ends_the_wait_of_a_chunk_that_nobody_takes() {
        let parent = CancellationToken::new();
        let pipeline = StreamPipeline::builder().buffer_limit(1).token(&parent).build();
        let _stuck = pipeline.shared.mover.lock().unwrap();
        pipeline.push(Bytes::from_static(b"x")).await.unwrap();
        let mut waiting = tokio_test::task::spawn(pipeline.push(Bytes::from_static(b"y")));
        assert!(waiting.poll().is_pending());
        parent.cancel();
        assert!(waiting.is_woken());
        assert!(matches!(waiting.await, Err(StreamError::Stopped { .. })));
    }

    #[tokio::test]
    async fn the_first_finish_wins_and_tokens_follow() {
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
    async fn beyond_the_limit_content_is_counted_and_not_kept() {
        let pipeline = StreamPipeline::builder().max_size(4).build();
        for _ in 0..3 {
            pipeline.push(Bytes::from_static(b"abc")).await.unwrap();
        }
        assert_eq!(pipeline.metrics().bytes(), 9);
        assert!(pipeline.metrics().elapsed() < Duration::from_secs(3600));
        let content = pipeline.accumulator().snapshot();
        assert_eq!((content.to_bytes().unwrap(), content.is_truncated()), (Bytes::from_static(b"abc"), true));
    }
}
