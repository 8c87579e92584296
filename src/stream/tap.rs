//! Taps: live readers of a stream.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use tokio::task::coop;

use super::notify::{Alarm, ReaderProgress, Readers};
use super::outcome::Outcome;
use super::state::StreamState;
use crate::accumulator::{BufferReader, ReadStep, StreamChunk};

/// Chunks after which a lossless reader looks up the slowest one: what that one has read need not be kept.
const LOOK_EVERY: u64 = 64;

/// A live, independent reader of one stream's chunks.
///
/// A `Stream` of the chunks from the first that the stream's accumulator still holds, then as they come.
/// It ends when the stream has ended and all is read; [`outcome`](Self::outcome) then tells how. Taps do
/// not see each other, and any number of them costs the stream no more than one.
///
/// A tap that is behind *lags*: it misses chunks, because only the last
/// [`buffer_limit`](crate::Builder::buffer_limit) of them, and of those about 1 MiB, stay readable, beside what is
/// captured in memory. [`lagged`](Self::lagged) counts what it missed. A tap that must not miss any is made
/// [`lossless`](Self::lossless); then the layer's [`BackpressureStrategy`](crate::BackpressureStrategy) holds.
///
/// A chunk on which a capture's limit falls comes in two parts.
///
/// ```
/// use futures_util::StreamExt;
/// use streaming_accumulator::{Outcome, StreamHandle};
///
/// async fn watch(stream: StreamHandle) {
///     let mut tap = stream.tap();
///     while let Some(chunk) = tap.next().await {
///         println!("{} bytes, {} chunks missed so far", chunk.len(), tap.lagged());
///     }
///     assert!(matches!(tap.outcome(), Some(Outcome::Completed)));
/// }
/// ```
///
/// # Cancel safety
///
/// A chunk is taken when it is returned, so a wait for the next one can be dropped at any time.
pub struct Tap {
    feed: Feed,
    alarm: Alarm,
}

/// One of several readers that share one stream's chunks: each chunk goes to one of them.
///
/// Clones are further members of the group; chunks go to whoever asks first. Otherwise as [`Tap`].
///
/// ```
/// use futures_util::StreamExt;
/// use streaming_accumulator::StreamHandle;
///
/// fn share(stream: &StreamHandle) {
///     let group = stream.consumer_group().lossless();
///     for worker in 0..4 {
///         let mut chunks = group.clone();
///         tokio::spawn(async move {
///             while let Some(chunk) = chunks.next().await {
///                 println!("worker {worker}: {} bytes", chunk.len());
///             }
///         });
///     }
/// }
/// ```
pub struct ConsumerGroup {
    feed: Arc<Mutex<Feed>>,
    stream: Arc<StreamState>,
    alarm: Alarm,
}

/// The chunks of a stream, as one reader sees them.
struct Feed {
    stream: Arc<StreamState>,
    reader: BufferReader,
    /// Of a lossless reader.
    progress: Option<Arc<ReaderProgress>>,
    lagged: u64,
}

// === impl Tap ===

impl Tap {
    pub(crate) fn new(stream: &Arc<StreamState>) -> Self {
        Self { feed: Feed::new(stream), alarm: Alarm::default() }
    }

    /// Makes the stream wait for this tap, as the layer's backpressure strategy says.
    pub fn lossless(mut self) -> Self {
        self.feed.become_lossless();
        self
    }

    /// The next chunk with the time of its arrival; `None` when the stream has ended and all is read.
    pub async fn recv(&mut self) -> Option<StreamChunk> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Chunks that this tap missed so far.
    pub fn lagged(&self) -> u64 {
        self.feed.lagged
    }

    /// Chunks that are there and not read yet.
    pub fn lag(&self) -> u64 {
        self.feed.reader.lag(self.feed.stream.buffer())
    }

    /// How the stream ended, once it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.feed.stream.outcome()
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<StreamChunk>> {
        let Self { feed, alarm } = self;
        let readers = Arc::clone(feed.stream.readers());
        poll_chunk(alarm, &readers, cx, || feed.next())
    }
}

impl Stream for Tap {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.get_mut().poll_recv(cx).map(|chunk| chunk.map(|chunk| chunk.bytes))
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap").field("stream", &self.feed.stream.id()).field("lagged", &self.lagged()).finish()
    }
}

// === impl ConsumerGroup ===

