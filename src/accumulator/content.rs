//! What was kept of a stream.

use std::fmt;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::block::{Block, Chain, Cursor, Entry};

/// What an accumulator kept of a stream: a snapshot that never changes.
///
/// Making one copies no bytes: it shares the accumulator's blocks and keeps them alive. Chunks keep the
/// boundaries and arrival times that they had in the stream, save where a limit cut one.
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
    parts: [Option<Part>; 2],
    truncated: bool,
}

/// One chunk of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamChunk {
    /// Its bytes.
    pub bytes: Bytes,
    /// When it arrived, from the stream's opening, to the next lower multiple of 1.024 µs; 13 days at
    /// the most.
    pub arrival: Duration,
}

/// A run of bytes in a chain of blocks.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    first: Chain,
    /// Bytes to leave out at the start.
    skip: u64,
    /// Bytes behind them.
    len: u64,
}

struct Chunks {
    block: Arc<Block>,
    cursor: Cursor,
    skip: u64,
    left: u64,
}

// === impl Content ===

impl Content {
    pub(super) fn new(head: Option<Part>, tail: Option<Part>, truncated: bool) -> Self {
        Self { parts: [head, tail], truncated }
    }

    pub(super) fn truncated(mut self, truncated: bool) -> Self {
        self.truncated = truncated;
        self
    }

    /// Bytes kept.
    pub fn len(&self) -> usize {
        self.parts().map(|part| part.len as usize).sum()
    }

    /// Whether nothing was kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the stream had bytes that are not here.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// All bytes in one piece. Copies, unless there is one large chunk only.
    pub fn to_bytes(&self) -> Bytes {
        let mut chunks = self.chunks();
        match (chunks.next(), chunks.next()) {
            (None, _) => Bytes::new(),
            (Some(only), None) => only,
            (Some(first), Some(second)) => {
                let mut all = Vec::with_capacity(self.len());
                for chunk in [first, second].into_iter().chain(chunks) {
                    all.extend_from_slice(&chunk);
                }
                all.into()
            }
        }
    }

    /// The chunks, in order. Small ones are copied out, large ones shared.
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
        self.parts().flat_map(Part::chunks)
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().flatten()
    }
}

impl fmt::Debug for Content {
    /// Shows the size only: what streams hold is often not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("len", &self.len()).field("truncated", &self.truncated).finish()
    }
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
        Self { first: Chain::new(first), skip: 0, len }
    }

    /// The last `keep` bytes of this part.
    pub(super) fn last(mut self, keep: u64) -> Self {
        let cut = self.len.saturating_sub(keep);
        self.skip += cut;
        self.len -= cut;
        self
    }

    fn chunks(&self) -> impl Iterator<Item = StreamChunk> {
        let mut chunks = self.first.block().map(|block| Chunks {
            block: Arc::clone(block),
            cursor: Cursor::default(),
            skip: self.skip,
            left: self.len,
        });
        iter::from_fn(move || chunks.as_mut()?.next())
    }
}

// === impl Chunks ===

impl Chunks {
    fn next(&mut self) -> Option<StreamChunk> {
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
            let bytes = chunk.bytes().slice(skipped as usize..end as usize);
            return Some(StreamChunk::new(bytes, chunk.at()));
        }
        None
    }
}
