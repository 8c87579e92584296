//! Admits streams, keeps the list of those in flight, and delivers their records.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio_util::sync::{CancellationToken, ReusableBoxFuture};

use super::audit::{Audit, Counts};
use super::dead_letters::DeadLetter;
use super::hook::ErasedHook;
use super::queue::{DeliveryConfig, OnDeadLetter, QueueSender, Slot};
use super::registry::{Registry, RegistryKey};
use super::retry::RetryPolicy;
use super::watchdog::Watchdog;
use crate::accumulator::Mark;
use crate::contain::{contain, woken_alone};
use crate::id::StreamId;
use crate::stream::check::OnChunk;
use crate::stream::handle::StreamHandle;
use crate::stream::record::{EndedStream, StreamRecord};
use crate::stream::settle::StreamGuard;
use crate::stream::state::{OnEnd, StreamConfig, StreamState};
use crate::stream::trace::Span;

/// What a call does when all `max_in_flight` slots are taken, or the memory budget is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// The service is not ready until there is a slot, so that layers outside of it see that it is saturated.
    #[default]
    Wait,
    /// The call is answered with a 503, `Retry-After: 1` and [`Rejected`](crate::Rejected) among its extensions. The
    /// inner service is not called.
    Reject,
}

/// What a dispatcher is made with.
pub(crate) struct DispatcherConfig<C> {
    pub(crate) retry: RetryPolicy,
    pub(crate) hook_timeout: Duration,
    pub(crate) workers: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) when_full: WhenFull,
    pub(crate) dead_letters: usize,
    pub(crate) on_dead_letter: Option<OnDeadLetter<C>>,
    pub(crate) stream: Arc<StreamConfig>,
    pub(crate) on_chunk: Option<Arc<OnChunk>>,
}

/// Between streams and hooks.
pub(crate) struct Dispatcher<C> {
    pub(super) slots: Arc<Semaphore>,
    when_full: WhenFull,
    pub(super) counts: Counts,
    registry: Arc<Registry>,
    pub(super) queues: Box<[QueueSender<C>]>,
    pub(super) config: Arc<DeliveryConfig<C>>,
    watchdog: Watchdog,
    stream: Arc<StreamConfig>,
    on_chunk: Option<Arc<OnChunk>>,
    pub(super) closing: CancellationToken,
    stopped: AtomicBool,
}

/// A wait for a slot: its memory is used again.
pub(crate) struct SlotWait {
    future: Option<ReusableBoxFuture<'static, Option<OwnedSemaphorePermit>>>,
    is_waiting: bool,
}

// === impl Dispatcher ===

