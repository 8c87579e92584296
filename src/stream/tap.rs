//! Live readers of a stream.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use tokio::task::coop;

use crate::accumulator::{BufferReader, ReadStep, StreamChunk};
use crate::stream::outcome::Outcome;
use crate::stream::state::{Pipeline, StreamHandle};
use crate::stream::notify::{Position, Sleeper, Watch};

/// Chunks after which a reader that is waited for looks up the slowest one: what that one has read need not
/// be kept.
const LOOK_EVERY: u64 = 64;

/// A live, independent reader of one stream's chunks.
///
/// A `Stream` of the chunks from the first that the stream's accumulator still holds, then as they come.
/// It ends when the stream has ended and all is read; [`outcome`](Self::outcome) then tells how. Taps do
/// not see each other, and any number of them costs the stream no more than one.
///
/// A tap that is behind *misses* chunks: only the last [`buffer_limit`](crate::Builder::buffer_limit) of
/// them, and of those about 1 MiB, stay readable, beside what is captured in memory.
/// [`missed`](Self::missed) counts them. A tap that must not miss any
/// asks to be [`waited`](Self::waited) for; then the layer's
/// [`BackpressureStrategy`](crate::BackpressureStrategy) holds.
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
///         println!("{} bytes, {} chunks missed so far", chunk.len(), tap.missed());
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
    sleeper: Sleeper,
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
///     let group = stream.work_group().waited();
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
pub struct WorkGroup {
    feed: Arc<Mutex<Feed>>,
    pipeline: Arc<Pipeline>,
    sleeper: Sleeper,
}

/// The chunks of a stream, as one reader sees them.
struct Feed {
    pipeline: Arc<Pipeline>,
    watch: Arc<Watch>,
    reader: BufferReader,
    position: Option<Arc<Position>>,
    missed: u64,
}

/// What a [`Feed`] has.
enum Next {
    Chunk(StreamChunk),
    Nothing,
    End,
}

// === impl StreamHandle ===

impl StreamHandle {
    /// A live reader of this stream's chunks.
    ///
    /// Inside a tokio runtime the first one spawns a small task that wakes this stream's readers; it ends
    /// with the stream. That runtime must be driven as long as there are readers.
    pub fn tap(&self) -> Tap {
        Tap { feed: Feed::new(self.pipeline()), sleeper: Sleeper::default() }
    }

    /// A group of readers that share this stream's chunks.
    pub fn work_group(&self) -> WorkGroup {
        let feed = Arc::new(Mutex::new(Feed::new(self.pipeline())));
        WorkGroup { feed, pipeline: Arc::clone(self.pipeline()), sleeper: Sleeper::default() }
    }
}

// === impl Tap ===

impl Tap {
    /// Asks the stream to wait for this tap, as the layer's backpressure strategy says.
    pub fn waited(mut self) -> Self {
        self.feed.be_waited_for();
        self
    }

    /// The next chunk with the time of its arrival; `None` when the stream has ended and all is read.
    pub async fn recv(&mut self) -> Option<StreamChunk> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Chunks missed so far.
    pub fn missed(&self) -> u64 {
        self.feed.missed
    }

    /// Chunks that are there and not read yet.
    pub fn lag(&self) -> u64 {
        self.feed.reader.lag(self.feed.pipeline.capture())
    }

    /// How the stream ended, once it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.feed.pipeline.outcome()
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<StreamChunk>> {
        let Self { feed, sleeper } = self;
        let watch = Arc::clone(&feed.watch);
        sleeper.until(&watch, cx, || feed.next())
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
        f.debug_struct("Tap")
            .field("stream", &self.feed.pipeline.id())
            .field("missed", &self.missed())
            .finish()
    }
}

// === impl WorkGroup ===

impl WorkGroup {
    /// Asks the stream to wait for this group, as the layer's backpressure strategy says.
    pub fn waited(self) -> Self {
        self.with(Feed::be_waited_for);
        self
    }

