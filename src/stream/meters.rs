//! What is read of one stream while it runs: its response by a meter, its request for what it asks.
//!
//! # Who holds what
//!
//! Each side is fed by the one task that polls that body, and taken by whoever settles the stream: the body's own
//! end or drop, but also a [cancel](crate::StreamHandle::cancel) or the watchdog, while the body lives on. A mutex
//! stands between them, and the hot path never waits for it: a feed only *tries* to lock. The one other holder is
//! whoever settles the stream, and then its bytes no longer count. Whoever settles does lock, and waits for one
//! feed at the most.

use std::cell::Cell;
use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use crate::accumulator::MemoryBudget;
use crate::meter::{Charge, MeterSet, Metering, RequestFacts, RequestReader};

/// What a layer wants to be read.
#[derive(Debug)]
pub(crate) struct Meters {
    /// Of responses.
    pub(crate) set: Option<MeterSet>,
    /// Of requests: the most bytes that are kept of one.
    pub(crate) request: Option<usize>,
    pub(crate) budget: MemoryBudget,
}

/// What is read of one stream.
#[derive(Default)]
pub(crate) struct Metered {
    answer: Fed<Metering>,
    request: Fed<Asking>,
}

/// A request that is read as it streams through.
struct Asking {
    /// None once the budget had no room for it.
    reader: Option<RequestReader>,
    /// What was found until then.
    facts: RequestFacts,
    charge: Charge,
}

/// What one task feeds, if it was set, and another one takes.
struct Fed<T>(OnceLock<Mutex<Option<Box<T>>>>);

/// Marks that its thread feeds something, while it lives.
struct Feeding {
    before: bool,
}

thread_local! {
    static FEEDING: Cell<bool> = const { Cell::new(false) };
}

// === impl Meters ===

impl Meters {
    /// Whether responses are read when they are over, from what was captured.
    pub(crate) fn is_on_worker(&self) -> bool {
        self.set.as_ref().is_some_and(MeterSet::is_on_worker)
    }
}

// === impl Metered ===

impl Metered {
    /// Has `metering` read the response.
    pub(crate) fn meter_answer(&self, metering: Metering) {
        self.answer.set(metering);
    }

    /// Has the request read, of which at most `max` bytes are kept.
    pub(crate) fn read_request(&self, max: usize, budget: &MemoryBudget) {
        self.request.set(Asking {
            reader: Some(RequestReader::new(max)),
            facts: RequestFacts::default(),
            charge: Charge::new(budget),
        });
    }

    /// A chunk of the response went by, so long after the stream's opening. Never waits: see the module's docs.
    pub(crate) fn feed_answer(&self, chunk: &[u8], now: Duration) {
        self.answer.feed(|metering| metering.feed(chunk, now));
    }

    /// A chunk of the request went by. Never waits, either.
    pub(crate) fn feed_request(&self, chunk: &[u8]) {
        self.request.feed(|asking| asking.feed(chunk));
    }

    /// The stream is over: its meter, finished. What goes by from now on is not read.
    pub(crate) fn finish_answer(&self) -> Option<Metering> {
        let mut metering = *self.answer.take()?;
        metering.finish();
        Some(metering)
    }

    /// The stream is over: what was found in its request, if anything was, and what it is charged.
    pub(crate) fn finish_request(&self) -> Option<(RequestFacts, Charge)> {
        let Asking { reader, facts, charge } = *self.request.take()?;
        let facts = reader.map_or(facts, |reader| reader.facts());
        (facts != RequestFacts::default()).then_some((facts, charge))
    }
}

impl fmt::Debug for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metered").finish_non_exhaustive()
    }
}

// === impl Asking ===

impl Asking {
    fn feed(&mut self, chunk: &[u8]) {
        let Some(reader) = &mut self.reader else {
            return;
        };
        reader.feed(chunk);
        if !self.charge.cover(reader.held()) {
            // The prompt is what takes room; what is known besides is a few bytes.
            self.facts = RequestFacts { prompt: Box::default(), ..reader.facts() };
            self.reader = None;
        }
    }
}

