//! What was kept of a stream.

use std::fmt;
use std::io;
use std::iter;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream, StreamExt, TryStreamExt};
use tokio::io::AsyncRead;
use tokio::task;
use tokio_util::io::StreamReader;

use super::archive::Archive;
use super::block::{Block, Chain, Cursor, Entry, Found};
use super::unit::Unit;

/// What an accumulator kept of a stream: a snapshot that never changes.
///
/// Making one copies no bytes: it shares the accumulator's blocks and keeps them alive. Chunks keep the
/// boundaries and arrival times that they had in the stream, save where a limit cut one.
///
/// Content may lie in memory, compressed in memory, or in a temporary file; what is read is the same.
/// Reading a file blocks: where [`is_spilled`](Self::is_spilled) may be true, an async task should use
/// [`stream`](Self::stream), [`reader`](Self::reader) or [`read`](Self::read), which read on tokio's
/// blocking threads and report errors.
///
/// ```
/// use bytes::Bytes;
/// use streaming_accumulator::ContentAccumulator;
///
/// let accumulator = ContentAccumulator::new(1024);
/// accumulator.append(Bytes::from_static(b"hel")).unwrap();
/// let content = accumulator.snapshot();
/// accumulator.append(Bytes::from_static(b"lo")).unwrap();
///
/// assert_eq!(content.to_bytes(), "hel");
/// assert_eq!(accumulator.snapshot().chunks().count(), 2);
/// ```
#[derive(Clone, Default)]
pub struct Content {
    pieces: [Option<Piece>; 2],
    truncated: bool,
}

/// One chunk of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamChunk {
    /// Its bytes.
    pub bytes: Bytes,
    /// When it arrived, from the stream's opening, to the next lower multiple of 1.024 µs; 6 days at
    /// the most.
    pub arrival: Duration,
}

/// A run of content.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Part(Part),
    /// The first so many bytes of a head whose log is moved to an archive.
    Archived(Arc<Archive>, u64),
}

/// A run of bytes in a chain of blocks.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    first: Chain,
    cursor: Cursor,
    /// Bytes to leave out at the start.
    skip: u64,
    /// Bytes behind them.
    len: u64,
}

/// What can be read in one go.
enum Run {
    /// The first so many bytes of it.
    Unit(Unit, u64),
    Part(Part),
}

struct Chunks {
    block: Arc<Block>,
    cursor: Cursor,
    skip: u64,
    left: u64,
}

// === impl Content ===

impl Content {
    pub(super) fn new(head: Option<Piece>, tail: Option<Piece>, truncated: bool) -> Self {
        Self { pieces: [head, tail], truncated }
    }

    pub(super) fn truncated(mut self, truncated: bool) -> Self {
        self.truncated = truncated;
        self
    }

    /// Bytes kept.
    pub fn len(&self) -> usize {
        self.pieces().map(|piece| piece.len() as usize).sum()
    }

    /// Whether nothing was kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the stream had bytes that are not here.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Whether some of it lies in a temporary file.
    pub fn is_spilled(&self) -> bool {
        self.runs().any(|run| matches!(run, Run::Unit(unit, _) if !unit.is_in_memory()))
    }

    /// Why content could not be spilled, where that ended the capture.
    pub fn spill_error(&self) -> Option<Arc<str>> {
        self.pieces().find_map(|piece| match piece {
            Piece::Archived(archive, _) => archive.error(),
            Piece::Part(_) => None,
        })
    }

    /// All bytes in one piece. Copies, unless there is one large chunk only. Blocks where content is spilled;
    /// what cannot be read is logged and left out.
    pub fn to_bytes(&self) -> Bytes {
        let mut first = self.chunks();
        if let (Some(only), None) = (first.next(), first.next()) {
            return only;
        }
        let mut all = Vec::with_capacity(self.len());
        for run in self.runs() {
            match run.copy_to(&mut all) {
                Ok(()) => {}
                Err(error) => {
                    let _ = error;
                    break;
                }
            }
        }
        all.into()
    }

