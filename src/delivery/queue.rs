//! One hook's queue, workers, retries and dead letters.
//!
//! Every hook has a lane of its own, so that a slow one does not delay another. A record in a lane is
//! counted as queued until its hook returned `Ok` or gave up on it: also while it is with the hook. A
//! worker that is dropped with its runtime puts the record in its hands back.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use flume::{Receiver, Sender, WeakSender};
use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::audit::{Count, HookAudit};
use super::dead_letters::{DeadLetter, DeadLetters};
use crate::error::{BoxError, StreamError};
use crate::delivery::hook::ErasedHook;
use crate::id::StreamId;
use crate::stream::outcome::Outcome;
use crate::stream::record::{Account, StreamRecord};
use crate::delivery::retry::RetryPolicy;
use crate::stream::trace;

/// What all lanes of a dispatcher share.
pub(super) struct Rules<C> {
    pub(super) retry: RetryPolicy,
    pub(super) hook_timeout: Duration,
    pub(super) workers: usize,
    pub(super) dead_letters: usize,
    pub(super) on_dead_letter: Option<OnDeadLetter<C>>,
    /// Once cancelled, a failed attempt is the last one.
    pub(super) hurry: CancellationToken,
    /// Once cancelled, workers stop where they are.
    pub(super) stop: CancellationToken,
    /// Notified whenever a record leaves a lane, or a stream ends, once somebody waits for that.
    pub(super) moved: Notify,
    /// Whether somebody waits: until then a notification, which takes a lock, is spared.
    pub(super) awaited: AtomicBool,
}

pub(crate) type OnDeadLetter<C> = Arc<dyn Fn(&DeadLetter<C>) + Send + Sync>;

/// The end of a lane into which records are put. When all are gone, the workers empty the queue and end.
pub(super) struct Lane<C> {
    sender: Sender<Delivery<C>>,
    shared: Arc<Shared<C>>,
}

struct Shared<C> {
    hook: Box<dyn ErasedHook<C>>,
    name: Arc<str>,
    rules: Arc<Rules<C>>,
    receiver: Receiver<Delivery<C>>,
    /// To put back what a dropped worker held.
    back: OnceLock<WeakSender<Delivery<C>>>,
    running: AtomicUsize,
    owed: Count,
    queued: Count,
    delivered: Count,
    retried: Count,
    dead_lettered: Count,
    dead_letters: DeadLetters<C>,
}

/// A record on its way to one hook.
struct Delivery<C> {
    account: Arc<Account<C>>,
    /// Attempts made, over all rounds.
    attempts: u32,
    /// Attempts made since the record was queued: what the retry policy counts.
    round: u32,
    /// The slot that the stream reserved; free once no lane holds it. None for a redelivery.
    _slot: Option<Arc<OwnedSemaphorePermit>>,
}

/// Counts a worker, however it ends.
struct Running<C>(Arc<Shared<C>>);

/// A delivery that a worker is at: back to the queue if the worker is dropped.
struct InHand<'a, C> {
    lane: &'a Shared<C>,
    delivery: Option<Delivery<C>>,
}

// === impl Rules ===

impl<C> Rules<C> {
    /// Something moved.
    pub(super) fn notify(&self) {
        // SeqCst, as the counts are: whoever set this before it looked at them is notified.
        if self.awaited.load(SeqCst) {
            self.moved.notify_waiters();
        }
    }
}

// === impl Lane ===

impl<C: Send + Sync + 'static> Lane<C> {
    pub(super) fn new(hook: Box<dyn ErasedHook<C>>, name: Arc<str>, rules: &Arc<Rules<C>>) -> Self {
        // Without a bound of its own: it holds at most a record per slot and the redelivered dead letters.
        #[expect(clippy::disallowed_methods, reason = "bounded by the slots")]
        let (sender, receiver) = flume::unbounded();
        let shared = Shared {
            hook,
            name,
            rules: Arc::clone(rules),
            receiver,
            back: OnceLock::new(),
            running: AtomicUsize::new(0),
            owed: Count::default(),
            queued: Count::default(),
            delivered: Count::default(),
            retried: Count::default(),
            dead_lettered: Count::default(),
            dead_letters: DeadLetters::new(rules.dead_letters),
        };
        let _ = shared.back.set(sender.downgrade());
        Self { sender, shared: Arc::new(shared) }
    }

    pub(super) fn wants(&self, outcome: &Outcome) -> bool {
        self.shared.hook.wants(outcome)
    }

    /// Queues a record. Never waits and never fails: the slot was reserved when the stream opened.
    pub(super) fn send(&self, account: Arc<Account<C>>, slot: Arc<OwnedSemaphorePermit>) {
        self.shared.owed.up();
        self.put(Delivery { account, attempts: 0, round: 0, _slot: Some(slot) });
        if !self.is_running() {
            trace::undelivered(&self.shared.name, self.queued());
        }
    }

    fn put(&self, delivery: Delivery<C>) {
        self.shared.queued.up();
        // It cannot be disconnected: `shared` holds a receiver.
        let _ = self.sender.send(delivery);
    }

    /// Moves a dead letter back into the queue.
    pub(super) fn redeliver(&self, id: StreamId) -> bool {
        let Some(letter) = self.shared.dead_letters.take(id) else {
            return false;
        };
        self.put(Delivery { account: letter.account, attempts: letter.attempts, round: 0, _slot: None });
        self.shared.dead_lettered.down();
        true
    }

    pub(super) fn is_running(&self) -> bool {
        self.shared.running.load(SeqCst) > 0
    }

    /// Starts the workers on `runtime` unless some run.
    pub(super) fn start(&self, runtime: &Handle) {
        let Shared { running, rules, .. } = &*self.shared;
        if running.compare_exchange(0, rules.workers, SeqCst, SeqCst).is_err() {
            return;
        }
        for _ in 0..rules.workers {
            // Made here, not in the task: a runtime that is going down drops the task unpolled.
            let running = Running(Arc::clone(&self.shared));
            #[expect(clippy::disallowed_methods, reason = "this is where tasks are spawned")]
            runtime.spawn(work(running));
        }
    }

    pub(super) fn queued(&self) -> u64 {
        self.shared.queued.get()
    }

    pub(super) fn dead_letters(&self) -> Vec<DeadLetter<C>> {
        self.shared.dead_letters.list()
    }

    pub(super) fn audit(&self) -> HookAudit {
        let shared = &self.shared;
        HookAudit {
            name: (&*shared.name).into(),
            owed: shared.owed.get(),
            queued: shared.queued.get(),
            delivered: shared.delivered.get(),
            retried: shared.retried.get(),
            dead_lettered: shared.dead_lettered.get(),
        }
    }
}

