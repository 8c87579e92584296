//! The log: blocks linked one to the next, a first one to read from, and writers at the last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use bytes::Bytes;

use super::block::{BY_REFERENCE, Block, Chain, Cursor, Entry, Place, Tail};
use super::content::{Content, Part, Piece};
use super::link::Link;
use super::pool::{LARGEST, Pool, SMALLEST};
use super::words::AtomicPtr;
use crate::accumulator::budget::Mark;

/// An append-only log of chunks with one [`Writer`]. For more than one there are [`Writers`].
#[derive(Debug)]
pub(crate) struct Log {
    first: First,
    rules: Rules,
    /// Set once a chunk did not fit.
    overflowed: AtomicBool,
}

/// The first block. Only a log that is trimmed pays for one that can be exchanged while it is read.
#[derive(Debug)]
enum First {
    Fixed(Link),
    Moving(ArcSwapOption<Block>),
}

/// What a log's blocks are made by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Bytes of content in the log at the most.
    pub(super) limit: u64,
    /// Bytes of its largest blocks, a power of two.
    pub(super) largest: usize,
    /// Bytes of content in one block at the most, unless a single chunk is larger.
    pub(super) most: u64,
}

/// The only writer of a log. It keeps the last block at hand, so that appending is a plain copy.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    last: Chain,
    tail: Tail,
    /// Where it stands while it has no block: bytes and chunks before.
    start: (u64, u64),
}

/// A log with any number of writers. Its blocks live as long as it does.
#[derive(Debug)]
pub(super) struct Writers {
    first: Link,
    pool: Arc<Pool>,
    rules: Rules,
    /// The last block, or the one before it; null before there is one.
    last: AtomicPtr<Block>,
    /// Set once a chunk did not fit; nothing is appended after it, so that content stays a prefix.
    overflowed: AtomicBool,
}

/// Why a [`Writer`] did not append a chunk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The log's limit leaves room for so many bytes only.
    OverLimit(u64),
    /// The memory budget does not allow for it.
    OverBudget,
}

// === impl Rules ===

impl Rules {
    pub(super) const fn limited(limit: u64) -> Self {
        Self { limit, largest: LARGEST, most: u64::MAX }
    }

    /// For a log that is trimmed to `keep` bytes: blocks are small against that.
    pub(super) fn trimmed(keep: u64) -> Self {
        let largest = (keep as usize / 4).clamp(SMALLEST, LARGEST);
        Self { limit: u64::MAX, largest: 1 << largest.ilog2(), most: (keep / 4).max(1) }
    }

    /// Bytes for the block behind one of `before` bytes, for a chunk of `len` bytes, where `left` bytes
    /// are left to the limit.
    fn size(&self, before: usize, len: usize, left: u64) -> usize {
        // Of short chunks, content takes more memory than its bytes: an eighth, as a rule.
        let left = (left.saturating_add(left / 8)).min(LARGEST as u64) as usize;
        let mut grown = (before * 2).clamp(SMALLEST, self.largest);
        if len >= BY_REFERENCE {
            // Only a few such chunks may come into it: they need few words.
            let chunks = (self.most / len as u64).clamp(1, LARGEST as u64) as usize;
            grown = grown.min((chunks * Block::needed(len)).next_power_of_two());
        }
        grown.min(left.next_power_of_two()).max(Block::needed(len).next_power_of_two()).max(SMALLEST)
    }

    /// The block behind what ends at `end`, without memory yet.
    fn place(&self, (base, first): (u64, u64), len: usize) -> Place {
        Place { base, first, room: (self.limit - base).min(self.most.max(len as u64)) }
    }
}

// === impl Log ===

impl Log {
    /// A log that keeps its first `max` bytes.
    pub(crate) fn limited(max: u64) -> Self {
        let first = First::Fixed(Link::new());
        Self { first, rules: Rules::limited(max), overflowed: AtomicBool::new(false) }
    }

    /// A log whose first blocks can be let go of.
    pub(super) fn moving(rules: Rules) -> Self {
        let first = First::Moving(ArcSwapOption::empty());
        Self { first, rules, overflowed: AtomicBool::new(false) }
    }

    pub(super) fn limit(&self) -> u64 {
        self.rules.limit
    }

