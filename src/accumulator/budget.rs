//! One bound for the memory that captures, taps and undelivered records hold together.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

/// A bound for the memory that the streams of one process hold, shared by all layers that are given a
/// clone of it.
///
/// Every block that captured content or a tap's chunks lie in is charged to it, every chunk that is
/// kept by reference, and every compressed block, until the last record, snapshot or tap that holds it
/// is gone. Bytes that were spilled to disk are not.
///
/// The budget is never exceeded. As it fills, streams give up content, step by step, and never anything
/// else: the client is unaffected, and [`Content::is_truncated`](crate::Content::is_truncated) tells.
///
/// | in use | what a stream may still do |
/// |---|---|
/// | up to 1/2 | whatever its capture allows |
/// | from 1/2 | it spills at once, where the layer may spill at all |
/// | from 3/4 | its head grows no further; of the rest it keeps the last 16 KiB at most |
/// | from 9/10 | nothing is captured any more; chunks are kept for taps only |
/// | from 19/20 | new calls wait or are rejected, as [`WhenFull`](crate::WhenFull) says |
/// | all | taps miss chunks, and are told how many |
///
/// A single greedy stream therefore stops growing at 3/4, which leaves the others room for their heads' last block and
/// their tails.
///
/// ```
/// use streaming_accumulator::{MemoryBudget, StreamingAccumulatorLayer};
///
/// let budget = MemoryBudget::new(256 * 1024 * 1024);
/// let chat = StreamingAccumulatorLayer::builder().memory_budget(&budget).build()?;
/// let files = StreamingAccumulatorLayer::builder().memory_budget(&budget).build()?;
/// assert_eq!(chat.handle().audit().memory_limit(), Some(256 * 1024 * 1024));
/// # drop(files);
/// # Ok::<(), streaming_accumulator::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct MemoryBudget {
    state: Arc<BudgetState>,
}

struct BudgetState {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
    freed: Notify,
}

/// A part of the budget, up to which something may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Beyond it, streams spill at once.
    Spill,
    /// For the head of a capture.
    Head,
    /// For the tail of a capture.
    Tail,
    /// Beyond it, new calls are not admitted.
    Admission,
    /// For chunks that a tap is to read.
    Full,
}

// === impl MemoryBudget ===

impl MemoryBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        let state = BudgetState {
            limit: bytes as u64,
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            freed: Notify::new(),
        };
        Self { state: Arc::new(state) }
    }

    /// Counts what is used and refuses nothing.
    pub(crate) fn unlimited() -> Self {
        Self::new(usize::MAX)
    }

    /// The bound in bytes; `None` where there is none.
    pub fn limit(&self) -> Option<u64> {
        (self.state.limit < u64::MAX).then_some(self.state.limit)
    }

    /// Bytes in use now.
    pub fn used(&self) -> u64 {
        self.state.used.load(Relaxed)
    }

    /// The most bytes that ever were in use.
    pub fn peak(&self) -> u64 {
        self.state.peak.load(Relaxed)
    }

    /// Takes `bytes`, unless more than `mark` would then be in use.
    pub(crate) fn charge(&self, bytes: u64, mark: Mark) -> bool {
        let most = self.at(mark);
        let taken = self
            .state
            .used
            .fetch_update(Relaxed, Relaxed, |used| used.checked_add(bytes).filter(|used| *used <= most));
        let Ok(before) = taken else {
            return false;
        };
        let used = before + bytes;
        // Most charges raise no record: then this is a load.
        if used > self.state.peak.load(Relaxed) {
            self.state.peak.fetch_max(used, Relaxed);
        }
        true
    }

    /// Gives back what was charged.
    pub(crate) fn release(&self, bytes: u64) {
        let before = self.state.used.fetch_sub(bytes, Relaxed);
        let open = self.at(Mark::Admission);
        if before > open && before - bytes <= open {
            self.state.freed.notify_waiters();
        }
    }

    pub(crate) fn is_beyond(&self, mark: Mark) -> bool {
        self.used() > self.at(mark)
    }

    /// Waits until new calls may be admitted.
    pub(crate) async fn room(&self) {
        loop {
            let freed = self.state.freed.notified();
            tokio::pin!(freed);
            // Before the look: what is freed after it is not missed.
            freed.as_mut().enable();
            if !self.is_beyond(Mark::Admission) {
                return;
            }
            freed.await;
        }
    }

    fn at(&self, mark: Mark) -> u64 {
        let BudgetState { limit, .. } = *self.state;
        match mark {
            _ if limit == u64::MAX => limit,
            Mark::Spill => limit / 2,
            Mark::Head => limit / 4 * 3,
            Mark::Tail => limit / 10 * 9,
            Mark::Admission => limit / 20 * 19,
            Mark::Full => limit,
        }
    }
}

impl From<usize> for MemoryBudget {
    fn from(bytes: usize) -> Self {
        Self::new(bytes)
    }
}

impl From<&MemoryBudget> for MemoryBudget {
    /// The same budget, not another one of that size.
    fn from(budget: &MemoryBudget) -> Self {
        budget.clone()
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("limit", &self.limit())
            .field("used", &self.used())
            .field("peak", &self.peak())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_beyond_its_mark_is_refused() {
        let budget = MemoryBudget::new(1_000);
        assert!(budget.charge(750, Mark::Head));
        assert!(!budget.charge(1, Mark::Head));
        assert!(budget.charge(150, Mark::Tail));
        assert!(!budget.charge(1, Mark::Tail));
        assert!(budget.charge(100, Mark::Full));
        assert!(!budget.charge(1, Mark::Full));
        budget.release(1_000);
        assert_eq!((budget.used(), budget.peak()), (0, 1_000));
    }

    #[tokio::test]
    async fn room_is_waited_for() {
        let budget = MemoryBudget::new(1_000);
        budget.room().await;
        assert!(budget.charge(1_000, Mark::Full));
        let mut room = tokio_test::task::spawn(budget.room());
        assert!(room.poll().is_pending());
        budget.release(40);
        assert!(!room.is_woken());
        budget.release(20);
        assert!(room.is_woken());
        assert!(room.poll().is_ready());
    }

    #[test]
    fn an_unlimited_budget_counts_and_never_refuses() {
        let budget = MemoryBudget::unlimited();
        assert!(budget.charge(1 << 40, Mark::Head));
        assert_eq!((budget.limit(), budget.used()), (None, 1 << 40));
    }
}
