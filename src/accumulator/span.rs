//! A stretch of a log.

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use super::block::{Block, Chain, ChunkRef, Cursor, Entry};
use super::chunk::StreamChunk;

/// The bytes between two positions of a log. It keeps the blocks that hold them.
#[derive(Clone, Debug)]
pub(super) struct LogSpan {
    first: Chain,
    cursor: Cursor,
    /// The position at the cursor.
    position: u64,
    range: Range<u64>,
}

/// Reads a span chunk by chunk.
struct SpanReader {
    block: Arc<Block>,
    cursor: Cursor,
    position: u64,
    range: Range<u64>,
}

// === impl LogSpan ===

impl LogSpan {
    /// The bytes at `range`, the first of which stands at `cursor` in the block `first`.
    pub(super) fn new(first: Arc<Block>, cursor: Cursor, range: Range<u64>) -> Self {
        Self { first: Chain::new(first), cursor, position: range.start, range }
    }

    /// The last `most` bytes before position `end`, of those that the log has behind its last gap, from `first` on.
    pub(super) fn before(mut first: Arc<Block>, end: u64, most: u64) -> Option<Self> {
        let mut start = first.base();
        let mut last = &*first;
        while let Some(next) = last.next().get()
            && next.base() < end
        {
            // Final, because only a closed block has a next one.
            if next.base() > last.end().0 {
                start = next.base();
            }
            last = next;
        }
        let end = end.min(last.end().0);
        let start = start.max(end.saturating_sub(most));
        if start >= end {
            return None;
        }
        // Blocks before it need not be kept.
        while let Some(next) = first.next().cloned()
            && next.base() <= start
        {
            first = next;
        }
        let position = first.base();
        Some(Self { first: Chain::new(first), cursor: Cursor::default(), position, range: start..end })
    }

    pub(super) fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Copies the bytes to the end of `buffer`.
    pub(super) fn copy_to(&self, buffer: &mut Vec<u8>) {
        if let Some(mut reader) = self.reader() {
            while reader.step(|chunk, within| chunk.copy_to(within, buffer)).is_some() {}
        }
    }

    /// The chunks, of which the first and the last may be cut.
    pub(super) fn into_chunks(self) -> impl Iterator<Item = StreamChunk> + Send + use<> {
        let mut reader = self.reader();
        iter::from_fn(move || {
            reader.as_mut()?.step(|chunk, within| StreamChunk::new(chunk.bytes().slice(within), chunk.at()))
        })
    }

    fn reader(&self) -> Option<SpanReader> {
        let Self { first, cursor, position, range } = self;
        let block = Arc::clone(first.block()?);
        Some(SpanReader { block, cursor: *cursor, position: *position, range: range.clone() })
    }
}

// === impl SpanReader ===

impl SpanReader {
    /// Gives `read` the next chunk, and what of it lies in the span.
    fn step<T>(&mut self, read: impl FnOnce(&ChunkRef<'_>, Range<usize>) -> T) -> Option<T> {
        while self.position < self.range.end {
            let (entry, next) = self.block.read(self.cursor);
            let chunk = match entry {
                Entry::Chunk(chunk) => chunk,
                Entry::Next(next) => {
                    self.block = next.cloned()?;
                    self.cursor = Cursor::default();
                    self.position = self.block.base();
                    continue;
                }
                Entry::End => return None,
            };
            self.cursor = next;
            let base = self.position;
            self.position += chunk.len() as u64;
            let (start, end) = (base.max(self.range.start), self.position.min(self.range.end));
            if start < end {
                return Some(read(&chunk, (start - base) as usize..(end - base) as usize));
            }
        }
        None
    }
}
