//! The log of a stream: blocks linked one to the next, a first one to read from, and a lone writer at the last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use bytes::Bytes;

use super::block::{Block, Chain, Origin, Pool};
use super::budget::Mark;
use super::layout::{BY_REFERENCE, Claim};
use super::link::Link;
use super::pool::{LARGEST, SMALLEST};
use super::span::LogSpan;

/// An append-only log of chunks with one [`LogWriter`].
///
/// Positions in it are those of the stream, in bytes. Where a writer skipped bytes, two blocks do not adjoin.
#[derive(Debug)]
pub(super) struct Log {
    first: First,
    limits: LogLimits,
    /// Set once a chunk did not fit.
    overflowed: AtomicBool,
}

/// The bounds of a log's blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogLimits {
    /// The most bytes of content in the log.
    pub(super) content: u64,
    /// The bytes of its largest blocks, a power of two.
    pub(super) largest_block: usize,
    /// The most bytes of content in one block, unless a single chunk is larger.
    pub(super) block_content: u64,
}

/// The only writer of a log. It keeps the last block at hand, so that appending is a plain copy.
#[derive(Debug, Default)]
pub(super) struct LogWriter {
    last: Chain,
    claim: Claim,
    /// Bytes and chunks of the stream from the end of the last block, or else from its start, to here.
    beyond: (u64, u64),
}

/// Why a [`LogWriter`] did not append a chunk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The log's limit leaves room for this many bytes only.
    OverLimit(u64),
    /// The memory budget does not allow for it.
    OverBudget,
}

/// The first block. Only a log that is trimmed pays for one that can be exchanged while it is read.
#[derive(Debug)]
enum First {
    Fixed(Link<Block>),
    Moving(ArcSwapOption<Block>),
}

// === impl LogLimits ===

impl LogLimits {
    /// At most `content` bytes.
    pub(super) const fn limited(content: u64) -> Self {
        Self { content, largest_block: LARGEST, block_content: u64::MAX }
    }

    /// For a log that is trimmed to `keep` bytes: its blocks are small in comparison.
    pub(super) fn trimmed(keep: u64) -> Self {
        let largest = (keep as usize / 4).clamp(SMALLEST, LARGEST);
        Self { content: u64::MAX, largest_block: 1 << largest.ilog2(), block_content: (keep / 4).max(1) }
    }

    /// The bytes of the block that follows one of `before` bytes and takes a chunk of `len` bytes, where the limit
    /// leaves `left` bytes.
    pub(super) fn block_size(&self, before: usize, len: usize, left: u64) -> usize {
        // Content of short chunks takes more memory than its bytes: as a rule, an eighth.
        let left = (left.saturating_add(left / 8)).min(LARGEST as u64) as usize;
        let mut grown = (before * 2).clamp(SMALLEST, self.largest_block);
        if len >= BY_REFERENCE {
            // It takes only a few chunks of this size, which need few words.
            let chunks = (self.block_content / len as u64).clamp(1, LARGEST as u64) as usize;
            grown = grown.min((chunks * Block::needed(len)).next_power_of_two());
        }
        grown.min(left.next_power_of_two()).max(Block::needed(len).next_power_of_two()).max(SMALLEST)
    }

    /// The origin of a block behind `end`, which takes a chunk of `len` bytes.
    pub(super) fn origin(&self, (base, first): (u64, u64), len: usize) -> Origin {
        Origin { base, first, room: (self.content - base).min(self.block_content.max(len as u64)) }
    }
}

// === impl Log ===

impl Log {
    /// A log that keeps its first `max` bytes.
    pub(super) fn limited(max: u64) -> Self {
        let first = First::Fixed(Link::new());
        Self { first, limits: LogLimits::limited(max), overflowed: AtomicBool::new(false) }
    }

    /// A log whose first blocks can be released.
    pub(super) fn trimmable(limits: LogLimits) -> Self {
        let first = First::Moving(ArcSwapOption::empty());
        Self { first, limits, overflowed: AtomicBool::new(false) }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limits.content
    }

    pub(super) fn has_overflowed(&self) -> bool {
        // Acquire: pairs with the Release in `overflow`.
        self.overflowed.load(Ordering::Acquire)
    }

