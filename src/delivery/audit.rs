//! The sums that must balance.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::accumulator::MemoryBudget;
use crate::stream::outcome::Outcome;

/// The state of a layer's accounts: what came in, what was settled, what was delivered.
///
/// While nothing moves,
///
/// * opened = in flight + settled, and settled = completed + cancelled + failed + interrupted;
/// * for each hook, the records that it is for = queued + delivered + dead-lettered. A hook given to
///   `on_end` or `hook` is for all that settled.
///
/// [`is_balanced`](Self::is_balanced) checks the first; a difference that lasts is a bug in this crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    pub(super) opened: u64,
    pub(super) in_flight: u64,
    pub(super) rejected: u64,
    pub(super) abandoned: u64,
    pub(super) completed: u64,
    pub(super) cancelled: u64,
    pub(super) failed: u64,
    pub(super) interrupted: u64,
    pub(super) memory_used: u64,
    pub(super) memory_peak: u64,
    pub(super) memory_limit: Option<u64>,
    pub(super) hooks: Vec<HookAudit>,
}

/// The account of one hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookAudit {
    pub(super) name: Box<str>,
    pub(super) owed: u64,
    pub(super) queued: u64,
    pub(super) delivered: u64,
    pub(super) retried: u64,
    pub(super) dead_lettered: u64,
}

/// The live numbers behind an [`Audit`].
///
/// Sequentially consistent: they change a few times per stream, and sums of several are compared.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    opened: AtomicU64,
    in_flight: AtomicU64,
    pub(crate) rejected: Count,
    pub(crate) abandoned: Count,
    completed: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    interrupted: AtomicU64,
}

/// One number that goes up and, some, down.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

// === impl Counts ===

impl Counts {
    pub(crate) fn open(&self) {
        self.opened.fetch_add(1, SeqCst);
        self.in_flight.fetch_add(1, SeqCst);
    }

    pub(crate) fn settle(&self, outcome: &Outcome) {
        let settled = match outcome {
            Outcome::Completed => &self.completed,
            Outcome::Cancelled => &self.cancelled,
            Outcome::Failed(_) => &self.failed,
            Outcome::Interrupted => &self.interrupted,
        };
        settled.fetch_add(1, SeqCst);
        self.in_flight.fetch_sub(1, SeqCst);
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(SeqCst)
    }

    pub(super) fn audit(&self, hooks: Vec<HookAudit>, budget: &MemoryBudget) -> Audit {
        Audit {
            opened: self.opened.load(SeqCst),
            in_flight: self.in_flight(),
            rejected: self.rejected.get(),
            abandoned: self.abandoned.get(),
            completed: self.completed.load(SeqCst),
            cancelled: self.cancelled.load(SeqCst),
            failed: self.failed.load(SeqCst),
            interrupted: self.interrupted.load(SeqCst),
            memory_used: budget.used(),
            memory_peak: budget.peak(),
            memory_limit: budget.limit(),
            hooks,
        }
    }
}

// === impl Count ===

impl Count {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(SeqCst)
    }

    pub(crate) fn up(&self) {
        self.0.fetch_add(1, SeqCst);
    }

    pub(crate) fn down(&self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

// === impl Audit ===

impl Audit {
    /// Streams that passed admission.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Streams that run.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Streams that ended: each has exactly one record.
    pub fn settled(&self) -> u64 {
        self.completed + self.cancelled + self.failed + self.interrupted
    }

    /// Bytes of content in memory now, of running streams and of records that somebody still holds; with a
    /// shared [`MemoryBudget`], of all its layers.
    pub fn memory_used(&self) -> u64 {
        self.memory_used
    }

    /// The most bytes that [`memory_used`](Self::memory_used) ever was.
    pub fn memory_peak(&self) -> u64 {
        self.memory_peak
    }

    /// The budget's bound; `None` where there is none.
    pub fn memory_limit(&self) -> Option<u64> {
        self.memory_limit
    }

    /// Calls that got a 503 because no slot was free, or after the shutdown began. They have no record.
    pub fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Calls whose client left while they waited for a slot. They have no record.
    pub fn abandoned(&self) -> u64 {
        self.abandoned
    }

    /// Streams settled as `Completed`.
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// Streams settled as `Cancelled`.
    pub fn cancelled(&self) -> u64 {
        self.cancelled
    }

    /// Streams settled as `Failed`.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Streams settled as `Interrupted`.
    pub fn interrupted(&self) -> u64 {
        self.interrupted
    }

    /// One account per hook, in the order in which the hooks were added.
    pub fn hooks(&self) -> &[HookAudit] {
        &self.hooks
    }

    /// Whether opened = in flight + settled, and every hook's account balances.
    pub fn is_balanced(&self) -> bool {
        self.opened == self.in_flight + self.settled() && self.hooks.iter().all(HookAudit::is_balanced)
    }
}

// === impl HookAudit ===

impl HookAudit {
    /// The hook's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Settled records that this hook is for.
    pub fn owed(&self) -> u64 {
        self.owed
    }

    /// Records that wait for the hook, are with it, or wait for their next attempt.
    pub fn queued(&self) -> u64 {
        self.queued
    }

    /// Records for which the hook returned `Ok`.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Attempts after a failed one.
    pub fn retried(&self) -> u64 {
        self.retried
    }

    /// Records that every attempt gave up on and that were not redelivered.
    pub fn dead_lettered(&self) -> u64 {
        self.dead_lettered
    }

    /// Whether owed = queued + delivered + dead-lettered.
    pub fn is_balanced(&self) -> bool {
        self.owed == self.queued + self.delivered + self.dead_lettered
    }
}