    /// The chunks, in order. Small ones are copied out, large ones shared. Blocks where content is spilled;
    /// what cannot be read is logged, and ends the iteration.
    ///
    /// Where the middle of a stream was left out, the chunk before the gap and the one after it follow
    /// each other.
    pub fn chunks(&self) -> impl Iterator<Item = Bytes> {
        self.timed_chunks().map(|chunk| chunk.bytes)
    }

    /// As [`chunks`](Self::chunks), with the times at which they arrived: enough to replay a stream at
    /// its own pace.
    ///
    /// ```
    /// # async fn replay(content: streaming_accumulator::Content) {
    /// let start = tokio::time::Instant::now();
    /// for chunk in content.timed_chunks() {
    ///     tokio::time::sleep_until(start + chunk.arrival).await;
    ///     println!("{:?}", chunk.bytes);
    /// }
    /// # }
    /// ```
    pub fn timed_chunks(&self) -> impl Iterator<Item = StreamChunk> {
        let runs = self.runs().map(|run| match run {
            Run::Part(part) => Ok((None, Some(part.into_chunks()))),
            Run::Unit(unit, most) => unit.load(most).map(|chunks| (Some(chunks.into_iter()), None)),
        });
        let read = runs.map_while(|run| run.ok());
        read.flat_map(|(loaded, chunks)| loaded.into_iter().flatten().chain(chunks.into_iter().flatten()))
    }

    /// The chunks, in order, without blocking.
    ///
    /// # Errors
    ///
    /// What reading a spilled file yields; the stream then ends.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, where content is spilled.
    pub fn stream(&self) -> impl Stream<Item = io::Result<StreamChunk>> + Send + use<> {
        let runs: Vec<Run> = self.runs().collect();
        stream::iter(runs).flat_map(Run::into_stream)
    }

    /// All bytes, in order, without blocking.
    ///
    /// # Errors
    ///
    /// As for [`stream`](Self::stream).
    pub fn reader(&self) -> impl AsyncRead + Send + use<> {
        StreamReader::new(Box::pin(self.stream().map(|chunk| chunk.map(|chunk| chunk.bytes))))
    }

    /// All bytes in one piece, without blocking.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::FileTooLarge`] where there are more than `max` of them; nothing is read then. Else
    /// as for [`stream`](Self::stream).
    pub async fn read(&self, max: usize) -> io::Result<Bytes> {
        if self.len() > max {
            let error = format!("content has {} bytes, of at most {max}", self.len());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, error));
        }
        let mut all = BytesMut::with_capacity(self.len());
        let mut chunks = std::pin::pin!(self.stream());
        while let Some(chunk) = chunks.next().await {
            all.extend_from_slice(&chunk?.bytes);
        }
        Ok(all.freeze())
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.pieces.iter().flatten()
    }

    fn runs(&self) -> impl Iterator<Item = Run> {
        self.pieces().flat_map(Piece::runs)
    }
}

impl fmt::Debug for Content {
    /// Shows the size only: what streams hold is often not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("len", &self.len()).field("truncated", &self.truncated).finish()
    }
}

// === impl Piece ===

impl Piece {
    pub(super) fn archived(archive: &Arc<Archive>) -> Self {
        Self::Archived(Arc::clone(archive), archive.len())
    }

    fn len(&self) -> u64 {
        match self {
            Self::Part(part) => part.len,
            Self::Archived(_, len) => *len,
        }
    }

    /// What there is to read, at this moment: an archive goes on moving it.
    fn runs(&self) -> Vec<Run> {
        match self {
            Self::Part(part) => vec![Run::Part(part.clone())],
            Self::Archived(archive, len) => {
                let (units, rest) = archive.holdings(*len);
                let mut left = *len;
                let units = units.iter().map(|unit| {
                    // What came after the snapshot is not in it.
                    let most = unit.content().min(left);
                    left -= most;
                    Run::Unit(unit.clone(), most)
                });
                let units = units.take_while(|run| !matches!(run, Run::Unit(_, 0)));
                units.chain(rest.map(Run::Part)).collect()
            }
        }
    }
}

// === impl Run ===

