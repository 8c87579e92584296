//! One hook's queue, workers, retries and dead letters.
//!
//! Every hook has a queue of its own, so that a slow hook does not delay another. A record counts as queued until its
//! hook returned `Ok` or was given up on: also while the hook works on it. A worker that is dropped with its runtime
//! puts the record that it works on back.
//!
//! # Who is awake
//!
//! Waking a task costs more than most hooks. So at most one worker searches the queue, and a record that comes while it
//! does wakes nobody. A worker whose hook does not return at once gives the search to another one, if there is more to
//! do.

use std::future::{poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{AcqRel, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use crossbeam_queue::SegQueue;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::audit::{Count, HookAudit};
use super::dead_letters::{DeadLetter, DeadLetters};
use super::hook::{ErasedHook, HookCall};
use super::retry::RetryPolicy;
use crate::contain::contain;
use crate::error::{BoxError, text_of};
use crate::id::StreamId;
use crate::stream::outcome::Outcome;
use crate::stream::record::StreamRecord;
use crate::stream::timer::Timer;
use crate::stream::trace::{self, Span};

/// What all queues of a layer share.
pub(super) struct DeliveryConfig<C> {
    pub(super) retry: RetryPolicy,
    pub(super) hook_timeout: Duration,
    pub(super) workers: usize,
    pub(super) dead_letters: usize,
    pub(super) on_dead_letter: Option<OnDeadLetter<C>>,
    /// Once cancelled, a failed attempt is the last one.
    pub(super) last_attempts: CancellationToken,
    /// Notified whenever a record leaves a queue, or a stream ends, once somebody waits for that.
    pub(super) changed: Notify,
    /// Whether somebody waits: until then a notification, which takes a lock, is spared.
    pub(super) awaited: AtomicBool,
}

pub(crate) type OnDeadLetter<C> = Arc<dyn Fn(&DeadLetter<C>) + Send + Sync>;

/// The end of a queue into which records are put. When it is dropped, the workers empty the queue and end.
pub(super) struct QueueSender<C> {
    queue: Arc<HookQueue<C>>,
}

struct HookQueue<C> {
    hook: Box<dyn ErasedHook<C>>,
    name: Arc<str>,
    config: Arc<DeliveryConfig<C>>,
    ready: SegQueue<Delivery<C>>,
    /// A worker is awake that looks at the queue before it sleeps.
    searching: AtomicBool,
    awake: Notify,
    /// Nothing is put in any more.
    closed: AtomicBool,
    running: AtomicUsize,
    workers: Mutex<Vec<AbortHandle>>,
    expected: Count,
    queued: Count,
    delivered: Count,
    retried: Count,
    dead_lettered: Count,
    dead_letters: DeadLetters<C>,
}

/// A record on its way to one hook.
pub(super) struct Delivery<C> {
    record: Arc<StreamRecord<C>>,
    /// Attempts made, over all rounds.
    attempts: u32,
    /// Attempts made since the record was queued: what the retry policy counts.
    tries: u32,
    span: Span,
    /// The slot that the stream reserved; free once no queue holds it. `None` for a redelivery.
    _slot: Option<Slot>,
}

/// A stream's slot, held by one queue or by several.
pub(super) enum Slot {
    One { _permit: OwnedSemaphorePermit },
    Several { _permit: Arc<OwnedSemaphorePermit> },
}

/// Counts a worker, however it ends.
struct RunningWorker<C>(Arc<HookQueue<C>>);

/// A delivery that a worker is at: back to the queue if the worker is dropped.
struct InFlight<'a, C> {
    queue: &'a HookQueue<C>,
    delivery: Option<Delivery<C>>,
}

// === impl DeliveryConfig ===

impl<C> DeliveryConfig<C> {
    /// Wakes whoever waits for a change of the counts.
    pub(super) fn notify(&self) {
        // SeqCst, as the counts are: whoever set this before it looked at them is notified.
        if self.awaited.load(SeqCst) {
            // Whoever waits does so with a contained waker: see `Dispatcher::shutdown`.
            self.changed.notify_waiters();
        }
    }
}

// === impl QueueSender ===

impl<C: Send + Sync + 'static> QueueSender<C> {
    pub(super) fn new(hook: Box<dyn ErasedHook<C>>, name: Arc<str>, config: &Arc<DeliveryConfig<C>>) -> Self {
        let queue = HookQueue {
            hook,
            name,
            config: Arc::clone(config),
            // Without a bound of its own: it holds at most a record per slot and the redelivered dead letters.
            ready: SegQueue::new(),
            searching: AtomicBool::new(false),
            awake: Notify::new(),
            closed: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            workers: Mutex::default(),
            expected: Count::default(),
            queued: Count::default(),
            delivered: Count::default(),
            retried: Count::default(),
            dead_lettered: Count::default(),
            dead_letters: DeadLetters::new(config.dead_letters),
        };
        Self { queue: Arc::new(queue) }
    }

    /// Whether the hook is for streams that ended so. The hook's own code may run here.
    pub(super) fn wants(&self, outcome: &Outcome) -> bool {
        self.queue.hook.wants(outcome)
    }

    /// Queues a record. Never waits and never fails: the slot was reserved when the stream opened.
    pub(super) fn send(&self, record: Arc<StreamRecord<C>>, span: Span, slot: Slot) {
        self.queue.expected.up();
        self.put(Delivery { record, attempts: 0, tries: 0, span, _slot: Some(slot) });
        if !self.is_running() {
            trace::undelivered(&self.queue.name, self.queued());
        }
    }

    fn put(&self, delivery: Delivery<C>) {
        self.queue.queued.up();
        self.queue.put(delivery);
    }

    /// Moves a dead letter back into the queue.
    pub(super) fn redeliver(&self, id: StreamId) -> bool {
        let Some(DeadLetter { record, attempts, .. }) = self.queue.dead_letters.take(id) else {
            return false;
        };
        self.put(Delivery { record, attempts, tries: 0, span: Span::default(), _slot: None });
        self.queue.dead_lettered.down();
        true
    }

    pub(super) fn is_running(&self) -> bool {
        self.queue.running.load(SeqCst) > 0
    }

    /// Starts the workers on `runtime`, unless they run.
    pub(super) fn start(&self, runtime: &Handle) {
        let queue = &self.queue;
        let count = queue.config.workers;
        if queue.running.compare_exchange(0, count, SeqCst, SeqCst).is_err() {
            return;
        }
        let mut workers = queue.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.clear();
        for _ in 0..count {
            // Made here, not in the task: a runtime that is going down drops the task unpolled.
            let running = RunningWorker(Arc::clone(queue));
            #[expect(clippy::disallowed_methods, reason = "this is where tasks are spawned")]
            workers.push(runtime.spawn(work(running)).abort_handle());
        }
    }

    /// Stops the workers where they are.
    pub(super) fn stop(&self) {
        self.queue.workers.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(AbortHandle::abort);
    }

    pub(super) fn queued(&self) -> u64 {
        self.queue.queued.get()
    }

    pub(super) fn dead_letters(&self) -> Vec<DeadLetter<C>> {
        self.queue.dead_letters.list()
    }

    pub(super) fn audit(&self) -> HookAudit {
        let queue = &self.queue;
        HookAudit {
            name: (&*queue.name).into(),
            expected: queue.expected.get(),
            queued: queue.queued.get(),
            delivered: queue.delivered.get(),
            retried: queue.retried.get(),
            dead_lettered: queue.dead_lettered.get(),
        }
    }
}

