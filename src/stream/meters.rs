//! What is read of one stream while it runs: its response by a meter, its request for what it asks.
//!
//! # Who holds what
//!
//! Each side is fed by the one task that polls that body, and taken by whoever settles the stream: the body's own
//! end or drop, but also a [cancel](crate::StreamHandle::cancel) or the watchdog, while the body lives on. A mutex
//! stands between them. The body holds it while a chunk passes the gate and is read, so that a chunk which is counted
//! is also metered; whoever settles the stream waits for that one chunk. The body itself waits for nothing but the
//! moment in which the meter is taken away, or its counts are copied for [`StreamHandle::usage`].
//!
//! [`StreamHandle::usage`]: crate::StreamHandle::usage

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use super::metrics::Passage;
use super::report::quota;
use crate::accumulator::MemoryBudget;
use crate::meter::{Charge, RequestFacts, RequestReader, StreamMeter, Usage};

/// What is read of one stream.
#[derive(Default)]
pub(crate) struct MeterSlots {
    response: MeterSlot<ResponseMeter>,
    /// Chunks that held more than comments, where the response is made of server-sent events.
    progress: AtomicU64,
    has_events: AtomicBool,
    request: MeterSlot<RequestCapture>,
}

/// The meter of a response.
struct ResponseMeter {
    meter: StreamMeter,
    /// Where the response is made of server-sent events.
    lines: Option<EventLines>,
}

/// Tells comments, which keep a connection alive, from what a server has to say
/// ([HTML, section 9.2.6](https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation):
/// a line that begins with a colon is ignored).
struct EventLines {
    at_start: bool,
    in_comment: bool,
}

/// A request that is read as it streams through.
struct RequestCapture {
    /// None once the budget had no room for it.
    reader: Option<RequestReader>,
    /// What was found until then.
    facts: RequestFacts,
    charge: Charge,
}

/// What one task feeds, if it was set, and another one takes.
struct MeterSlot<T>(OnceLock<Mutex<Option<Box<T>>>>);

/// Marks that its thread feeds something, while it lives.
struct FeedMark {
    before: bool,
}

thread_local! {
    static FEEDING: Cell<bool> = const { Cell::new(false) };
}

// === impl MeterSlots ===

impl MeterSlots {
    /// Lets `meter` read the response.
    pub(crate) fn set_response(&self, meter: StreamMeter, has_events: bool) {
        self.has_events.store(has_events, Relaxed);
        self.response.set(ResponseMeter { meter, lines: has_events.then(EventLines::new) });
    }

    /// Begins to read the request, and keeps at most `max` bytes of it.
    pub(crate) fn read_request(&self, max: usize, budget: &MemoryBudget) {
        self.request.set(RequestCapture {
            reader: Some(RequestReader::new(max)),
            facts: RequestFacts::default(),
            charge: Charge::new(Some(quota(budget))),
        });
    }

    /// Lets a chunk of the response pass the gate, and feeds it to the meter if it was counted. It comes `now` after
    /// the stream's opening.
    pub(crate) fn pass_and_feed(
        &self,
        chunk: &[u8],
        now: Duration,
        pass: impl FnOnce() -> Passage,
    ) -> Passage {
        self.response.with(|response| {
            let passage = pass();
            if let (Some(ResponseMeter { meter, lines }), Passage::Counted { .. }) = (response, passage) {
                if lines.as_mut().is_some_and(|lines| lines.say_more_than_comments(chunk)) {
                    // There is one writer: whoever holds the meter.
                    self.progress.store(self.progress.load(Relaxed) + 1, Relaxed);
                }
                let _mark = FeedMark::begin();
                meter.feed(chunk, now);
            }
            passage
        })
    }

    /// Chunks so far that held more than comments; `None` where no meter reads server-sent events.
    pub(crate) fn progress(&self) -> Option<u64> {
        self.has_events.load(Relaxed).then(|| self.progress.load(Relaxed))
    }

    /// The counts so far, while a meter reads the response. `None` when a meter itself asks.
    pub(crate) fn usage_so_far(&self) -> Option<Usage> {
        if FEEDING.get() {
            None
        } else {
            self.response.with(|response| response.map(|response| response.meter.usage_so_far()))
        }
    }

    /// Feeds a chunk of the request to its reader, if it has one.
    pub(crate) fn feed_request(&self, chunk: &[u8]) {
        self.request.with(|capture| capture.into_iter().for_each(|capture| capture.feed(chunk)));
    }

