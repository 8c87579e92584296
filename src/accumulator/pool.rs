//! Blocks, kept between streams, and the budget that those in use are charged to.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use super::block::{Block, Place};
use crate::budget::{Mark, MemoryBudget};

/// The sizes of blocks in bytes: powers of two, from this to that.
pub(super) const SMALLEST: usize = if cfg!(accumulator_loom) { 64 } else { 1024 };
pub(super) const LARGEST: usize = if cfg!(accumulator_loom) { SMALLEST } else { 64 * 1024 };

const SIZES: usize = (LARGEST / SMALLEST).ilog2() as usize + 1;

/// Bytes of each size that are kept, and of the largest: 10 MiB in all at the most.
const KEPT: usize = 1024 * 1024;
const KEPT_OF_LARGEST: usize = 4 * KEPT;

/// What a block takes beside its words.
const BESIDE: u64 = 128;

/// A bounded lock-free pool of the blocks of a layer's streams.
///
/// What it hands out holds the bytes of earlier streams. That is why only a log with a lone writer may
/// use it: its readers never look beyond what the writer has claimed.
#[derive(Debug)]
pub(crate) struct Pool {
    sizes: [ArrayQueue<Arc<Block>>; SIZES],
    budget: MemoryBudget,
}

// === impl Pool ===

impl Pool {
    pub(crate) fn new(budget: MemoryBudget) -> Self {
        let queue = |n| {
            let size = SMALLEST << n;
            ArrayQueue::new(if size == LARGEST { KEPT_OF_LARGEST / size } else { KEPT / size })
        };
        Self { sizes: std::array::from_fn(queue), budget }
    }

    pub(crate) fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// A block of `bytes`, a power of two, unless the budget does not allow for it.
    pub(super) fn take(self: &Arc<Self>, place: Place, bytes: usize, mark: Mark) -> Option<Arc<Block>> {
        if !self.budget.charge(bytes as u64 + BESIDE, mark) {
            return None;
        }
        let kept = self.of(bytes).and_then(ArrayQueue::pop);
        let mut block = kept.unwrap_or_else(|| Arc::new(Block::new(bytes)));
        let owned = Arc::get_mut(&mut block).expect("what is in the pool is referred to from there alone");
        owned.place(place, Some(Arc::clone(self)));
        Some(block)
    }

    /// As [`take`](Self::take), for many writers: nothing was in it before.
    pub(super) fn take_zeroed(self: &Arc<Self>, place: Place, bytes: usize, mark: Mark) -> Option<Block> {
        self.budget.charge(bytes as u64 + BESIDE, mark).then(|| {
            let mut block = Block::new(bytes);
            block.place(place, Some(Arc::clone(self)));
            block
        })
    }

    /// Takes back a block's charge, with `referenced` bytes that it kept by reference.
    pub(super) fn release(&self, bytes: usize, referenced: u64) {
        self.budget.release(bytes as u64 + BESIDE + referenced);
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

impl Default for Pool {
    fn default() -> Self {
        Self::new(MemoryBudget::unlimited())
    }
}