// === impl Shared ===

async fn work<C: Send + Sync + 'static>(running: Running<C>) {
    let lane = &*running.0;
    let deliver_all = async {
        while let Ok(delivery) = lane.receiver.recv_async().await {
            let delivery = Some(delivery);
            lane.deliver(InHand { lane, delivery }).await;
        }
    };
    tokio::select! {
        biased;
        () = lane.rules.stop.cancelled() => {}
        () = deliver_all => {}
    }
}

impl<C: Send + Sync + 'static> Shared<C> {
    /// Calls the hook until it takes the record or there is no attempt left.
    async fn deliver(&self, mut in_hand: InHand<'_, C>) {
        loop {
            let Some(delivery) = &mut in_hand.delivery else {
                return;
            };
            delivery.attempts += 1;
            delivery.round += 1;
            let account = Arc::clone(&delivery.account);
            let span = account.pipeline.span();
            let (attempts, round) = (delivery.attempts, delivery.round);
            let record = Arc::new(StreamRecord::new(Arc::clone(&account), attempts));
            let Err(error) = span.around(self.attempt(record)).await else {
                in_hand.delivery = None;
                self.leave(&self.delivered);
                return;
            };
            let text = StreamError::text_of(&*error);
            let delay = self.rules.retry.delay_after(round);
            if let Some(delay) = delay
                && self.pause(delay).await
            {
                self.retried.up();
                trace::retrying(span, &self.name, attempts, &text);
                continue;
            }
            in_hand.delivery = None;
            trace::dead_letter(span, &self.name, attempts, &text);
            self.bury(account, attempts, text);
            return;
        }
    }

    /// One call of the hook: an error, a panic, and no answer in time are all failures.
    async fn attempt(&self, record: Arc<StreamRecord<C>>) -> Result<(), BoxError> {
        // The call itself is inside too: a closure may panic before it returns its future.
        let call = AssertUnwindSafe(async { self.hook.call(record).await }).catch_unwind();
        let limit = self.rules.hook_timeout;
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(result)) => result,
            Ok(Err(payload)) => Err(format!("panicked: {}", panic_text(&*payload)).into()),
            Err(_) => Err(format!("no answer within {limit:?}").into()),
        }
    }

    /// Waits before a retry; false if there is no time for one.
    async fn pause(&self, delay: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.rules.hurry.cancelled() => false,
            () = tokio::time::sleep(delay) => true,
        }
    }

    fn bury(&self, account: Arc<Account<C>>, attempts: u32, error: Box<str>) {
        let letter =
            DeadLetter { account, hook: Arc::clone(&self.name), error, attempts, at: SystemTime::now() };
        let copy = letter.clone();
        if let Some(evicted) = self.dead_letters.push(letter) {
            trace::dead_letter_evicted(evicted.id(), &self.name);
        }
        self.leave(&self.dead_lettered);
        if let Some(callback) = &self.rules.on_dead_letter {
            let call = AssertUnwindSafe(|| callback(&copy));
            if std::panic::catch_unwind(call).is_err() {
                trace::callback_panicked(Some(copy.account.pipeline.span()), "on_dead_letter");
            }
        }
    }

    /// A record leaves the queue for `account`.
    fn leave(&self, account: &Count) {
        account.up();
        self.queued.down();
        self.rules.notify();
    }
}

// === impl InHand ===

impl<C> Drop for InHand<'_, C> {
    fn drop(&mut self) {
        if let Some(delivery) = self.delivery.take()
            && let Some(sender) = self.lane.back.get().and_then(WeakSender::upgrade)
        {
            // The attempt that was cut off counts: the hook may have done its work.
            let _ = sender.send(delivery);
        }
    }
}

// === impl Running ===

impl<C> Drop for Running<C> {
    fn drop(&mut self) {
        let lane = &self.0;
        let last = lane.running.fetch_sub(1, SeqCst) == 1;
        if last && lane.queued.get() > 0 {
            trace::undelivered(&lane.name, lane.queued.get());
        }
    }
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "a value that is not text",
    }
}
