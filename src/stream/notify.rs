//! What a stream's body and its readers tell each other.
//!
//! The body rings a bell when there is a new chunk; readers that asked to be waited for say how far they
//! are. Neither waits for the other here.
//!
//! However many readers sleep, ringing wakes one task, the *relay*, and that one wakes the readers: a
//! thousand taps cost the body no more than one.

use std::pin::Pin;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::{fmt, future};

use atomic_waker::AtomicWaker;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// What the readers of one stream share with its body.
pub(crate) struct Watch {
    readers: Mutex<Readers>,
    /// No reader that is waited for is behind this; it may be further.
    slowest: AtomicU64,
    waited: AtomicBool,
    bell: Arc<Bell>,
}

#[derive(Default)]
struct Readers {
    /// All of them.
    open: usize,
    waited: Vec<Arc<Position>>,
}

/// How far a reader that is waited for has come, in chunks of the stream.
#[derive(Debug)]
pub(crate) struct Position {
    chunks: AtomicU64,
}

#[derive(Default)]
struct Bell {
    /// Somebody sleeps.
    asleep: AtomicBool,
    readers: Arc<Notify>,
    relay: AtomicWaker,
    relayed: AtomicBool,
    closed: AtomicBool,
}

/// One sleeping place at a bell.
#[derive(Default)]
pub(crate) struct Sleeper {
    rung: Option<Pin<Box<OwnedNotified>>>,
    is_set: bool,
    slept: bool,
}

/// Marks the relay as gone, wherever its task ends.
struct Relay(Weak<Bell>);

// === impl Watch ===

impl Watch {
    pub(crate) fn new() -> Self {
        Self {
            readers: Mutex::default(),
            slowest: AtomicU64::new(u64::MAX),
            waited: AtomicBool::new(false),
            bell: Arc::default(),
        }
    }

    /// Counts a reader in or out, and tells `changed` whether there are any, before anybody else is.
    pub(crate) fn count(&self, come: bool, changed: impl FnOnce(bool)) {
        let mut readers = self.readers();
        readers.open = if come { readers.open + 1 } else { readers.open - 1 };
        changed(readers.open > 0);
    }

    /// From now on a reader is waited for. It counts as having read `chunks`.
    pub(crate) fn wait_for(&self, chunks: u64) -> Arc<Position> {
        let position = Arc::new(Position { chunks: AtomicU64::new(chunks) });
        let mut readers = self.readers();
        readers.waited.push(Arc::clone(&position));
        self.slowest.store(slowest(&readers.waited), Relaxed);
        self.waited.store(true, Release);
        position
    }

    /// A reader is no longer waited for.
    pub(crate) fn forget(&self, position: &Arc<Position>) {
        let mut readers = self.readers();
        readers.waited.retain(|other| !Arc::ptr_eq(other, position));
        self.waited.store(!readers.waited.is_empty(), Release);
        self.slowest.store(slowest(&readers.waited), Relaxed);
    }

    /// How far the slowest reader that is waited for is behind `end`: exact from `mark` on.
    pub(crate) fn lag(&self, end: u64, mark: u64) -> u64 {
        // Pairs with the Release in `wait_for`: the position is seen.
        if !self.waited.load(Acquire) {
            return 0;
        }
        let lag = end.saturating_sub(self.slowest.load(Relaxed));
        if lag < mark {
            return lag;
        }
        end.saturating_sub(self.find_slowest())
    }

    /// Has the body know how far the slowest reader is, which it else looks up only when it must.
    pub(crate) fn find_slowest(&self) -> u64 {
        let readers = self.readers();
        let slowest = slowest(&readers.waited);
        // Under the lock, so that no reader that comes meanwhile is overlooked.
        self.slowest.store(slowest, Relaxed);
        slowest
    }

    /// No reader that is waited for is behind this.
    #[inline]
    pub(crate) fn slowest(&self) -> u64 {
        self.slowest.load(Relaxed)
    }

    /// Tells the readers that there is a new chunk.
    #[inline]
    pub(crate) fn ring(&self) {
        // Pairs with the one in `Sleeper::set`: either the reader sees the chunk, or it is seen here.
        fence(SeqCst);
        if self.bell.asleep.load(Relaxed) {
            self.bell.ring();
        }
    }

    /// Tells the readers that the stream has ended.
    pub(crate) fn close(&self) {
        self.bell.closed.store(true, SeqCst);
        self.bell.ring();
    }

    /// Starts the relay, if the caller is inside a runtime. Without one the body wakes the readers itself.
    pub(crate) fn start_relay(&self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if self.bell.relayed.swap(true, SeqCst) {
            return;
        }
        let relay = Relay(Arc::downgrade(&self.bell));
        #[expect(clippy::disallowed_methods, reason = "from `tap`, never from a body or a drop")]
        runtime.spawn(future::poll_fn(move |cx| relay.poll(cx)));
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        // Nothing can panic under this lock.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("readers", &self.readers().open).finish_non_exhaustive()
    }
}

fn slowest(waited: &[Arc<Position>]) -> u64 {
    // Acquire pairs with the Release in `advance`.
    waited.iter().map(|position| position.chunks.load(Acquire)).min().unwrap_or(u64::MAX)
}

// === impl Position ===

impl Position {
    /// The reader has come so far. It never goes back.
    pub(crate) fn advance(&self, chunks: u64) {
        if chunks > self.chunks.load(Relaxed) {
            self.chunks.store(chunks, Release);
        }
    }
}

// === impl Bell ===

impl Bell {
    #[cold]
    fn ring(&self) {
        self.asleep.store(false, Relaxed);
        if self.relayed.load(SeqCst) {
            self.relay.wake();
        } else {
            self.readers.notify_waiters();
        }
    }
}

// === impl Relay ===

impl Relay {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(bell) = self.0.upgrade() else {
            return Poll::Ready(());
        };
        bell.relay.register(cx.waker());
        bell.readers.notify_waiters();
        if bell.closed.load(SeqCst) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(bell) = self.0.upgrade() {
            bell.relayed.store(false, SeqCst);
            bell.readers.notify_waiters();
        }
    }
}

// === impl Sleeper ===

impl Sleeper {
    /// Sets the alarm. The reader must look once more whether there is something before it sleeps. False
    /// if it was set already: then it did.
    pub(crate) fn set(&mut self, watch: &Watch) -> bool {
        if self.is_set {
            return false;
        }
        let rung = Arc::clone(&watch.bell.readers).notified_owned();
        let rung = match &mut self.rung {
            Some(place) => {
                place.as_mut().set(rung);
                place
            }
            None => self.rung.insert(Box::pin(rung)),
        };
        rung.as_mut().enable();
        self.is_set = true;
        watch.bell.asleep.store(true, Relaxed);
        // Pairs with the one in `ring`.
        fence(SeqCst);
        true
    }

    /// Sleeps until the bell rings.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.slept {
            // A body that looked for readers just before the first one came rings no bell for the chunk that
            // it was appending. A moment later that chunk is there for all to see.
            self.slept = true;
            self.is_set = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(rung) = &mut self.rung else {
            return Poll::Ready(());
        };
        let polled = rung.as_mut().poll(cx);
        self.is_set = polled.is_pending();
        polled
    }
}

impl fmt::Debug for Sleeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleeper").field("is_set", &self.is_set).finish_non_exhaustive()
    }
}