    pub(super) fn has_overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Acquire)
    }

    fn overflow(&self, refused: Refused) -> Refused {
        // Release pairs with the Acquire in `has_overflowed`.
        self.overflowed.store(true, Ordering::Release);
        refused
    }

    /// The first block that is kept.
    pub(super) fn first(&self) -> Option<Arc<Block>> {
        match &self.first {
            First::Fixed(first) => first.cloned(),
            First::Moving(first) => first.load_full(),
        }
    }

    fn set_first(&self, block: &Arc<Block>) {
        match &self.first {
            First::Fixed(first) => {
                // There is one writer, and it begins once.
                let _ = first.set(Arc::clone(block));
            }
            First::Moving(first) => drop(Chain::swapped(first, Some(Arc::clone(block)))),
        }
    }

    /// Lets go of all blocks.
    pub(super) fn clear(&self) {
        if let First::Moving(first) = &self.first {
            drop(Chain::swapped(first, None));
        }
    }

    /// Lets go of the blocks before `block`, unless it has let go of them all.
    pub(super) fn let_go_before(&self, block: &Arc<Block>) {
        if let First::Moving(first) = &self.first
            && first.load().is_some()
        {
            drop(Chain::swapped(first, Some(Arc::clone(block))));
        }
    }

    /// Lets go of the first blocks as long as `may_go` says so of what stands before the next block: its
    /// bytes and chunks.
    pub(super) fn trim(&self, may_go: impl Fn(u64, u64) -> bool) {
        let (First::Moving(start), Some(old)) = (&self.first, self.first()) else {
            return;
        };
        let mut first = Arc::clone(&old);
        while let Some(next) = first.next().cloned()
            && may_go(next.base(), next.first())
        {
            first = next;
        }
        if !Arc::ptr_eq(&first, &old) {
            drop(old);
            drop(Chain::swapped(start, Some(first)));
        }
    }

    /// Bytes of content up to what is claimed now.
    pub(super) fn end(&self) -> u64 {
        self.first().map_or(0, |first| Block::last(&first).end().0)
    }

    /// What a [`Writer`] has appended, less what was trimmed.
    pub(super) fn part(&self) -> Option<Part> {
        let first = self.first()?;
        let len = Block::last(&first).end().0 - first.base();
        Some(Part::new(first, len))
    }

    /// As [`part`](Self::part), of a log that holds the whole content.
    pub(super) fn snapshot(&self) -> Content {
        Content::new(self.part().map(Piece::Part), None, self.has_overflowed())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        match &mut self.first {
            First::Fixed(first) => drop(first.take().map(Chain::new)),
            First::Moving(first) => drop(Chain::swapped(first, None)),
        }
    }
}

impl Chain {
    /// Exchanges what `first` holds.
    fn swapped(first: &ArcSwapOption<Block>, block: Option<Arc<Block>>) -> Option<Self> {
        first.swap(block).map(Self::new)
    }
}

// === impl Writer ===

impl Writer {
    /// Bytes and chunks of the stream up to here.
    pub(super) fn end(&self) -> (u64, u64) {
        self.last.block().map_or(self.start, |block| block.end_at(self.tail))
    }

    /// Copies a chunk to the last block. False where it does not fit there, or is to be kept by
    /// reference.
    #[inline]
    pub(super) fn append(&mut self, chunk: &Bytes, at: u64) -> bool {
        chunk.len() < BY_REFERENCE && self.put(chunk, at)
    }

    /// Copies a small chunk to the last block, or keeps a large one there by reference, for which a budget
    /// must have been charged. False where it does not fit there.
    #[inline]
    pub(super) fn put(&mut self, chunk: &Bytes, at: u64) -> bool {
        let Some(block) = self.last.block() else {
            return false;
        };
        let tail = if chunk.len() < BY_REFERENCE {
            block.append_alone(self.tail, chunk, at)
        } else {
            block.refer_alone(self.tail, chunk, at)
        };
        let Some(tail) = tail else {
            return false;
        };
        self.tail = tail;
        true
    }

    /// Appends a chunk to `log`, to a new block of `pool` if need be. Whether there was such a need.
    pub(super) fn append_to(
        &mut self,
        log: &Log,
        pool: &Arc<Pool>,
        mark: Mark,
        chunk: &Bytes,
        at: u64,
    ) -> Result<bool, Refused> {
        let by_reference = chunk.len() >= BY_REFERENCE;
        let left = log.rules.limit - self.end().0;
        if chunk.len() as u64 > left {
            return Err(log.overflow(Refused::OverLimit(left)));
        }
        if by_reference && !pool.charge(chunk.len() as u64, mark) {
            return Err(log.overflow(Refused::OverBudget));
        }
        let mut grown = false;
        while !self.put(chunk, at) {
            if !self.grow(log, pool, mark, chunk.len(), left) {
                if by_reference {
                    pool.release(chunk.len() as u64);
                }
                return Err(log.overflow(Refused::OverBudget));
            }
            grown = true;
        }
        Ok(grown)
    }

