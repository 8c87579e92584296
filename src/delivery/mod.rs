//! Between streams and hooks: admission, bounded queues, workers, retries, shutdown.
//!
//! A stream reserves a *slot* when it opens and its record holds the slot until every hook has taken the
//! record or given up on it. So streams in flight and queued records together never exceed
//! `max_in_flight`, and the hand-over from a body's drop is a send that always has room. The price:
//! hooks that are slow for long use up the slots, and then new calls wait or are rejected.
//!
//! No task is ever spawned from a drop: a runtime that is shutting down accepts the task and never runs
//! it. Workers exist before the first record, and a record that they do not get to stays counted as
//! queued.

mod audit;
mod dead_letters;
pub(crate) mod handle;
pub(crate) mod hook;
mod queue;
pub(crate) mod retry;
mod shutdown;
mod watchdog;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_skiplist::SkipMap;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use self::audit::Counts;
pub use self::audit::{Audit, HookAudit};
pub use self::dead_letters::DeadLetter;
pub(crate) use self::queue::OnDeadLetter;
use self::queue::{Lane, Rules};
pub use self::shutdown::ShutdownReport;
use self::watchdog::Watchdog;
use crate::accumulator::MemoryBudget;
use crate::delivery::hook::ErasedHook;
use crate::id::StreamId;
use crate::stream::limits::TimeLimits;
use crate::stream::state::{Settle, StreamHandle};
use crate::stream::record::Account;
use crate::delivery::retry::RetryPolicy;

/// The numbers that a dispatcher is made with.
pub(crate) struct Config<C> {
    pub(crate) retry: RetryPolicy,
    pub(crate) hook_timeout: Duration,
    pub(crate) workers: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) dead_letters: usize,
    pub(crate) on_dead_letter: Option<OnDeadLetter<C>>,
    pub(crate) limits: TimeLimits,
    pub(crate) budget: MemoryBudget,
}

/// The streams in flight.
type Streams = SkipMap<StreamId, Weak<dyn Settle>>;

/// Admits streams, keeps the list of those in flight, and delivers their records.
pub(crate) struct Dispatcher<C> {
    slots: Arc<Semaphore>,
    counts: Counts,
    streams: Arc<Streams>,
    lanes: Box<[Lane<C>]>,
    rules: Arc<Rules<C>>,
    watchdog: Watchdog,
    budget: MemoryBudget,
    token: CancellationToken,
    closing: CancellationToken,
}

// === impl Dispatcher ===

impl<C: Send + Sync + 'static> Dispatcher<C> {
    pub(crate) fn new(config: Config<C>, hooks: Vec<Box<dyn ErasedHook<C>>>) -> Self {
        let Config {
            retry,
            hook_timeout,
            workers,
            max_in_flight,
            dead_letters,
            on_dead_letter,
            limits,
            budget,
        } = config;
        let rules = Arc::new(Rules {
            retry,
            hook_timeout,
            workers,
            dead_letters,
            on_dead_letter,
            hurry: CancellationToken::new(),
            stop: CancellationToken::new(),
            moved: Notify::new(),
            awaited: AtomicBool::new(false),
        });
        let names = unique_names(&hooks);
        let lanes = hooks.into_iter().zip(names);
        Self {
            slots: Arc::new(Semaphore::new(max_in_flight)),
            counts: Counts::default(),
            streams: Arc::default(),
            lanes: lanes.map(|(hook, name)| Lane::new(hook, name, &rules)).collect(),
            rules,
            watchdog: Watchdog::new(limits),
            budget,
            token: CancellationToken::new(),
            closing: CancellationToken::new(),
        }
    }

    /// Starts the workers that do not run, if the caller is inside a runtime.
    pub(crate) fn start(&self) {
        let all_run = self.watchdog.is_running() && self.lanes.iter().all(Lane::is_running);
        if all_run || self.rules.stop.is_cancelled() {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            for lane in &self.lanes {
                lane.start(&runtime);
            }
            self.watchdog.start(&runtime, &self.streams, &self.rules.stop);
        }
    }

    /// The token of which every stream's token is a child.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// What the memory of its streams is charged to.
    pub(crate) fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    pub(crate) fn slots(&self) -> &Arc<Semaphore> {
        &self.slots
    }

    /// A slot, as soon as there is one and the memory budget has room; `None` once the shutdown has begun.
    pub(crate) fn slot(&self) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send + use<C> {
        let (slots, budget) = (Arc::clone(&self.slots), self.budget.clone());
        let closing = self.closing.clone();
        async move {
            let slot = slots.acquire_owned().await.ok()?;
            closing.run_until_cancelled(budget.room()).await.map(|()| slot)
        }
    }

    /// Whether the shutdown has begun.
    pub(crate) fn is_closed(&self) -> bool {
        self.slots.is_closed()
    }

    /// Admits nothing from now on; calls that wait for a slot are rejected.
    fn close(&self) {
        self.slots.close();
        self.closing.cancel();
    }

    /// A call got a 503.
    pub(crate) fn rejected(&self) {
        self.counts.rejected.up();
    }

    /// A call was dropped while it waited for a slot.
    pub(crate) fn abandoned(&self) {
        self.counts.abandoned.up();
    }

    /// A stream has its slot and begins.
    pub(crate) fn opened(&self, id: StreamId, exchange: Weak<dyn Settle>) {
        self.counts.open();
        self.streams.insert(id, exchange);
    }

    /// A stream has ended: hands its record to the hooks. One send for each; never waits, never fails.
    pub(crate) fn settled(&self, account: Account<C>, slot: OwnedSemaphorePermit) {
        let account = Arc::new(account);
        let slot = Arc::new(slot);
        let outcome = &account.verdict.outcome;
        self.streams.remove(&account.pipeline.id());
        for lane in self.lanes.iter().filter(|lane| lane.wants(outcome)) {
            lane.send(Arc::clone(&account), Arc::clone(&slot));
        }
        // Last, so that nobody sees the stream gone before its record is queued.
        self.counts.settle(outcome);
        self.rules.notify();
    }

    /// The streams in flight, the oldest first.
    pub(crate) fn streams(&self) -> Vec<StreamHandle> {
        let exchanges = self.streams.iter();
        exchanges.filter_map(|entry| Some(entry.value().upgrade()?.handle())).collect()
    }

    pub(crate) fn stream(&self, id: StreamId) -> Option<StreamHandle> {
        Some(self.streams.get(&id)?.value().upgrade()?.handle())
    }

    pub(crate) fn audit(&self) -> Audit {
        self.counts.audit(self.lanes.iter().map(Lane::audit).collect(), &self.budget)
    }

    pub(crate) fn dead_letters(&self) -> Vec<DeadLetter<C>> {
        self.lanes.iter().flat_map(Lane::dead_letters).collect()
    }

    /// Queues the dead letters of a stream again, for each hook that has one.
    pub(crate) fn redeliver(&self, id: StreamId) -> bool {
        self.start();
        let redelivered = self.lanes.iter().filter(|lane| lane.redeliver(id));
        redelivered.count() > 0
    }
}

/// The hooks' names; the second `bill` becomes `bill#2`.
fn unique_names<C>(hooks: &[Box<dyn ErasedHook<C>>]) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = Vec::with_capacity(hooks.len());
    for hook in hooks {
        let name = hook.name();
        let numbered = (2..).map(|n| format!("{name}#{n}").into());
        let mut candidates = std::iter::once(Arc::from(name)).chain(numbered);
        names.extend(candidates.find(|name| !names.contains(name)));
    }
    names
}
