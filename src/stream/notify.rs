//! How a stream's body and its readers wake each other.
//!
//! The body tells its readers that there is a new chunk; lossless readers say how far they are. Neither waits for
//! the other here.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use atomic_waker::AtomicWaker;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use crate::contain::{contain, contained};

/// What the readers of one stream share with its body.
pub(crate) struct Readers {
    list: Mutex<ReaderList>,
    /// No lossless reader is behind this chunk; all may be further.
    slowest: AtomicU64,
    any_lossless: AtomicBool,
    /// Somebody sleeps.
    asleep: AtomicBool,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct ReaderList {
    /// Readers of any kind.
    open: usize,
    lossless: Vec<Arc<ReaderProgress>>,
}

/// How far a lossless reader has come, in chunks of the stream.
#[derive(Debug)]
pub(crate) struct ReaderProgress {
    chunks: AtomicU64,
}

/// The wake-up call of one reader.
#[derive(Default)]
pub(crate) struct Alarm {
    /// Made when it is needed first, and used again.
    changed: Option<Pin<Box<OwnedNotified>>>,
    is_set: bool,
    /// The waker of the reader's task, and the contained one that stands in for it.
    waker: Option<(Waker, Waker)>,
}

/// Whom a reader that advances, or whoever ends the stream, wakes: the one task that polls the body, or the producers
/// that push into a pipeline.
pub(crate) enum BodyWaker {
    /// The task that polls the body.
    Body(AtomicWaker),
    /// Tasks of producers, each of which registers again when it is polled again.
    Producers(Mutex<Vec<Waker>>),
}

// === impl Readers ===

impl Default for Readers {
    fn default() -> Self {
        Self {
            list: Mutex::default(),
            slowest: AtomicU64::new(u64::MAX),
            any_lossless: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            changed: Arc::default(),
        }
    }
}

impl Readers {
    /// Counts a reader in or out, and tells `changed` whether there are any, before anybody else is told.
    pub(crate) fn count(&self, come: bool, changed: impl FnOnce(bool)) {
        let mut list = self.list();
        list.open = if come { list.open + 1 } else { list.open - 1 };
        changed(list.open > 0);
    }

    /// Adds a lossless reader, which counts as having read `chunks`.
    pub(crate) fn add_lossless(&self, chunks: u64) -> Arc<ReaderProgress> {
        let progress = Arc::new(ReaderProgress { chunks: AtomicU64::new(chunks) });
        let mut list = self.list();
        list.lossless.push(Arc::clone(&progress));
        self.slowest.store(slowest(&list.lossless), Relaxed);
        // Release: pairs with the Acquire in `lag`, which then sees the reader's progress.
        self.any_lossless.store(true, Release);
        progress
    }

    /// Removes a lossless reader.
    pub(crate) fn remove_lossless(&self, progress: &Arc<ReaderProgress>) {
        let mut list = self.list();
        list.lossless.retain(|other| !Arc::ptr_eq(other, progress));
        self.any_lossless.store(!list.lossless.is_empty(), Release);
        self.slowest.store(slowest(&list.lossless), Relaxed);
    }

    /// Chunks that the slowest lossless reader is behind `end`: exact from `mark` on.
    pub(crate) fn lag(&self, end: u64, mark: u64) -> u64 {
        // Acquire: pairs with the Release in `add_lossless`.
        if !self.any_lossless.load(Acquire) {
            return 0;
        }
        let lag = end.saturating_sub(self.slowest.load(Relaxed));
        if lag < mark {
            return lag;
        }
        end.saturating_sub(self.find_slowest())
    }

    /// Refreshes the cached progress of the slowest lossless reader.
    pub(crate) fn find_slowest(&self) -> u64 {
        let list = self.list();
        let slowest = slowest(&list.lossless);
        // Under the lock, so that a reader that comes meanwhile is not overlooked.
        self.slowest.store(slowest, Relaxed);
        slowest
    }

    /// No lossless reader is behind this chunk.
    #[inline]
    pub(crate) fn slowest(&self) -> u64 {
        self.slowest.load(Relaxed)
    }