    /// Goes on to a new block with room for a chunk of `len` bytes. False where the budget forbids it.
    #[cold]
    fn grow(&mut self, log: &Log, pool: &Arc<Pool>, mark: Mark, len: usize, left: u64) -> bool {
        let before = self.last.block().map_or(0, |block| block.capacity());
        let place = log.rules.place(self.end(), len);
        let Some(block) = pool.take(place, log.rules.size(before, len, left), mark) else {
            return false;
        };
        match self.last.block() {
            Some(last) => {
                last.close();
                // There is one writer, so nobody set it.
                let _ = last.next().set(Arc::clone(&block));
            }
            None => log.set_first(&block),
        }
        self.last = Chain::new(block);
        self.tail = Tail::default();
        true
    }

    /// Closes its block, lets go of it, and goes on, in the same log or another, `bytes` and `chunks`
    /// further.
    pub(super) fn leave(&mut self, bytes: u64, chunks: u64) {
        let (base, first) = self.end();
        if let Some(last) = self.last.block() {
            last.close();
        }
        *self = Self { start: (base + bytes, first + chunks), ..Self::default() };
    }
}

// === impl Writers ===

impl Writers {
    pub(super) fn new(limit: u64, pool: &Arc<Pool>) -> Self {
        Self {
            first: Link::new(),
            pool: Arc::clone(pool),
            rules: Rules::limited(limit),
            last: AtomicPtr::new(std::ptr::null_mut()),
            overflowed: AtomicBool::new(false),
        }
    }

    pub(super) fn limit(&self) -> u64 {
        self.rules.limit
    }

    /// Takes nothing more.
    fn close(&self) {
        // Release pairs with the Acquire in `have_overflowed`.
        self.overflowed.store(true, Ordering::Release);
    }

    pub(super) fn have_overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Acquire)
    }

    /// Bytes appended so far. A chunk that is being appended right now may be in it.
    pub(super) fn len(&self) -> u64 {
        let mut end = 0;
        let mut block = self.last();
        while let Some(last) = block {
            end = last.end().0;
            block = last.next().get();
        }
        end
    }

    /// Appends a chunk, from any thread. False where the limit leaves too little room: then nothing is
    /// appended, and no later chunk is taken either.
    #[inline]
    pub(super) fn append(&self, chunk: Bytes, at: u64) -> bool {
        let len = chunk.len();
        if len == 0 {
            return true;
        }
        if len >= BY_REFERENCE && !self.charge(len) {
            return false;
        }
        while !self.have_overflowed() {
            let last = self.last();
            if let Some(block) = last
                && let Some(tail) = block.claim_shared(len)
            {
                block.fill(tail, chunk, at);
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
        // SAFETY: what `last` points to is reached from `first` by links that are set once, so it lives as
        // long as `self` is borrowed (invariant 7).
        unsafe { self.last.load(Ordering::Acquire).as_ref() }
    }

    /// Goes on behind `full`, which has no room for a chunk of `len` bytes, or sees that the limit leaves
    /// none.
    #[cold]
    fn grow(&self, full: Option<&Block>, len: usize) {
        if let Some(full) = full {
            if full.has_words_for(len) {
                return self.refuse(full.end().0, len);
            }
            full.close();
        }
        // Final, as the block is closed.
        let end = full.map_or((0, 0), Block::end);
        let left = self.rules.limit - end.0;
        if len as u64 > left {
            return self.refuse(end.0, len);
        }
        let link = full.map_or(&self.first, Block::next);
        if link.as_ptr().is_null() {
            let before = full.map_or(0, Block::capacity);
            let (size, place) = (self.rules.size(before, len, left), self.rules.place(end, len));
            let block = self.pool.take(place, size, Mark::Head);
            let Some(block) = block else {
                return self.close();
            };
            // Whoever loses the race goes on with the other's.
            let _ = link.set(block);
        }
        let old = full.map_or(std::ptr::null_mut(), |full| std::ptr::from_ref(full).cast_mut());
        // Where it fails somebody has gone on already. Release pairs with the Acquire in `last`.
        let _ = self.last.compare_exchange(old, link.as_ptr(), Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Takes nothing more, if `len` bytes are too many behind `end`.
    fn refuse(&self, end: u64, len: usize) {
        if len as u64 > self.rules.limit - end {
            self.close();
        }
    }

    /// What is published: a prefix of what was appended.
    pub(super) fn published(&self) -> Option<Part> {
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
        Some(Part::new(Arc::clone(&first), len))
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        drop(self.first.take().map(Chain::new));
    }
}