// === impl Fed ===

impl<T> Fed<T> {
    fn set(&self, value: T) {
        // A stream has one request and one response, so nothing is set yet.
        let _ = self.0.set(Mutex::new(Some(Box::new(value))));
    }

    fn feed(&self, feed: impl FnOnce(&mut T)) {
        let Some(cell) = self.0.get() else {
            return;
        };
        if let Ok(mut value) = cell.try_lock()
            && let Some(value) = value.as_deref_mut()
        {
            let _feeding = Feeding::begin();
            feed(value);
        }
    }

    /// Takes it. None if it was not set, or was taken.
    fn take(&self) -> Option<Box<T>> {
        let cell = self.0.get()?;
        if !FEEDING.get() {
            return cell.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        // A meter that stops a stream, perhaps its own, must not wait for itself.
        match cell.try_lock() {
            Ok(mut value) => value.take(),
            Err(TryLockError::Poisoned(value)) => value.into_inner().take(),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl<T> Default for Fed<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

// === impl Feeding ===

impl Feeding {
    fn begin() -> Self {
        Self { before: FEEDING.replace(true) }
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        FEEDING.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(value: u32) -> Fed<u32> {
        let fed = Fed::default();
        fed.set(value);
        fed
    }

    #[test]
    fn what_was_taken_is_fed_no_more_and_taken_once() {
        let cell = fed(1);
        cell.feed(|value| *value += 1);
        assert_eq!(cell.take().as_deref(), Some(&2));
        cell.feed(|_| panic!("fed after it was taken"));
        assert_eq!(cell.take(), None);
    }

    #[test]
    fn a_feed_does_not_wait_for_whoever_takes() {
        let cell = fed(1);
        let held = cell.0.get().unwrap().lock().unwrap();
        cell.feed(|_| panic!("fed while it was held"));
        drop(held);
        assert_eq!(cell.take().as_deref(), Some(&1));
    }

    #[test]
    fn a_feed_that_takes_does_not_wait_for_itself_and_can_take_another() {
        let (own, other) = (fed(1), fed(2));
        own.feed(|_| {
            assert_eq!(own.take(), None);
            assert_eq!(other.take().as_deref(), Some(&2));
        });
        assert_eq!(own.take().as_deref(), Some(&1));
    }

    #[test]
    fn a_prompt_that_has_no_room_goes_and_the_model_stays() {
        let request = |prompt: &str| {
            let budget = MemoryBudget::new(16 * 1024);
            let metered = Metered::default();
            metered.read_request(1 << 20, &budget);
            metered.feed_request(br#"{"model":"gpt","messages":[{"content":""#);
            for _ in 0..64 {
                metered.feed_request(prompt.as_bytes());
            }
            (metered.finish_request().unwrap(), budget)
        };
        let ((facts, charge), budget) = request(&"x".repeat(16));
        assert_eq!((facts.model.as_deref(), facts.prompt.len()), (Some("gpt"), 1024));
        assert!(budget.used() > 0);
        drop(charge);
        assert_eq!(budget.used(), 0);

        let ((facts, _charge), budget) = request(&"x".repeat(1024));
        assert_eq!((facts.model.as_deref(), facts.prompt.len()), (Some("gpt"), 0));
        assert!((8 * 1024..64 * 1024).contains(&facts.prompt_len), "as far as it was read");
        assert!(budget.peak() <= 12 * 1024, "{budget:?}");
    }

    #[test]
    fn a_panic_in_a_feed_leaves_the_rest_usable() {
        let cell = fed(1);
        let feed = std::panic::AssertUnwindSafe(|| cell.feed(|_| panic!("scripted panic")));
        assert!(std::panic::catch_unwind(feed).is_err());
        assert!(!FEEDING.get());
        assert_eq!(cell.take().as_deref(), Some(&1));
    }
}
