//! The log: blocks linked one to the next, with a first one to read from and a last one to write to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;

use super::block::{Appended, Block, Cursor, Entry};
use super::content::{Content, Part};

/// The smallest and the largest block, in bytes. Any chunk that is copied fits in the smallest.
const SMALLEST: usize = 4096;
const LARGEST: usize = 16 * 1024;

/// An append-only log of chunks within a limit of bytes.
#[derive(Debug)]
pub(crate) struct Log {
    first: ArcSwap<Block>,
    last: ArcSwap<Block>,
    limit: u64,
    largest_block: usize,
    /// Bytes of content in one block at the most.
    most_in_block: u64,
    /// Set once a chunk did not fit; nothing is appended after it, so that content stays a prefix.
    overflowed: AtomicBool,
}

/// The only writer of a log. It keeps the last block at hand, so that appending is a plain copy.
#[derive(Debug)]
pub(crate) struct Writer {
    last: Arc<Block>,
}

// === impl Log ===

impl Log {
    /// A log that keeps at most `limit` bytes.
    pub(super) fn new(limit: u64) -> Self {
        Self::with_blocks(limit, LARGEST, u64::MAX)
    }

    /// A log without a limit for a capture that trims it to `keep` bytes: blocks are small against it.
    pub(super) fn to_be_trimmed(keep: u64) -> Self {
        let block = usize::try_from(keep / 4).unwrap_or(LARGEST);
        Self::with_blocks(u64::MAX, block.clamp(SMALLEST, LARGEST), keep / 4)
    }

    fn with_blocks(limit: u64, largest_block: usize, most_in_block: u64) -> Self {
        // A closed block without words: a stream that yields nothing holds no memory for content.
        let empty = Arc::new(Block::new(0, 0, 0));
        Self {
            first: ArcSwap::new(Arc::clone(&empty)),
            last: ArcSwap::new(empty),
            limit,
            largest_block,
            most_in_block,
            overflowed: AtomicBool::new(false),
        }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes appended so far. A chunk that is being appended right now may be in it.
    pub(super) fn len(&self) -> u64 {
        self.last.load().end()
    }

    #[inline]
    pub(super) fn has_overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Acquire)
    }

    /// Appends a chunk. Where the limit leaves too little room, appends nothing, refuses all later
    /// chunks, and says how many bytes there was room for.
    pub(super) fn append(&self, chunk: &Bytes) -> Result<(), u64> {
        if chunk.is_empty() {
            return Ok(());
        }
        if self.has_overflowed() {
            return Err(0);
        }
        self.append_in_room(chunk).inspect_err(|_| {
            // Release pairs with the Acquire in `has_overflowed`.
            self.overflowed.store(true, Ordering::Release);
        })
    }

    fn append_in_room(&self, chunk: &Bytes) -> Result<(), u64> {
        loop {
            let last = self.last.load();
            match last.append(chunk, self.limit) {
                Appended::Yes => return Ok(()),
                Appended::OverLimit(room) => return Err(room),
                Appended::Full => self.advance(&last),
            }
        }
    }

    /// Makes the block behind the closed block `full` the last one.
    fn advance(&self, full: &Arc<Block>) {
        let next = full.next_or(|| {
            let bytes = (full.capacity() * 2).clamp(SMALLEST, self.largest_block);
            Block::new(full.end(), bytes, self.most_in_block)
        });
        // Another thread may have moved on already: then its block is the newer one.
        self.last.compare_and_swap(full, next);
    }

    /// Lets go of the first blocks as long as `keep` bytes stay behind them. For the only writer.
    fn trim(&self, keep: u64) {
        let len = self.len();
        loop {
            let first = self.first.load();
            match first.next() {
                Some(next) if len - next.base() >= keep => self.first.store(next),
                _ => return,
            }
        }
    }

    /// The chunks that the only writer has appended, less what was trimmed.
    pub(super) fn part(&self) -> Part {
        // In this order: what is trimmed in between is still behind `first`.
        let first = self.first.load_full();
        let len = self.len() - first.base();
        Part::new(first, len)
    }

    /// The published chunks of any number of writers: a prefix of what was appended.
    fn published(&self) -> Part {
        let first = self.first.load_full();
        let mut block = Arc::clone(&first);
        let mut cursor = Cursor::default();
        let mut len = 0;
        loop {
            let (entry, next) = block.read(cursor);
            cursor = next;
            match entry {
                Entry::Copied(_, bytes) => len += bytes as u64,
                Entry::Referenced(chunk) => len += chunk.len() as u64,
                Entry::Next(next) => (block, cursor) = (next, Cursor::default()),
                Entry::End => break,
            }
        }
        Part::new(first, len)
    }

    /// What any number of writers have published.
    pub(super) fn snapshot(&self) -> Content {
        Content::new(self.published(), None, self.has_overflowed())
    }
}

// === impl Writer ===

impl Writer {
    /// The writer of `log`, which must have no other.
    pub(super) fn new(log: &Log) -> Self {
        Self { last: log.last.load_full() }
    }

    /// Appends the part of `chunk` that fits into the log's limit; after a chunk that did not, nothing.
    #[inline]
    pub(super) fn append(&mut self, log: &Log, chunk: &Bytes) {
        if !chunk.is_empty() && !log.has_overflowed() {
            self.append_what_fits(log, chunk);
        }
    }

    /// As [`append`](Self::append), and lets go of what is more than `keep` bytes behind.
    pub(super) fn append_and_trim(&mut self, log: &Log, chunk: &Bytes, keep: u64) {
        let before = Arc::as_ptr(&self.last);
        self.append(log, chunk);
        if before != Arc::as_ptr(&self.last) {
            log.trim(keep);
        }
    }

    fn append_what_fits(&mut self, log: &Log, chunk: &Bytes) {
        loop {
            match self.last.append_alone(chunk, log.limit) {
                Appended::Yes => return,
                Appended::Full => {
                    log.advance(&self.last);
                    self.last = log.last.load_full();
                }
                Appended::OverLimit(room) => {
                    log.overflowed.store(true, Ordering::Release);
                    if room > 0 {
                        self.append_what_fits(log, &chunk.slice(..room as usize));
                    }
                    return;
                }
            }
        }
    }
}
