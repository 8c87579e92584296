//! A pipeline for streams that are not HTTP bodies.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use flume::{Receiver, Sender};
use tokio_util::sync::CancellationToken;

use crate::accumulator::ContentAccumulator;
use crate::error::StreamError;
use crate::id::StreamId;
use crate::metrics::StreamMetrics;
use crate::outcome::Outcome;
use crate::stop::StopReason;

/// What [`StreamPipeline::new`] keeps: as much as the layer does by default.
const MAX_SIZE: usize = 1024 * 1024;

/// A pipeline from any number of producers into one accumulator, for providers that are not HTTP bodies.
///
/// A chunk goes through a bounded channel into the accumulator. There is no task behind it: whichever
/// producer finds the far end of the channel free moves what waits there, and the others go on at once.
/// Chunks of one producer keep their order. Content beyond the accumulator's limit is counted and not
/// kept.
///
/// Clones are of the same pipeline.
///
/// ```
/// use bytes::Bytes;
/// use streaming_accumulator::{Outcome, StreamPipeline};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), streaming_accumulator::StreamError> {
/// let pipeline = StreamPipeline::new(64);
/// pipeline.push(Bytes::from_static(b"hello ")).await?;
/// pipeline.push(Bytes::from_static(b"world")).await?;
/// assert!(pipeline.finish(Outcome::Completed));
///
/// assert_eq!(pipeline.accumulator().snapshot().to_bytes(), "hello world");
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
#[must_use = "a builder does nothing until `build`"]
pub struct StreamPipelineBuilder {
    buffer_limit: usize,
    max_size: usize,
    token: CancellationToken,
}

struct Shared {
    id: StreamId,
    accumulator: ContentAccumulator,
    metrics: StreamMetrics,
    token: CancellationToken,
    sender: Sender<Bytes>,
    /// Whoever holds it is the one that moves chunks, and so the only writer of the metrics.
    mover: Mutex<Receiver<Bytes>>,
    outcome: OnceLock<Outcome>,
}

// === impl StreamPipeline ===

impl StreamPipeline {
    /// A pipeline in whose channel at most `buffer_limit` chunks (at least one) wait, and that keeps up to
    /// 1 MiB of content.
    pub fn new(buffer_limit: usize) -> Self {
        Self::builder().buffer_limit(buffer_limit).build()
    }

    /// A builder with the documented defaults.
    pub fn builder() -> StreamPipelineBuilder {
        StreamPipelineBuilder { buffer_limit: 64, max_size: MAX_SIZE, token: CancellationToken::new() }
    }

    /// The id of this stream.
    pub fn id(&self) -> StreamId {
        self.shared.id
    }

    /// Appends a chunk. Waits while the channel is full.
    ///
    /// # Errors
    ///
    /// [`StreamError::Stopped`] where the pipeline was finished or its token cancelled. The chunk is then
    /// not appended, unless it waited and was taken in that very moment.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits, it has not appended the chunk, with the same exception.
    pub async fn push(&self, chunk: Bytes) -> Result<(), StreamError> {
        let shared = &*self.shared;
        shared.check()?;
        if let Err(full) = shared.sender.try_send(chunk) {
            let sending = shared.sender.send_async(full.into_inner());
            tokio::select! {
                // In this order: a chunk that was taken while it waited is no error.
                biased;
                sent = sending => sent.map_err(|_| stopped())?,
                () = shared.token.cancelled() => return Err(stopped()),
            }
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
        &self.shared.metrics
    }

    /// The accumulator that the chunks end in.
    pub fn accumulator(&self) -> &ContentAccumulator {
        &self.shared.accumulator
    }

    /// How the pipeline was finished.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.shared.outcome.get()
    }

    /// Ends the stream. The first call wins: later ones change nothing and return false.
    ///
    /// Chunks whose `push` has returned are in the accumulator. Any other outcome than `Completed`
    /// cancels the pipeline's token.
    pub fn finish(&self, outcome: Outcome) -> bool {
        let completed = outcome == Outcome::Completed;
        if self.shared.outcome.set(outcome).is_err() {
            return false;
        }
        self.shared.move_all();
        if !completed {
            self.shared.token.cancel();
        }
        true
    }
}

impl fmt::Debug for StreamPipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamPipeline")
            .field("id", &self.shared.id)
            .field("bytes", &self.shared.metrics.bytes())
            .field("outcome", &self.outcome())
            .finish_non_exhaustive()
    }
}

// === impl StreamPipelineBuilder ===

impl StreamPipelineBuilder {
    /// How many chunks wait in the channel at the most. Default 64; 0 counts as 1.
    pub fn buffer_limit(mut self, chunks: usize) -> Self {
        self.buffer_limit = chunks;
        self
    }

    /// How many bytes of content are kept. Default 1 MiB.
    pub fn max_size(mut self, bytes: usize) -> Self {
        self.max_size = bytes;
        self
    }

    /// The token of which the pipeline's is a child. By default it has no parent.
    pub fn token(mut self, parent: &CancellationToken) -> Self {
        self.token = parent.child_token();
        self
    }

    /// Builds the pipeline.
    pub fn build(self) -> StreamPipeline {
        // flume takes 0 for a rendezvous, which nobody would keep here.
        let (sender, receiver) = flume::bounded(self.buffer_limit.max(1));
        let shared = Shared {
            id: StreamId::new(),
            accumulator: ContentAccumulator::new(self.max_size),
            metrics: StreamMetrics::start(),
            token: self.token,
            sender,
            mover: Mutex::new(receiver),
            outcome: OnceLock::new(),
        };
        StreamPipeline { shared: Arc::new(shared) }
    }
}

// === impl Shared ===

impl Shared {
    fn check(&self) -> Result<(), StreamError> {
        if self.outcome.get().is_some() || self.token.is_cancelled() {
            return Err(stopped());
        }
        Ok(())
    }

    /// Moves what waits in the channel into the accumulator, unless somebody else is at it.
    fn move_all(&self) {
        // Looked at again after the lock is free: a chunk that came while it was held, and whose producer
        // went on because of that, is moved by the one who held it.
        while !self.sender.is_empty() {
            // Poisoned only if the accumulator itself panicked.
            let Ok(waiting) = self.mover.try_lock() else {
                return;
            };
            for chunk in waiting.try_iter() {
                let bytes = chunk.len();
                // A chunk beyond the limit is counted and not kept: the snapshot says that it is truncated.
                let _ = self.accumulator.append(chunk);
                if bytes > 0 {
                    self.metrics.record_chunk(bytes, self.metrics.now())
                }
            }
        }
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
        for chunk in pipeline.accumulator().snapshot().chunks() {
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
        assert_eq!(pipeline.accumulator().snapshot().to_bytes(), "xxy");

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
        assert_eq!(pipeline.accumulator().snapshot().to_bytes(), "xxyxxy");
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
        assert_eq!((content.to_bytes(), content.is_truncated()), (Bytes::from_static(b"abc"), true));
    }
}
