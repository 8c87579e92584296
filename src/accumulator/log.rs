//! The log: blocks linked one to the next, a first one to read from, and writers at the last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;

use super::block::{Appended, Block, Cursor, Entry};
use super::content::Part;
use super::pool::{LARGE, Pool, SMALL};

/// An append-only log of chunks within a limit of bytes. It has one [`Writer`], or [`Writers`].
#[derive(Debug)]
pub(crate) struct Log {
    first: First,
    limit: u64,
    largest_block: usize,
    pool: Option<Arc<Pool>>,
    /// Bytes of content in one block at the most.
    most_in_block: u64,
    /// Set once a chunk of [`Writers`] did not fit; they append nothing after it, so that content stays
    /// a prefix.
    overflowed: AtomicBool,
    /// Bytes that the [`Writer`] has appended.
    written: AtomicU64,
}

/// The first block. Only a trimmed log pays for one that can be exchanged while it is read.
#[derive(Debug)]
enum First {
    Fixed(Arc<Block>),
    Moving(ArcSwap<Block>),
}

/// The only writer of a log. It keeps the last block at hand, so that appending is a plain copy.
#[derive(Debug)]
pub(crate) struct Writer {
    last: Arc<Block>,
}

/// Any number of writers of a log. They share the last block, and so keep all of the log alive.
#[derive(Debug)]
pub(super) struct Writers {
    last: ArcSwap<Block>,
}

// === impl Log ===

impl Log {
    /// A log for [`Writers`] that keeps at most `limit` bytes.
    pub(super) fn shared(limit: u64) -> Self {
        Self::with_blocks(First::Fixed, limit, LARGE, u64::MAX, None)
    }

    /// A log for a [`Writer`] that keeps at most `limit` bytes.
    pub(super) fn limited(limit: u64, pool: &Arc<Pool>) -> Self {
        Self::with_blocks(First::Fixed, limit, LARGE, u64::MAX, Some(pool))
    }

    /// A log for a [`Writer`] that trims it to `keep` bytes: blocks are small against that.
    pub(super) fn trimmed(keep: u64, pool: &Arc<Pool>) -> Self {
        let largest = if keep < 4 * LARGE as u64 { SMALL } else { LARGE };
        let moving = |first| First::Moving(ArcSwap::new(first));
        Self::with_blocks(moving, u64::MAX, largest, keep / 4, Some(pool))
    }

    fn with_blocks(
        first: impl FnOnce(Arc<Block>) -> First,
        limit: u64,
        largest_block: usize,
        most_in_block: u64,
        pool: Option<&Arc<Pool>>,
    ) -> Self {
        // A closed block without words: a stream that yields nothing holds no memory for content.
        let empty = Arc::new(Block::new(0, 0, 0, None));
        Self {
            first: first(empty),
            limit,
            largest_block,
            pool: pool.cloned(),
            most_in_block,
            overflowed: AtomicBool::new(false),
            written: AtomicU64::new(0),
        }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that the [`Writer`] has appended.
    pub(super) fn written(&self) -> u64 {
        // Pairs with the Release in `add_written`: the chunks are seen.
        self.written.load(Ordering::Acquire)
    }

    #[inline]
    pub(super) fn has_overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Acquire)
    }

    /// The block behind the closed block `full`.
    fn behind<'a>(&self, full: &'a Block) -> &'a Arc<Block> {
        full.next_or(|| {
            let bytes = if full.capacity() == 0 { SMALL } else { self.largest_block };
            Block::new(full.end(), bytes, self.most_in_block, self.pool.as_ref())
        })
    }

    #[inline]
    fn add_written(&self, bytes: usize) {
        let written = self.written.load(Ordering::Relaxed) + bytes as u64;
        // Release pairs with the Acquire in `written`.
        self.written.store(written, Ordering::Release);
    }

    fn first(&self) -> Arc<Block> {
        match &self.first {
            First::Fixed(first) => Arc::clone(first),
            First::Moving(first) => first.load_full(),
        }
    }

    /// Lets go of the first blocks as long as `keep` bytes stay behind them. For the [`Writer`].
    fn trim(&self, keep: u64) {
        let First::Moving(start) = &self.first else {
            return;
        };
        let (written, old) = (self.written(), self.first());
        let mut first = &old;
        while let Some(next) = first.next()
            && written - next.base() >= keep
        {
            first = next;
        }
        if !Arc::ptr_eq(first, &old) {
            start.store(Arc::clone(first));
        }
    }

    /// What the [`Writer`] has appended, less what was trimmed.
    pub(super) fn part(&self) -> Part {
        // In this order: what is trimmed in between is still behind `first`.
        let first = self.first();
        let len = self.written() - first.base();
        Part::new(first, len)
    }

    /// What [`Writers`] have published: a prefix of what they appended.
    pub(super) fn published(&self) -> Part {
        let first = self.first();
        let mut block = &first;
        let mut cursor = Cursor::default();
        let mut len = 0;
        loop {
            let (entry, next) = block.read(cursor);
            cursor = next;
            match entry {
                Entry::Copied(chunk) => len += chunk.len() as u64,
                Entry::Referenced(chunk) => len += chunk.len() as u64,
                Entry::Next(next) => (block, cursor) = (next, Cursor::default()),
                Entry::End => break,
            }
        }
        Part::new(first, len)
    }
}

// === impl Writer ===

impl Writer {
    /// The writer of `log`, which must have no other.
    pub(super) fn new(log: &Log) -> Self {
        Self { last: log.first() }
    }

    /// Appends the part of `chunk` that fits into the log's limit; after a chunk that did not, nothing.
    #[inline]
    pub(super) fn append(&mut self, log: &Log, chunk: &Bytes) {
        match self.last.append_alone(chunk, log.limit) {
            Appended::Yes => log.add_written(chunk.len()),
            Appended::Full => self.append_to_next(log, chunk),
            Appended::OverLimit(room) => self.append_first_bytes(log, chunk, room),
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

    #[cold]
    fn append_to_next(&mut self, log: &Log, chunk: &Bytes) {
        self.last = Arc::clone(log.behind(&self.last));
        self.append(log, chunk);
    }

    /// Fills the log to its limit, so that there is no room for any later chunk.
    #[cold]
    fn append_first_bytes(&mut self, log: &Log, chunk: &Bytes, room: u64) {
        if room > 0 {
            self.append(log, &chunk.slice(..room as usize));
        }
    }
}

// === impl Writers ===

impl Writers {
    /// The writers of `log`, which must have no others.
    pub(super) fn new(log: &Log) -> Self {
        Self { last: ArcSwap::new(log.first()) }
    }

    /// Bytes appended so far. A chunk that is being appended right now may be in it.
    pub(super) fn len(&self) -> u64 {
        self.last.load().end()
    }

    /// Appends a chunk, from any thread. False where the log's limit leaves too little room: then
    /// nothing is appended, and no later chunk is taken either.
    pub(super) fn append(&self, log: &Log, chunk: &Bytes) -> bool {
        if chunk.is_empty() {
            return true;
        }
        while !log.has_overflowed() {
            let last = self.last.load();
            match last.append(chunk, log.limit) {
                Appended::Yes => return true,
                // Release pairs with the Acquire in `has_overflowed`.
                Appended::OverLimit(_) => log.overflowed.store(true, Ordering::Release),
                Appended::Full => {
                    let next = Arc::clone(log.behind(&last));
                    // Another thread may have moved on already: then its block is the newer one.
                    self.last.compare_and_swap(&*last, next);
                }
            }
        }
        false
    }
}
