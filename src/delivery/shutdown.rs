//! Ending a layer without losing a record.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::audit::{Audit, HookAudit};
use super::dispatcher::Dispatcher;
use crate::contain::woken_alone;
use crate::stream::stop_reason::StopReason;
use crate::stream::timer::deadline;

/// What a shutdown did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownReport {
    delivered: u64,
    dead_lettered: u64,
    left: u64,
    cancelled: u64,
    in_flight: u64,
}

// === impl ShutdownReport ===

impl ShutdownReport {
    /// Records delivered to a hook since the shutdown began.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Records that became dead letters since the shutdown began.
    pub fn dead_lettered(&self) -> u64 {
        self.dead_lettered
    }

    /// Records that are still queued and that no worker will deliver.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Streams that were stopped at the deadline.
    pub fn cancelled(&self) -> u64 {
        self.cancelled
    }

    /// Streams that had not ended all the same.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Whether every stream ended and every record was delivered.
    pub fn is_clean(&self) -> bool {
        self.dead_lettered == 0 && self.left == 0 && self.in_flight == 0
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delivered, dead_lettered, left, cancelled, in_flight } = self;
        write!(
            f,
            "{delivered} delivered, {dead_lettered} dead-lettered, {left} left; \
             {cancelled} streams cancelled at the deadline, {in_flight} still in flight"
        )
    }
}

impl<C: Send + Sync + 'static> Dispatcher<C> {
    /// See [`Handle::shutdown`](crate::Handle::shutdown).
    pub(crate) async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        let before = self.audit();
        let until = deadline(Instant::now(), grace);
        // Admits nothing from now on; calls that wait for a slot are rejected.
        self.slots.close();
        self.closing.cancel();
        // The layer may have been built and called outside any runtime: then this is the first one.
        self.start();

        let mut cancelled = 0;
        if timeout_at(until, woken_alone(self.drained())).await.is_err() {
            for stream in self.streams() {
                cancelled += u64::from(stream.stop(StopReason::Shutdown));
            }
            self.config.last_attempts.cancel();
            let last = deadline(until, self.config.hook_timeout);
            // What is left at that point is counted below.
            let _ = timeout_at(last, woken_alone(self.drained())).await;
        }
        self.stop();

        let after = self.audit();
        let sum = |audit: &Audit, of: fn(&HookAudit) -> u64| -> u64 { audit.hooks().iter().map(of).sum() };
        let grown = |of| sum(&after, of).saturating_sub(sum(&before, of));
        ShutdownReport {
            delivered: grown(HookAudit::delivered),
            dead_lettered: grown(HookAudit::dead_lettered),
            left: sum(&after, HookAudit::queued),
            cancelled,
            in_flight: after.in_flight(),
        }
    }

    /// Waits until no stream runs and no record is queued.
    async fn drained(&self) {
        self.config.awaited.store(true, SeqCst);
        loop {
            let mut changed = pin!(self.config.changed.notified());
            // Before the look at the counts, so that a change between the two is not missed.
            changed.as_mut().enable();
            if self.counts.in_flight() == 0 && self.queues.iter().all(|queue| queue.queued() == 0) {
                return;
            }
            changed.await;
        }
    }
}