impl ConsumerGroup {
    pub(crate) fn new(stream: &Arc<StreamState>) -> Self {
        let feed = Arc::new(Mutex::new(Feed::new(stream)));
        Self { feed, stream: Arc::clone(stream), alarm: Alarm::default() }
    }

    /// Makes the stream wait for this group, as the layer's backpressure strategy says.
    pub fn lossless(self) -> Self {
        self.with(Feed::become_lossless);
        self
    }

    /// The next chunk that no other member has taken, with the time of its arrival; `None` when the stream has ended
    /// and all is read.
    pub async fn recv(&mut self) -> Option<StreamChunk> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Chunks that the whole group missed so far.
    pub fn lagged(&self) -> u64 {
        self.with(|feed| feed.lagged)
    }

    /// How the stream ended, once it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.stream.outcome()
    }

    fn with<T>(&self, f: impl FnOnce(&mut Feed) -> T) -> T {
        // Readers only wait for each other here, and nothing can panic under this lock.
        f(&mut self.feed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<StreamChunk>> {
        let feed = &self.feed;
        let next = || feed.lock().unwrap_or_else(PoisonError::into_inner).next();
        poll_chunk(&mut self.alarm, self.stream.readers(), cx, next)
    }
}

impl Clone for ConsumerGroup {
    fn clone(&self) -> Self {
        let (feed, stream) = (Arc::clone(&self.feed), Arc::clone(&self.stream));
        Self { feed, stream, alarm: Alarm::default() }
    }
}

impl Stream for ConsumerGroup {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.get_mut().poll_recv(cx).map(|chunk| chunk.map(|chunk| chunk.bytes))
    }
}

impl fmt::Debug for ConsumerGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerGroup").field("lagged", &self.lagged()).finish_non_exhaustive()
    }
}

/// The next chunk of a feed, or `None` at its end. Sleeps while there is nothing.
fn poll_chunk(
    alarm: &mut Alarm,
    readers: &Readers,
    cx: &mut Context<'_>,
    next: impl FnMut() -> Option<Option<StreamChunk>>,
) -> Poll<Option<StreamChunk>> {
    // A reader that is always behind shares its thread with others all the same.
    let budget = ready!(coop::poll_proceed(cx));
    let polled = alarm.poll_next(readers, cx, next);
    if let Poll::Ready(Some(_)) = &polled {
        budget.made_progress();
    }
    polled
}

// === impl Feed ===

impl Feed {
    fn new(stream: &Arc<StreamState>) -> Self {
        // Before the count of chunks: a chunk that passes later finds that somebody reads.
        stream.count_reader(true);
        let reader = BufferReader::new(stream.buffer(), stream.metrics().chunks());
        Self { stream: Arc::clone(stream), reader, progress: None, lagged: 0 }
    }

    fn become_lossless(&mut self) {
        if self.progress.is_none() {
            // What is there already does not count.
            let kept = self.reader.index() + self.reader.lag(self.stream.buffer());
            let chunks = kept.max(self.stream.metrics().chunks());
            self.progress = Some(self.stream.readers().add_lossless(chunks));
        }
    }

    /// The next chunk; `Some(None)` at the end, and `None` where there is nothing yet.
    fn next(&mut self) -> Option<Option<StreamChunk>> {
        // Before the look for a chunk: the last one came before the end.
        let ended = self.stream.outcome().is_some();
        let (buffer, config) = (self.stream.buffer(), &self.stream.config().backpressure);
        if self.progress.is_some() && config.drops_oldest() {
            self.lagged += self.reader.skip_to(buffer, config.buffer_limit);
        }
        let next = loop {
            match self.reader.read(buffer) {
                ReadStep::Chunk(chunk) => break Some(Some(chunk)),
                ReadStep::Missed(chunks) => self.lagged += chunks,
                ReadStep::Nothing => break ended.then_some(None),
            }
        };
        if let Some(progress) = &self.progress {
            let chunks = self.reader.index();
            progress.advance(chunks);
            if chunks.is_multiple_of(LOOK_EVERY) {
                self.stream.readers().find_slowest();
            }
            self.stream.reader_advanced();
        }
        next
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(progress) = &self.progress {
            self.stream.readers().remove_lossless(progress);
            self.stream.reader_advanced();
        }
        self.stream.count_reader(false);
        self.stream.buffer().trim_to_tail();
    }
}