    fn overflow(&self, refusal: Refusal) -> Refusal {
        // Release: pairs with the Acquire in `has_overflowed`. Without it a reader could see the overflow before the
        // chunks that fitted.
        self.overflowed.store(true, Ordering::Release);
        refusal
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
            First::Moving(first) => drop(exchange(first, Some(Arc::clone(block)))),
        }
    }

    /// Releases all blocks.
    pub(super) fn clear(&self) {
        if let First::Moving(first) = &self.first {
            drop(exchange(first, None));
        }
    }

    /// Releases the blocks before `block`, unless all were released.
    pub(super) fn release_before(&self, block: &Arc<Block>) {
        if let First::Moving(first) = &self.first
            && first.load().is_some()
        {
            drop(exchange(first, Some(Arc::clone(block))));
        }
    }

    /// Releases the first blocks for as long as `may_go`, which gets the bytes and chunks before the next block,
    /// allows it.
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
            drop(exchange(start, Some(first)));
        }
    }

    /// The position up to which the log is claimed now.
    pub(super) fn end(&self) -> u64 {
        self.first().map_or(0, |first| Block::last(&first).end().0)
    }

    /// The last `most` bytes before position `end`, of those that are kept.
    pub(super) fn span(&self, end: u64, most: u64) -> Option<LogSpan> {
        LogSpan::before(self.first()?, end, most)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        match &mut self.first {
            First::Fixed(first) => drop(first.take().map(Chain::new)),
            First::Moving(first) => drop(exchange(first, None)),
        }
    }
}

/// Exchanges what `first` holds, and returns it as a chain, which is freed in a loop.
fn exchange(first: &ArcSwapOption<Block>, block: Option<Arc<Block>>) -> Option<Chain> {
    first.swap(block).map(Chain::new)
}

// === impl LogWriter ===

impl LogWriter {
    /// Bytes and chunks of the stream up to here.
    pub(super) fn end(&self) -> (u64, u64) {
        let (bytes, chunks) = self.last.block().map_or((0, 0), |block| block.end_of(self.claim));
        (bytes + self.beyond.0, chunks + self.beyond.1)
    }

    /// Copies a chunk to the last block. Returns false if it does not fit there, or is to be kept by reference.
    #[inline]
    pub(super) fn append(&mut self, chunk: &Bytes, at: u64) -> bool {
        chunk.len() < BY_REFERENCE && self.put(chunk, at)
    }

    /// Copies a small chunk to the last block, or keeps a large one there by reference, for which a budget must have
    /// been charged. Returns false if it does not fit there.
    #[inline]
    pub(super) fn put(&mut self, chunk: &Bytes, at: u64) -> bool {
        let Some(block) = self.last.block() else {
            return false;
        };
        let claim = if chunk.len() < BY_REFERENCE {
            block.append_alone(self.claim, chunk, at)
        } else {
            block.refer_alone(self.claim, chunk, at)
        };
        let Some(claim) = claim else {
            return false;
        };
        self.claim = claim;
        true
    }

    /// Appends a chunk to `log`, to a new block of `pool` if need be. Returns whether there was such a need.
    pub(super) fn append_to(
        &mut self,
        log: &Log,
        pool: &Arc<Pool>,
        mark: Mark,
        chunk: &Bytes,
        at: u64,
    ) -> Result<bool, Refusal> {
        let by_reference = chunk.len() >= BY_REFERENCE;
        let left = log.limits.content - self.end().0;
        if chunk.len() as u64 > left {
            return Err(log.overflow(Refusal::OverLimit(left)));
        }
        if by_reference && !pool.charge(chunk.len() as u64, mark) {
            return Err(log.overflow(Refusal::OverBudget));
        }
        let mut grown = false;
        while !self.put(chunk, at) {
            if !self.grow(log, pool, mark, chunk.len(), left) {
                if by_reference {
                    pool.release(chunk.len() as u64);
                }
                return Err(log.overflow(Refusal::OverBudget));
            }
            grown = true;
        }
        Ok(grown)
    }

    /// Goes on to a new block with room for a chunk of `len` bytes. Returns false if the budget forbids it.
    #[cold]
    fn grow(&mut self, log: &Log, pool: &Arc<Pool>, mark: Mark, len: usize, left: u64) -> bool {
        let before = self.last.block().map_or(0, |block| block.capacity());
        let origin = log.limits.origin(self.end(), len);
        let Some(block) = pool.take(origin, log.limits.block_size(before, len, left), mark) else {
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
        *self = Self { last: Chain::new(block), ..Self::default() };
        true
    }

    /// Leaves out the next `bytes` of the stream: what is appended next goes to a new block behind them.
    pub(super) fn skip(&mut self, bytes: u64) {
        if let Some(last) = self.last.block() {
            last.close();
            self.claim = self.claim.closed();
        }
        self.beyond.0 += bytes;
    }

    /// Closes the last block and releases it. The writer goes on, in the same log or another, `bytes` and `chunks`
    /// further.
    pub(super) fn leave(&mut self, bytes: u64, chunks: u64) {
        let (base, first) = self.end();
        if let Some(last) = self.last.block() {
            last.close();
        }
        *self = Self { beyond: (base + bytes, first + chunks), ..Self::default() };
    }
}
