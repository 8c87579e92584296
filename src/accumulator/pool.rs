//! Blocks, kept between streams, and the budget that those in use are charged to.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use once_cell::sync::Lazy;

use super::block::{Block, Place};
use crate::accumulator::budget::{Mark, MemoryBudget};

/// The sizes of blocks in bytes: powers of two, from this to that.
pub(super) const SMALLEST: usize = if cfg!(accumulator_loom) { 64 } else { 1024 };
pub(super) const LARGEST: usize = if cfg!(accumulator_loom) { SMALLEST } else { 64 * 1024 };

const SIZES: usize = (LARGEST / SMALLEST).ilog2() as usize + 1;

/// Bytes of each size that are kept, and of the largest: 5 MiB in all at the most.
const KEPT: usize = 512 * 1024;
const KEPT_OF_LARGEST: usize = 4 * KEPT;

/// What a block takes beside its words.
const BESIDE: u64 = 128;

/// A bounded lock-free pool of blocks.
///
/// What a layer's pool hands out holds the bytes of earlier streams. That is why only a log with a lone writer
/// may use such blocks: its readers never look beyond what the writer has claimed.
#[derive(Debug)]
pub(crate) struct Pool {
    sizes: [ArrayQueue<Arc<Block>>; SIZES],
    budget: Option<MemoryBudget>,
    /// Whether it keeps blocks zeroed, for many writers. They are zeroed when they come back: then nobody
    /// waits for it.
    pub(super) is_zeroed: bool,
}

/// The pool of accumulators that belong to no layer, for many writers.
pub(super) static ZEROED: Lazy<Arc<Pool>> = Lazy::new(|| Arc::new(Pool::with(None, true)));

/// The pool of accumulators that belong to no layer, for a lone writer.
pub(super) static USED: Lazy<Arc<Pool>> = Lazy::new(|| Arc::new(Pool::with(None, false)));

// === impl Pool ===

impl Pool {
    /// The pool of a layer, for lone writers.
    pub(crate) fn new(budget: MemoryBudget) -> Self {
        Self::with(Some(budget), false)
    }

    pub(super) fn with(budget: Option<MemoryBudget>, is_zeroed: bool) -> Self {
        let queue = |n| {
            let size = SMALLEST << n;
            ArrayQueue::new(if size == LARGEST { KEPT_OF_LARGEST / size } else { KEPT / size })
        };
        Self { sizes: std::array::from_fn(queue), budget, is_zeroed }
    }

    pub(crate) fn shared() -> Arc<Self> {
        Arc::clone(&USED)
    }

    /// Whether it is short of memory, so that what can be moved out of it should be.
    pub(crate) fn is_beyond(&self, mark: Mark) -> bool {
        self.budget.as_ref().is_some_and(|budget| budget.is_beyond(mark))
    }

    pub(super) fn limit(&self) -> Option<u64> {
        self.budget.as_ref()?.limit()
    }

    /// Takes `bytes` of the budget, unless more than `mark` would then be in use.
    pub(super) fn charge(&self, bytes: u64, mark: Mark) -> bool {
        self.budget.as_ref().is_none_or(|budget| budget.charge(bytes, mark))
    }

    /// Gives back what was charged.
    pub(super) fn release(&self, bytes: u64) {
        if let Some(budget) = &self.budget {
            budget.release(bytes);
        }
    }

    /// A block of `bytes`, a power of two, unless the budget does not allow for it.
    pub(super) fn take(self: &Arc<Self>, place: Place, bytes: usize, mark: Mark) -> Option<Arc<Block>> {
        if !self.charge(charge_of(bytes), mark) {
            return None;
        }
        let kept = self.of(bytes).and_then(ArrayQueue::pop);
        let mut block = kept.unwrap_or_else(|| Arc::new(Block::new(bytes)));
        let owned = Arc::get_mut(&mut block).expect("it is new, or referred to from the pool alone");
        owned.place(place, Some(Arc::clone(self)));
        Some(block)
    }

    /// Keeps a block that nobody uses, if there is room.
    pub(super) fn keep(&self, block: Arc<Block>) {
        if let Some(size) = self.of(block.capacity()) {
            // What does not fit is freed.
            let _ = size.push(block);
        }
    }

    fn of(&self, bytes: usize) -> Option<&ArrayQueue<Arc<Block>>> {
        self.sizes.get((bytes / SMALLEST).checked_ilog2()? as usize)
    }
}

/// What a block of `bytes` is charged.
pub(super) fn charge_of(bytes: usize) -> u64 {
    bytes as u64 + BESIDE
}

impl Default for Pool {
    fn default() -> Self {
        Self::new(MemoryBudget::unlimited())
    }
}