    /// The next chunk that no other member has taken, with the time of its arrival.
    pub async fn recv(&mut self) -> Option<StreamChunk> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Chunks that the whole group missed so far.
    pub fn missed(&self) -> u64 {
        self.with(|feed| feed.missed)
    }

    /// How the stream ended, once it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.pipeline.outcome()
    }

    fn with<T>(&self, f: impl FnOnce(&mut Feed) -> T) -> T {
        // Readers only wait for each other here, and nothing can panic under this lock.
        f(&mut self.feed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<StreamChunk>> {
        let feed = &self.feed;
        let next = || feed.lock().unwrap_or_else(PoisonError::into_inner).next();
        self.sleeper.until(self.pipeline.watch(), cx, next)
    }
}

impl Clone for WorkGroup {
    fn clone(&self) -> Self {
        let (feed, pipeline) = (Arc::clone(&self.feed), Arc::clone(&self.pipeline));
        Self { feed, pipeline, sleeper: Sleeper::default() }
    }
}

impl Stream for WorkGroup {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.get_mut().poll_recv(cx).map(|chunk| chunk.map(|chunk| chunk.bytes))
    }
}

impl fmt::Debug for WorkGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkGroup").field("missed", &self.missed()).finish_non_exhaustive()
    }
}

// === impl Feed ===

impl Feed {
    fn new(pipeline: &Arc<Pipeline>) -> Self {
        let watch = Arc::clone(pipeline.watch());
        watch.count(true, |watched| pipeline.capture().set_watched(watched));
        let chunks = pipeline.metrics().chunks();
        watch.start_relay();
        let reader = BufferReader::new(pipeline.capture(), chunks);
        Self { pipeline: Arc::clone(pipeline), watch, reader, position: None, missed: 0 }
    }

    fn be_waited_for(&mut self) {
        if self.position.is_none() {
            // What is there already does not count.
            let kept = self.reader.index() + self.reader.lag(self.pipeline.capture());
            let chunks = kept.max(self.pipeline.metrics().chunks());
            self.position = Some(self.watch.wait_for(chunks));
        }
    }

    fn next(&mut self) -> Next {
        // Before the look for a chunk: the last one came before the end.
        let ended = self.pipeline.outcome().is_some();
        let capture = self.pipeline.capture();
        if self.position.is_some() && self.pipeline.pressure().drops_oldest() {
            self.missed += self.reader.skip_to(capture, self.pipeline.pressure().buffer_limit);
        }
        let next = loop {
            match self.reader.read(capture) {
                ReadStep::Chunk(chunk) => break Next::Chunk(chunk),
                ReadStep::Missed(chunks) => self.missed += chunks,
                ReadStep::Nothing if ended => break Next::End,
                ReadStep::Nothing => break Next::Nothing,
            }
        };
        if let Some(position) = &self.position {
            let chunks = self.reader.index();
            position.advance(chunks);
            if chunks.is_multiple_of(LOOK_EVERY) {
                self.watch.find_slowest();
            }
            self.pipeline.reader_advanced();
        }
        next
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(position) = &self.position {
            self.watch.forget(position);
            self.pipeline.reader_advanced();
        }
        self.watch.count(false, |watched| self.pipeline.capture().set_watched(watched));
        self.pipeline.capture().trim_to_tail();
    }
}

// === impl Sleeper ===

impl Sleeper {
    /// Asks for what is next, and sleeps while there is nothing.
    fn until(
        &mut self,
        watch: &Watch,
        cx: &mut Context<'_>,
        mut next: impl FnMut() -> Next,
    ) -> Poll<Option<StreamChunk>> {
        // A reader that is always behind shares its thread with others all the same.
        let budget = ready!(coop::poll_proceed(cx));
        loop {
            match next() {
                Next::Chunk(chunk) => {
                    budget.made_progress();
                    return Poll::Ready(Some(chunk));
                }
                Next::End => return Poll::Ready(None),
                Next::Nothing => {}
            }
            if !self.set(watch) {
                ready!(self.poll(cx));
            }
        }
    }
}
