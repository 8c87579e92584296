//! What was kept of a stream.

use std::fmt;
use std::iter;
use std::sync::Arc;

use bytes::Bytes;

use super::block::{Block, Cursor, Entry};

/// What an accumulator kept of a stream: a snapshot that never changes.
///
/// Making one copies no bytes: it shares the accumulator's blocks and keeps them alive. Chunks keep the
/// boundaries that they had in the stream, save where a limit cut one.
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

/// A run of bytes in a chain of blocks.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    first: Arc<Block>,
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
    pub(super) fn new(head: Part, tail: Option<Part>, truncated: bool) -> Self {
        Self { parts: [Some(head), tail], truncated }
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

// === impl Part ===

impl Part {
    pub(super) fn new(first: Arc<Block>, len: u64) -> Self {
        Self { first, skip: 0, len }
    }

    /// The last `keep` bytes of this part.
    pub(super) fn last(mut self, keep: u64) -> Self {
        let cut = self.len.saturating_sub(keep);
        self.skip += cut;
        self.len -= cut;
        self
    }

    fn chunks(&self) -> impl Iterator<Item = Bytes> {
        let mut chunks = Chunks {
            block: Arc::clone(&self.first),
            cursor: Cursor::default(),
            skip: self.skip,
            left: self.len,
        };
        iter::from_fn(move || chunks.next())
    }
}

// === impl Chunks ===

impl Chunks {
    fn next(&mut self) -> Option<Bytes> {
        while self.left > 0 {
            let (entry, next) = self.block.read(self.cursor);
            self.cursor = next;
            let len = match &entry {
                Entry::Copied(chunk) => chunk.len(),
                Entry::Referenced(chunk) => chunk.len(),
                Entry::Next(next) => {
                    self.block = Arc::clone(next);
                    self.cursor = Cursor::default();
                    continue;
                }
                Entry::End => return None,
            };
            let skipped = self.skip.min(len as u64);
            self.skip -= skipped;
            if skipped == len as u64 {
                continue;
            }
            let chunk = match entry {
                Entry::Copied(chunk) => Bytes::from(chunk.to_vec()),
                Entry::Referenced(chunk) => chunk.clone(),
                Entry::Next(_) | Entry::End => return None,
            };
            let end = (skipped + self.left).min(len as u64);
            self.left -= end - skipped;
            return Some(chunk.slice(skipped as usize..end as usize));
        }
        None
    }
}