impl Run {
    fn copy_to(self, buffer: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Part(part) => {
                if let Some(mut chunks) = part.chunks() {
                    while chunks.copy_next(buffer).is_some() {}
                }
            }
            Self::Unit(unit, most) => {
                unit.load(most)?.iter().for_each(|chunk| buffer.extend_from_slice(&chunk.bytes));
            }
        }
        Ok(())
    }

    fn into_stream(self) -> impl Stream<Item = io::Result<StreamChunk>> + Send {
        match self {
            Self::Part(part) => stream::iter(part.into_chunks().map(Ok)).left_stream(),
            Self::Unit(unit, most) => stream::once(load(unit, most))
                .map_ok(|chunks| stream::iter(chunks.into_iter().map(Ok)))
                .try_flatten()
                .right_stream(),
        }
    }
}

/// Loads a unit where that may block.
async fn load(unit: Unit, most: u64) -> io::Result<Vec<StreamChunk>> {
    if unit.is_in_memory() {
        return unit.load(most);
    }
    let loaded = task::spawn_blocking(move || unit.load(most)).await;
    loaded.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// A time in the units that chunks are kept with, of 1,024 ns.
pub(super) fn units(arrival: Duration) -> u64 {
    (arrival.as_nanos() >> 10) as u64
}

// === impl StreamChunk ===

impl StreamChunk {
    /// `at` in units of 1,024 ns.
    pub(super) fn new(bytes: Bytes, at: u64) -> Self {
        Self { bytes, arrival: Duration::from_nanos(at << 10) }
    }
}

// === impl Part ===

impl Part {
    pub(super) fn new(first: Arc<Block>, len: u64) -> Self {
        Self::starting(first, Cursor::default(), len)
    }

    /// What follows `cursor` in the block `first`.
    pub(super) fn starting(first: Arc<Block>, cursor: Cursor, len: u64) -> Self {
        Self { first: Chain::new(first), cursor, skip: 0, len }
    }

    /// The last `keep` bytes of this part.
    pub(super) fn last(mut self, keep: u64) -> Self {
        let cut = self.len.saturating_sub(keep);
        self.skip += cut;
        self.len -= cut;
        // Whole blocks before it need not be kept.
        while let Some(block) = self.first.block()
            && let Some(next) = block.next().cloned()
            && let between = next.base() - block.base()
            && between <= self.skip
        {
            self.skip -= between;
            self.first = Chain::new(next);
        }
        self
    }

    fn chunks(&self) -> Option<Chunks> {
        let block = Arc::clone(self.first.block()?);
        Some(Chunks { block, cursor: self.cursor, skip: self.skip, left: self.len })
    }

    fn into_chunks(self) -> impl Iterator<Item = StreamChunk> {
        let mut chunks = self.chunks();
        iter::from_fn(move || chunks.as_mut()?.next())
    }
}

// === impl Chunks ===

impl Chunks {
    fn next(&mut self) -> Option<StreamChunk> {
        self.step(|chunk, within| StreamChunk::new(chunk.bytes().slice(within), chunk.at()))
    }

    /// Appends the next chunk to `buffer`.
    fn copy_next(&mut self, buffer: &mut Vec<u8>) -> Option<()> {
        self.step(|chunk, within| chunk.copy_to(within, buffer))
    }

    /// What `make` makes of the next chunk, and of the bytes of it that belong here.
    fn step<T>(&mut self, make: impl FnOnce(&Found<'_>, Range<usize>) -> T) -> Option<T> {
        while self.left > 0 {
            let (entry, next) = self.block.read(self.cursor);
            let chunk = match entry {
                Entry::Chunk(chunk) => chunk,
                Entry::Next(next) => {
                    self.block = next.cloned()?;
                    self.cursor = Cursor::default();
                    continue;
                }
                Entry::End => return None,
            };
            self.cursor = next;
            let len = chunk.len() as u64;
            let skipped = self.skip.min(len);
            self.skip -= skipped;
            if skipped == len {
                continue;
            }
            let end = (skipped + self.left).min(len);
            self.left -= end - skipped;
            return Some(make(&chunk, skipped as usize..end as usize));
        }
        None
    }
}