impl<C> Drop for QueueSender<C> {
    fn drop(&mut self) {
        self.queue.closed.store(true, SeqCst);
        // Those that sleep, and the one that is about to.
        self.queue.awake.notify_waiters();
        self.queue.awake.notify_one();
    }
}

// === impl HookQueue ===

async fn work<C: Send + Sync + 'static>(running: RunningWorker<C>) {
    let queue = &*running.0;
    let mut call = HookCall::new(ready(Ok(())));
    loop {
        while let Some(delivery) = queue.ready.pop() {
            queue.deliver(InFlight { queue, delivery: Some(delivery) }, &mut call).await;
        }
        let awake = queue.awake.notified();
        if queue.closed.load(SeqCst) && queue.ready.is_empty() {
            // For the next one to see the same.
            queue.awake.notify_one();
            return;
        }
        if !queue.stop_searching() {
            awake.await;
        }
    }
}

impl<C> HookQueue<C> {
    fn put(&self, delivery: Delivery<C>) {
        self.ready.push(delivery);
        // AcqRel: pairs with the exchange in `stop_searching`. If this reads true, the worker that makes it false
        // sees what was pushed.
        if !self.searching.swap(true, AcqRel) {
            self.awake.notify_one();
        }
    }

    /// The worker is busy for a while: another one searches, if there is something.
    fn pass_search_on(&self) {
        if self.stop_searching() {
            self.awake.notify_one();
        }
    }

    /// The worker looks no further. True if it must look once more, because something came meanwhile.
    fn stop_searching(&self) -> bool {
        self.searching.swap(false, AcqRel);
        !self.ready.is_empty() && !self.searching.swap(true, AcqRel)
    }
}