    /// Wakes the readers that sleep: there is a new chunk, or the stream has ended.
    #[inline]
    pub(crate) fn ring(&self) {
        // SeqCst: pairs with the fence in `Alarm::set`. Either the reader sees what is new, or it is seen here.
        fence(SeqCst);
        if self.asleep.load(Relaxed) {
            self.wake_all();
        }
    }

    #[cold]
    fn wake_all(&self) {
        self.asleep.store(false, Relaxed);
        // Each reader waits with a contained waker: see `Alarm::poll`.
        self.changed.notify_waiters();
    }

    fn list(&self) -> MutexGuard<'_, ReaderList> {
        // Nothing can panic under this lock.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").field("open", &self.list().open).finish_non_exhaustive()
    }
}

fn slowest(lossless: &[Arc<ReaderProgress>]) -> u64 {
    // Acquire: pairs with the Release in `advance`, so that what the reader has read may be let go.
    lossless.iter().map(|progress| progress.chunks.load(Acquire)).min().unwrap_or(u64::MAX)
}

// === impl ReaderProgress ===

impl ReaderProgress {
    /// The reader has come to `chunks`. It never goes back.
    pub(crate) fn advance(&self, chunks: u64) {
        if chunks > self.chunks.load(Relaxed) {
            self.chunks.store(chunks, Release);
        }
    }
}

// === impl Alarm ===

impl Alarm {
    /// Returns what `next` has; while it has nothing, sleeps until the readers are woken.
    pub(crate) fn poll_next<T>(
        &mut self,
        readers: &Readers,
        cx: &mut Context<'_>,
        mut next: impl FnMut() -> Option<T>,
    ) -> Poll<T> {
        loop {
            if let Some(found) = next() {
                return Poll::Ready(found);
            }
            if self.is_set {
                ready!(self.poll(cx));
            } else {
                // Then `next` looks once more: what came before the alarm was set is not missed.
                self.set(readers);
            }
        }
    }

    fn set(&mut self, readers: &Readers) {
        let fresh = Arc::clone(&readers.changed).notified_owned();
        let changed = match &mut self.changed {
            Some(place) => {
                place.as_mut().set(fresh);
                place
            }
            None => self.changed.insert(Box::pin(fresh)),
        };
        changed.as_mut().enable();
        self.is_set = true;
        readers.asleep.store(true, Relaxed);
        // SeqCst: pairs with the fence in `ring`.
        fence(SeqCst);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(changed) = &mut self.changed else {
            return Poll::Ready(());
        };
        let known = self.waker.take().filter(|(own, _)| own.will_wake(cx.waker()));
        let (_, contained) =
            self.waker.insert(known.unwrap_or_else(|| (cx.waker().clone(), contained(cx.waker()))));
        let polled = changed.as_mut().poll(&mut Context::from_waker(contained));
        self.is_set = polled.is_pending();
        polled
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm").field("is_set", &self.is_set).finish_non_exhaustive()
    }
}

// === impl BodyWaker ===

impl BodyWaker {
    /// For the one task that polls a body.
    pub(crate) fn one() -> Self {
        Self::Body(AtomicWaker::new())
    }

    /// For any number of producers.
    pub(crate) fn many() -> Self {
        Self::Producers(Mutex::default())
    }

    pub(crate) fn register(&self, waker: &Waker) {
        match self {
            Self::Body(body) => body.register(waker),
            Self::Producers(producers) => {
                let mut wakers = producers.lock().unwrap_or_else(PoisonError::into_inner);
                if !wakers.iter().any(|other| other.will_wake(waker)) {
                    wakers.push(waker.clone());
                }
            }
        }
    }

    pub(crate) fn wake(&self) {
        match self {
            Self::Body(body) => {
                contain(|| body.wake());
            }
            Self::Producers(_) => self.take().into_iter().for_each(|waker| {
                // One by one: a waker that panics costs the others nothing.
                contain(|| waker.wake());
            }),
        }
    }

    /// Forgets who is registered.
    pub(crate) fn take(&self) -> Vec<Waker> {
        match self {
            Self::Body(body) => body.take().into_iter().collect(),
            Self::Producers(producers) => {
                std::mem::take(&mut producers.lock().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }
}
