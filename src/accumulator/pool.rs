//! Blocks, kept between streams, and the budget that blocks in use are charged to.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use super::budget::{Mark, MemoryBudget};

/// The sizes of blocks in bytes are powers of two, from this …
pub(super) const SMALLEST: usize = if cfg!(accumulator_loom) { 64 } else { 1024 };
/// … to this.
pub(super) const LARGEST: usize = if cfg!(accumulator_loom) { SMALLEST } else { 64 * 1024 };

const SIZES: usize = (LARGEST / SMALLEST).ilog2() as usize + 1;

/// Bytes that are kept of each size, and of the largest: at most 5 MiB in all.
const KEPT: usize = 512 * 1024;
const KEPT_OF_LARGEST: usize = 4 * KEPT;

/// Bytes that a block takes beside its words.
const OVERHEAD: u64 = 128;

/// A bounded lock-free pool with one queue for each size, and the budget of what it hands out.
///
/// A layer's pool hands out blocks that hold the bytes of earlier streams. Only a log with a lone writer may use
/// them, because its readers never look beyond what the writer has claimed.
#[derive(Debug)]
pub(crate) struct SizeClassPool<T> {
    sizes: [ArrayQueue<Arc<T>>; SIZES],
    budget: Option<MemoryBudget>,
    /// Whether it keeps zeroed blocks, for logs with many writers. Blocks are zeroed when they come back, so that
    /// no writer waits for it.
    pub(super) is_zeroed: bool,
}

/// What a block of `bytes` is charged.
pub(super) fn charge_of(bytes: usize) -> u64 {
    bytes as u64 + OVERHEAD
}

// === impl SizeClassPool ===

impl<T> SizeClassPool<T> {
    /// The pool of a layer, for logs with a lone writer.
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

    /// Whether more than `mark` of the budget is in use.
    pub(super) fn is_beyond(&self, mark: Mark) -> bool {
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

    /// A block of `bytes` that was kept, if there is one.
    pub(super) fn pop(&self, bytes: usize) -> Option<Arc<T>> {
        self.queue(bytes)?.pop()
    }

    /// Keeps a block of `bytes` that nobody else holds, if there is room. Otherwise frees it.
    pub(super) fn push(&self, bytes: usize, block: Arc<T>) {
        if let Some(queue) = self.queue(bytes) {
            let _ = queue.push(block);
        }
    }

    fn queue(&self, bytes: usize) -> Option<&ArrayQueue<Arc<T>>> {
        self.sizes.get((bytes / SMALLEST).checked_ilog2()? as usize)
    }
}

impl<T> Default for SizeClassPool<T> {
    fn default() -> Self {
        Self::new(MemoryBudget::unlimited())
    }
}