impl<C: Send + Sync + 'static> Dispatcher<C> {
    pub(crate) fn new(config: DispatcherConfig<C>, hooks: Vec<Box<dyn ErasedHook<C>>>) -> Self {
        let DispatcherConfig {
            retry,
            hook_timeout,
            workers,
            max_in_flight,
            when_full,
            dead_letters,
            on_dead_letter,
            stream,
            on_chunk,
        } = config;
        let config = Arc::new(DeliveryConfig {
            retry,
            hook_timeout,
            workers,
            dead_letters,
            on_dead_letter,
            last_attempts: CancellationToken::new(),
            changed: Notify::new(),
            awaited: AtomicBool::new(false),
        });
        let names = unique_names(&hooks);
        let queues = hooks.into_iter().zip(names);
        Self {
            slots: Arc::new(Semaphore::new(max_in_flight)),
            when_full,
            counts: Counts::default(),
            registry: Arc::new(Registry::new()),
            queues: queues.map(|(hook, name)| QueueSender::new(hook, name, &config)).collect(),
            config,
            watchdog: Watchdog::new(stream.limits),
            stream,
            on_chunk,
            closing: CancellationToken::new(),
            stopped: AtomicBool::new(false),
        }
    }

    /// Starts the workers that do not run, if the caller is inside a runtime.
    pub(crate) fn start(&self) {
        let all_run = self.watchdog.is_running() && self.queues.iter().all(QueueSender::is_running);
        if all_run || self.stopped.load(SeqCst) {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            self.queues.iter().for_each(|queue| queue.start(&runtime));
            self.watchdog.start(&runtime, &self.registry);
        }
    }

    /// What the layer's streams have in common.
    pub(crate) fn stream_config(&self) -> &Arc<StreamConfig> {
        &self.stream
    }

    pub(crate) fn on_chunk(&self) -> Option<&Arc<OnChunk>> {
        self.on_chunk.as_ref()
    }

    pub(crate) fn when_full(&self) -> WhenFull {
        self.when_full
    }

    // --- admission

    /// A slot, if there is one and the memory budget has room.
    pub(crate) fn try_slot(&self) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        if self.stream.budget.is_beyond(Mark::Admission) && !self.is_closed() {
            return Err(TryAcquireError::NoPermits);
        }
        Arc::clone(&self.slots).try_acquire_owned()
    }

    /// A slot, as soon as there is one and the memory budget has room; `None` once the shutdown has begun.
    pub(crate) fn slot(
        &self,
    ) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send + 'static + use<C> {
        let (slots, budget) = (Arc::clone(&self.slots), self.stream.budget.clone());
        let closing = self.closing.clone();
        woken_alone(async move {
            let slot = slots.acquire_owned().await.ok()?;
            closing.run_until_cancelled(budget.room()).await.map(|()| slot)
        })
    }

    /// Whether the shutdown has begun.
    pub(crate) fn is_closed(&self) -> bool {
        self.slots.is_closed()
    }

    /// A call got a 503.
    pub(crate) fn rejected(&self) {
        self.counts.rejected.up();
    }

    // --- the life of a stream

    /// Opens a stream in `slot`. `context` is called with its handle; its panic costs the context only.
    pub(crate) fn open(
        self: &Arc<Self>,
        stream: &Arc<StreamState>,
        slot: OwnedSemaphorePermit,
        context: impl FnOnce(StreamHandle) -> Option<C>,
    ) -> StreamGuard {
        let key = self.opened(stream);
        // Made before the context: should that stop the stream, it is settled when it is open.
        let guard = StreamGuard::new(Arc::clone(stream));
        let context = context(StreamHandle::new(Arc::clone(stream)));
        stream.open(self.on_end(stream.span().clone(), slot, key, context));
        guard
    }

    /// Counts and lists a stream that begins.
    pub(super) fn opened(&self, stream: &Arc<StreamState>) -> RegistryKey {
        self.counts.open();
        self.registry.insert(stream)
    }

    /// What is called with a stream that has ended.
    pub(super) fn on_end(
        self: &Arc<Self>,
        span: Span,
        slot: OwnedSemaphorePermit,
        key: RegistryKey,
        context: Option<C>,
    ) -> OnEnd {
        let this = Arc::clone(self);
        Box::new(move |ended| this.settled(ended, context, span, slot, key))
    }

    /// Hands the record of a stream that has ended to the hooks: one push for each. Never waits, never fails.
    fn settled(
        &self,
        ended: EndedStream,
        context: Option<C>,
        span: Span,
        slot: OwnedSemaphorePermit,
        key: RegistryKey,
    ) {
        let record = Arc::new(StreamRecord::new(ended, context));
        let outcome = record.outcome().clone();
        let wanting = || self.queues.iter().filter(|queue| queue.wants(&outcome));
        if wanting().nth(1).is_some() {
            let slot = Arc::new(slot);
            wanting().for_each(|queue| queue.send(Arc::clone(&record), span.clone(), Slot::several(&slot)));
            contain(|| drop(slot));
        } else if let Some(queue) = wanting().next() {
            queue.send(Arc::clone(&record), span, Slot::one(slot));
        } else {
            // Wakes whoever waits for it, which is foreign code.
            contain(|| drop(slot));
        }
        // The last one drops the user's context.
        contain(|| drop(record));
        let stream = self.registry.remove(key);
        // Last, so that nobody sees the stream gone before its record is queued.
        self.counts.settle(&outcome);
        self.config.notify();
        drop(stream);
    }

    /// The streams in flight, the oldest first.
    pub(crate) fn streams(&self) -> Vec<StreamHandle> {
        self.registry.all().into_iter().map(StreamHandle::new).collect()
    }

    pub(crate) fn stream(&self, id: StreamId) -> Option<StreamHandle> {
        self.registry.find(id).map(StreamHandle::new)
    }

    // --- accounts

    pub(crate) fn audit(&self) -> Audit {
        self.counts.audit(self.queues.iter().map(QueueSender::audit).collect(), &self.stream.budget)
    }

    pub(crate) fn dead_letters(&self) -> Vec<DeadLetter<C>> {
        self.queues.iter().flat_map(QueueSender::dead_letters).collect()
    }

    /// Queues the dead letters of a stream again, for each hook that has one.
    pub(crate) fn redeliver(&self, id: StreamId) -> bool {
        self.start();
        let redelivered = self.queues.iter().filter(|queue| queue.redeliver(id));
        redelivered.count() > 0
    }
}

impl<C: Send + Sync + 'static> Dispatcher<C> {
    /// Stops workers and watchdog where they are, for good.
    pub(super) fn stop(&self) {
        self.stopped.store(true, SeqCst);
        self.queues.iter().for_each(QueueSender::stop);
        self.watchdog.stop();
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

// === impl SlotWait ===

impl SlotWait {
    pub(crate) fn new() -> Self {
        Self { future: None, is_waiting: false }
    }

    /// Ready with a slot, or with `None` once the shutdown has begun.
    pub(crate) fn poll<C: Send + Sync + 'static>(
        &mut self,
        dispatcher: &Dispatcher<C>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<OwnedSemaphorePermit>> {
        if !self.is_waiting {
            match dispatcher.try_slot() {
                Ok(slot) => return Poll::Ready(Some(slot)),
                Err(TryAcquireError::Closed) => return Poll::Ready(None),
                Err(TryAcquireError::NoPermits) => {}
            }
            match &mut self.future {
                Some(future) => future.set(dispatcher.slot()),
                None => self.future = Some(ReusableBoxFuture::new(dispatcher.slot())),
            }
            self.is_waiting = true;
        }
        let polled = self.future.as_mut().map_or(Poll::Ready(None), |future| future.poll(cx));
        self.is_waiting = polled.is_pending();
        polled
    }
}
