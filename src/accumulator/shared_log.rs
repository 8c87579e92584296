//! A log with any number of writers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::block::{Block, Chain, Cursor, Entry, Pool};
use super::budget::Mark;
use super::layout::BY_REFERENCE;
use super::link::Link;
use super::log::LogLimits;
use super::raw::AtomicPtr;
use super::span::LogSpan;

/// A log with any number of writers. Its blocks live as long as it does.
#[derive(Debug)]
pub(super) struct SharedLog {
    first: Link<Block>,
    pool: Arc<Pool>,
    limits: LogLimits,
    /// The last block, or the one before it; null before there is one.
    last: AtomicPtr<Block>,
    /// Set once a chunk did not fit. Nothing is appended after it, so that content stays a prefix.
    overflowed: AtomicBool,
}

// === impl SharedLog ===

impl SharedLog {
    /// A log for at most `limit` bytes. `pool` must keep zeroed blocks.
    pub(super) fn new(limit: u64, pool: &Arc<Pool>) -> Self {
        Self {
            first: Link::new(),
            pool: Arc::clone(pool),
            limits: LogLimits::limited(limit),
            last: AtomicPtr::new(std::ptr::null_mut()),
            overflowed: AtomicBool::new(false),
        }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limits.content
    }

    /// Refuses every further chunk.
    fn close(&self) {
        // Release: pairs with the Acquire in `has_overflowed`.
        self.overflowed.store(true, Ordering::Release);
    }

    pub(super) fn has_overflowed(&self) -> bool {
        // Acquire: pairs with the Release in `close`.
        self.overflowed.load(Ordering::Acquire)
    }

    /// Bytes appended so far. A chunk that is being appended right now may be counted.
    pub(super) fn len(&self) -> u64 {
        let mut end = 0;
        let mut block = self.last();
        while let Some(last) = block {
            end = last.end().0;
            block = last.next().get();
        }
        end
    }

    /// Appends a chunk, from any thread. Returns false if the limit leaves too little room: then nothing is appended,
    /// and no later chunk is taken either.
    #[inline]
    pub(super) fn append(&self, chunk: Bytes, at: u64) -> bool {
        let len = chunk.len();
        if len == 0 {
            return true;
        }
        if len >= BY_REFERENCE && !self.charge(len) {
            return false;
        }
        while !self.has_overflowed() {
            let last = self.last();
            if let Some(block) = last
                && let Some(claim) = block.claim_shared(len)
            {
                block.fill(claim, chunk, at);
                return true;
            }
            self.grow(last, len);
        }
        if len >= BY_REFERENCE {
            self.pool.release(len as u64);
        }
        false
    }

    /// Charges a chunk that is kept by reference.
    fn charge(&self, len: usize) -> bool {
        let charged = self.pool.charge(len as u64, Mark::Head);
        if !charged {
            self.close();
        }
        charged
    }

    #[inline]
    fn last(&self) -> Option<&Block> {
        // SAFETY: what `last` points to is reached from `first` by links that are set once, so it lives as long as
        // `self` is borrowed (invariant 7). Acquire: pairs with the Release in `grow`.
        unsafe { self.last.load(Ordering::Acquire).as_ref() }
    }

    /// Goes on behind `full`, which has no room for a chunk of `len` bytes, or sees that the limit leaves none.
    #[cold]
    fn grow(&self, full: Option<&Block>, len: usize) {
        if let Some(full) = full {
            if full.has_words_for(len) {
                return self.refuse(full.end().0, len);
            }
            full.close();
        }
        // Final, because the block is closed.
        let end = full.map_or((0, 0), Block::end);
        let left = self.limits.content - end.0;
        if len as u64 > left {
            return self.refuse(end.0, len);
        }
        let link = full.map_or(&self.first, Block::next);
        if link.as_ptr().is_null() {
            let before = full.map_or(0, Block::capacity);
            let (size, origin) = (self.limits.block_size(before, len, left), self.limits.origin(end, len));
            let Some(block) = self.pool.take(origin, size, Mark::Head) else {
                return self.close();
            };
            // A writer that loses the race goes on with the other's block.
            let _ = link.set(block);
        }
        let old = full.map_or(std::ptr::null_mut(), |full| std::ptr::from_ref(full).cast_mut());
        // If it fails, another writer has gone on already. Release: pairs with the Acquire in `last`. Without it a
        // writer could claim in a block that it does not see whole.
        let _ = self.last.compare_exchange(old, link.as_ptr(), Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Refuses every further chunk, if `len` bytes are too many behind `end`.
    fn refuse(&self, end: u64, len: usize) {
        if len as u64 > self.limits.content - end {
            self.close();
        }
    }

    /// What is published: a prefix of what was appended.
    pub(super) fn published(&self) -> Option<LogSpan> {
        let first = self.first.cloned()?;
        let mut block = &*first;
        let mut cursor = Cursor::default();
        let mut len = 0;
        loop {
            let (entry, next) = block.read(cursor);
            cursor = next;
            match entry {
                Entry::Chunk(chunk) => len += chunk.len() as u64,
                Entry::Next(link) => match link.get() {
                    Some(next) => (block, cursor) = (next, Cursor::default()),
                    None => break,
                },
                Entry::End => break,
            }
        }
        Some(LogSpan::new(Arc::clone(&first), Cursor::default(), 0..len))
    }
}

impl Drop for SharedLog {
    fn drop(&mut self) {
        drop(self.first.take().map(Chain::new));
    }
}