impl<C: Send + Sync + 'static> HookQueue<C> {
    /// Calls the hook until it takes the record or there is no attempt left.
    async fn deliver(&self, mut in_flight: InFlight<'_, C>, call: &mut HookCall) {
        loop {
            let Some(delivery) = &mut in_flight.delivery else {
                return;
            };
            delivery.attempts += 1;
            delivery.tries += 1;
            let Delivery { attempts, tries, .. } = *delivery;
            let record = StreamRecord::for_attempt(&delivery.record, attempts);
            let Err(error) = self.attempt(record, &delivery.span, call).await else {
                in_flight.finish();
                self.leave(&self.delivered);
                return;
            };
            let id = delivery.record.id();
            if let Some(delay) = self.config.retry.delay_after(tries)
                && self.pause(delay).await
            {
                self.retried.up();
                trace::retrying(&delivery.span, id, &self.name, attempts, &error);
                continue;
            }
            trace::dead_letter(&delivery.span, id, &self.name, attempts, &error);
            if let Some(record) = in_flight.finish() {
                self.dead_letter(record, attempts, error);
            }
            return;
        }
    }

    /// One call of the hook. An error, a panic, and no answer in time are all failures.
    async fn attempt(
        &self,
        record: Arc<StreamRecord<C>>,
        span: &Span,
        call: &mut HookCall,
    ) -> Result<(), Box<str>> {
        // The call itself is inside too: a closure may panic before it returns its future.
        let called = catch_unwind(AssertUnwindSafe(|| self.hook.call(record, call)));
        let result = match called {
            Ok(()) => self.answer(span, call).await,
            Err(payload) => Err(panic_error(&*payload)),
        };
        result.map_err(|error| {
            // The error's text, and its drop, are foreign code.
            let text = contain(|| text_of(&*error));
            contain(|| drop(error));
            text.unwrap_or_else(|| "an error whose text panicked".into())
        })
    }

    /// What the call in `call` returns.
    async fn answer(&self, span: &Span, call: &mut HookCall) -> Result<(), BoxError> {
        let limit = self.config.hook_timeout;
        let mut timer = None;
        let answer = poll_fn(|cx| {
            match catch_unwind(AssertUnwindSafe(|| span.in_scope(|| call.poll(cx)))) {
                Ok(Poll::Ready(result)) => return Poll::Ready(Some(result)),
                Err(payload) => return Poll::Ready(Some(Err(panic_error(&*payload)))),
                Ok(Poll::Pending) => {}
            }
            // Most hooks hand something over and return at once: these need no timer, and no other worker.
            let timer = timer.get_or_insert_with(|| {
                self.pass_search_on();
                let mut timer = Timer::default();
                timer.set(limit);
                timer
            });
            timer.poll(cx).map(|()| None)
        });
        match answer.await {
            Some(result) => result,
            None => {
                // Drops the call, and with it the record that it holds.
                contain(|| call.set(ready(Ok(()))));
                Err(format!("no answer within {limit:?}").into())
            }
        }
    }

    /// Waits before a retry; false if there is no time for one.
    async fn pause(&self, delay: Duration) -> bool {
        let sleep = tokio::time::sleep(delay);
        self.config.last_attempts.run_until_cancelled(sleep).await.is_some()
    }

    fn dead_letter(&self, record: Arc<StreamRecord<C>>, attempts: u32, error: Box<str>) {
        let record = StreamRecord::for_attempt(&record, attempts);
        let id = record.id();
        let letter =
            DeadLetter { record, hook: Arc::clone(&self.name), error, attempts, at: SystemTime::now() };
        let copy = letter.clone();
        if let Some(evicted) = self.dead_letters.push(letter) {
            trace::dead_letter_evicted(evicted.id(), &self.name);
        }
        self.leave(&self.dead_lettered);
        if let Some(callback) = &self.config.on_dead_letter
            && contain(|| callback(&copy)).is_none()
        {
            trace::callback_panicked(Some(id), "on_dead_letter");
        }
    }

    /// A record leaves the queue for `count`.
    fn leave(&self, count: &Count) {
        count.up();
        self.queued.down();
        self.config.notify();
    }
}

fn panic_error(payload: &(dyn std::any::Any + Send)) -> BoxError {
    let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text.as_str(),
        _ => "a value that is not text",
    };
    format!("panicked: {text}").into()
}

// === impl Slot ===

impl Slot {
    pub(super) fn one(permit: OwnedSemaphorePermit) -> Self {
        Self::One { _permit: permit }
    }

    pub(super) fn several(permit: &Arc<OwnedSemaphorePermit>) -> Self {
        Self::Several { _permit: Arc::clone(permit) }
    }
}

// === impl InFlight ===

impl<C> InFlight<'_, C> {
    /// Takes the delivery out of the queue's hands, and returns its record.
    fn finish(&mut self) -> Option<Arc<StreamRecord<C>>> {
        let Delivery { record, span, _slot: slot, .. } = self.delivery.take()?;
        drop(span);
        // Wakes whoever waits for the slot, which is foreign code.
        contain(|| drop(slot));
        Some(record)
    }
}

impl<C> Drop for InFlight<'_, C> {
    fn drop(&mut self) {
        if let Some(delivery) = self.delivery.take() {
            // The attempt that was cut off counts: the hook may have done its work.
            self.queue.put(delivery);
        }
    }
}

// === impl RunningWorker ===

impl<C> Drop for RunningWorker<C> {
    fn drop(&mut self) {
        let queue = &self.0;
        // Another one has to go on with what is left.
        queue.searching.store(false, SeqCst);
        queue.awake.notify_one();
        let last = queue.running.fetch_sub(1, SeqCst) == 1;
        if last && queue.queued.get() > 0 {
            trace::undelivered(&queue.name, queue.queued.get());
        }
    }
}