    /// The stream is over: its meter, finished. What goes by from now on is not read.
    pub(crate) fn finish_response(&self) -> Option<StreamMeter> {
        let mut meter = self.response.take()?.meter;
        meter.finish();
        Some(meter)
    }

    /// The stream is over: what was found in its request, if anything was, and what it is charged.
    pub(crate) fn finish_request(&self) -> Option<(RequestFacts, Charge)> {
        let RequestCapture { reader, facts, charge } = *self.request.take()?;
        let facts = reader.map_or(facts, |reader| reader.facts());
        (facts != RequestFacts::default()).then_some((facts, charge))
    }
}

impl fmt::Debug for MeterSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeterSlots").finish_non_exhaustive()
    }
}

// === impl EventLines ===

impl EventLines {
    fn new() -> Self {
        Self { at_start: true, in_comment: false }
    }

    /// Whether there is anything in `chunk` but comments and empty lines. Lines may be cut anywhere.
    fn say_more_than_comments(&mut self, chunk: &[u8]) -> bool {
        let ends_line = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let mut more = false;
        for line in chunk.split_inclusive(ends_line) {
            let is_empty = self.at_start && ends_line(&line[0]);
            if self.at_start {
                self.in_comment = line[0] == b':';
            }
            more |= !self.in_comment && !is_empty;
            self.at_start = line.last().is_some_and(ends_line);
        }
        more
    }
}

// === impl RequestCapture ===

impl RequestCapture {
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

// === impl MeterSlot ===

impl<T> MeterSlot<T> {
    fn set(&self, value: T) {
        // A stream has one request and one response, so nothing is set yet.
        let _ = self.0.set(Mutex::new(Some(Box::new(value))));
    }

    /// Calls `f` with the value, if it is there. It cannot be taken meanwhile.
    fn with<R>(&self, f: impl FnOnce(Option<&mut T>) -> R) -> R {
        match self.0.get() {
            None => f(None),
            // Poisoned if a feed panicked: what is there is whole, as `take` may find it.
            Some(cell) => f(cell.lock().unwrap_or_else(PoisonError::into_inner).as_deref_mut()),
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

impl<T> Default for MeterSlot<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

// === impl FeedMark ===

impl FeedMark {
    fn begin() -> Self {
        Self { before: FEEDING.replace(true) }
    }
}

impl Drop for FeedMark {
    fn drop(&mut self) {
        FEEDING.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(value: u32) -> MeterSlot<u32> {
        let slot = MeterSlot::default();
        slot.set(value);
        slot
    }

    #[test]
    fn value_is_taken_once() {
        let slot = slot(1);
        slot.with(|value| *value.unwrap() += 1);
        assert_eq!(slot.take().as_deref(), Some(&2));
        assert!(slot.with(|value| value.is_none()));
        assert_eq!(slot.take(), None);
    }

    #[test]
    fn feed_that_takes_its_own_value_does_not_hang() {
        let (own, other) = (slot(1), slot(2));
        own.with(|_| {
            let _mark = FeedMark::begin();
            assert_eq!(own.take(), None);
            assert_eq!(other.take().as_deref(), Some(&2));
        });
        assert_eq!(own.take().as_deref(), Some(&1));
    }

    #[test]
    fn prompt_without_room_goes_and_the_model_stays() {
        let request = |prompt: &str| {
            let budget = MemoryBudget::new(16 * 1024);
            let metered = MeterSlots::default();
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
    fn comments_are_told_from_events_however_they_are_cut() {
        let says_more = |chunks: &[&str]| {
            let mut lines = EventLines::new();
            chunks.iter().map(|chunk| lines.say_more_than_comments(chunk.as_bytes())).collect::<Vec<_>>()
        };
        assert_eq!(says_more(&[":\n\n", ": pi", "ng\r\n\r\n", ":"]), [false; 4]);
        assert_eq!(says_more(&[":x\ndata: 1\n\n", "\n", "da", "ta", ":\n"]), [true, false, true, true, true]);
        assert_eq!(says_more(&["", ":\rid", "\n:\n"]), [false, true, true]);
    }

    #[test]
    fn slot_outlives_a_panic() {
        let slot = slot(1);
        let feed = std::panic::AssertUnwindSafe(|| {
            slot.with(|_| {
                let _mark = FeedMark::begin();
                panic!("scripted panic");
            })
        });
        assert!(std::panic::catch_unwind(feed).is_err());
        assert!(!FEEDING.get());
        assert_eq!(slot.take().as_deref(), Some(&1));
    }
}
