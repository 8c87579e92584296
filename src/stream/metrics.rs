//! The numbers of one stream.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::{Duration, SystemTime};

use once_cell::sync::Lazy;
use quanta::Clock;

/// The numbers of one stream: live behind [`StreamHandle::metrics`](crate::StreamHandle::metrics),
/// frozen in a [`StreamRecord`](crate::StreamRecord).
///
/// Bytes are counted as *pulled* (taken from the body by whoever polls it, usually hyper) and as
/// *produced* (yielded by the inner body). Neither says what the client received: the server and the
/// kernel may hold megabytes.
///
/// Times are monotonic. They come from the processor's time-stamp counter where that is reliable, else
/// from the operating system: a stream reads the clock once per chunk, and the counter costs less than
/// half of a system clock read. They do not stand still when a test pauses tokio's clock.
///
/// Reading is wait-free. Each number is exact on its own; two numbers read while the stream runs may
/// be one frame apart.
#[derive(Debug)]
pub struct StreamMetrics {
    clock: Clock,
    /// A reading of `clock`, like all moments here.
    started: u64,
    started_at: SystemTime,
    bytes: AtomicU64,
    /// Bytes that the inner body yielded and that did not go on.
    withheld: AtomicU64,
    chunks: AtomicU64,
    /// Frames that are no chunks.
    others: AtomicU64,
    /// 0 until there is a first chunk.
    first_chunk: AtomicU64,
    /// As `first_chunk`.
    last_chunk: AtomicU64,
    /// The difference of two readings.
    longest_gap: AtomicU64,
    /// 0 while the stream runs.
    ended: AtomicU64,
}

/// Calibrated once, which takes about a millisecond.
static CLOCK: Lazy<Clock> = Lazy::new(Clock::new);

// === impl StreamMetrics ===

impl StreamMetrics {
    pub(crate) fn start() -> Self {
        Self::start_with(CLOCK.clone())
    }

    fn start_with(clock: Clock) -> Self {
        Self {
            started: clock.raw(),
            clock,
            started_at: SystemTime::now(),
            bytes: AtomicU64::new(0),
            withheld: AtomicU64::new(0),
            chunks: AtomicU64::new(0),
            others: AtomicU64::new(0),
            first_chunk: AtomicU64::new(0),
            last_chunk: AtomicU64::new(0),
            longest_gap: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }

    /// Bytes of data pulled.
    pub fn bytes(&self) -> u64 {
        // Pairs with the Release in `record_chunk`: captured content is at least as new as this count.
        self.bytes.load(Acquire)
    }

    /// Bytes of data that the inner body yielded, a withheld chunk included.
    pub fn bytes_produced(&self) -> u64 {
        self.bytes() + self.withheld.load(Relaxed)
    }

    /// Data frames pulled that held at least one byte.
    pub fn chunks(&self) -> u64 {
        // Pairs with the Release in `record_chunk`: the chunks counted are seen to be kept.
        self.chunks.load(Acquire)
    }

    /// Frames pulled: data, empty data, trailers.
    pub fn frames(&self) -> u64 {
        self.chunks() + self.others.load(Relaxed)
    }

    /// The wall-clock time at which the stream opened.
    pub fn started_at(&self) -> SystemTime {
        self.started_at
    }

    /// From the stream's opening to its end, or to now while it runs.
    pub fn elapsed(&self) -> Duration {
        self.moment(&self.ended).unwrap_or_else(|| self.between(self.started, self.clock.raw()))
    }

    /// From the stream's opening to the first data frame that held at least one byte.
    pub fn time_to_first_chunk(&self) -> Option<Duration> {
        self.moment(&self.first_chunk)
    }

    /// From the stream's opening to the latest data frame that held at least one byte.
    pub fn time_to_last_chunk(&self) -> Option<Duration> {
        self.moment(&self.last_chunk)
    }

    /// The longest time between two successive chunks; none before the second.
    pub fn longest_gap(&self) -> Option<Duration> {
        (self.chunks() > 1).then(|| self.between(0, self.longest_gap.load(Relaxed)))
    }

    /// Marks now as the time of the first chunk, unless there is one already.
    pub fn record_first_chunk(&self) {
        let now = self.clock.raw();
        // The loser of a race keeps the earlier mark: a failed exchange is the wanted result.
        let _ = self.first_chunk.compare_exchange(0, now, Relaxed, Relaxed);
    }

    /// A reading of the clock, for [`arrival`](Self::arrival), [`since_start`](Self::since_start) and
    /// [`record_chunk`](Self::record_chunk).
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.clock.raw()
    }

    /// The time from the stream's opening to the reading `now`, in units of 1,024 ns.
    #[inline]
    pub(crate) fn arrival(&self, now: u64) -> u64 {
        self.clock.delta_as_nanos(self.started, now) >> 10
    }

    /// The time from the stream's opening to the reading `now`.
    pub(crate) fn since_start(&self, now: u64) -> Duration {
        self.between(self.started, now)
    }

    /// Counts bytes that the inner body yielded and that do not go on.
    pub(crate) fn record_withheld(&self, bytes: usize) {
        add(&self.withheld, bytes as u64);
    }

    /// Counts a frame without data that goes on to whoever polls.
    pub(crate) fn record_other(&self) {
        add(&self.others, 1);
    }

    /// Counts a chunk of so many bytes, not none, that goes on to whoever polls at the reading `now`.
    ///
    /// For the one task that polls the body: two callers at once would lose counts.
    #[inline]
    pub(crate) fn record_chunk(&self, bytes: usize, now: u64) {
        let pulled = self.bytes.load(Relaxed) + bytes as u64;
        self.bytes.store(pulled, Release);
        self.chunks.store(self.chunks.load(Relaxed) + 1, Release);
        let last = self.last_chunk.load(Relaxed);
        self.last_chunk.store(now, Relaxed);
        // Counters of two cores may be a few ticks apart.
        if now.saturating_sub(last) > self.longest_gap.load(Relaxed) {
            self.record_gap(last, now);
        }
    }

    /// The first chunk, or a longer gap than any before it.
    #[cold]
    fn record_gap(&self, last: u64, now: u64) {
        if last != 0 {
            self.longest_gap.store(now - last, Relaxed);
        } else if self.first_chunk.load(Relaxed) == 0 {
            // Else it was marked by hand.
            self.first_chunk.store(now, Relaxed);
        }
    }

    /// A copy that no longer changes: `elapsed` stands at now.
    pub(crate) fn freeze(&self) -> Self {
        let copy = |number: &AtomicU64| AtomicU64::new(number.load(Relaxed));
        Self {
            clock: self.clock.clone(),
            started: self.started,
            started_at: self.started_at,
            bytes: copy(&self.bytes),
            withheld: copy(&self.withheld),
            chunks: copy(&self.chunks),
            others: copy(&self.others),
            first_chunk: copy(&self.first_chunk),
            last_chunk: copy(&self.last_chunk),
            longest_gap: copy(&self.longest_gap),
            ended: AtomicU64::new(self.clock.raw()),
        }
    }

    /// The time from the start to a moment, if it has come.
    fn moment(&self, mark: &AtomicU64) -> Option<Duration> {
        let reading = mark.load(Relaxed);
        (reading > 0).then(|| self.between(self.started, reading))
    }

    fn between(&self, start: u64, end: u64) -> Duration {
        Duration::from_nanos(self.clock.delta_as_nanos(start, end))
    }
}

/// A load and a store instead of a locked add: there is one writer, and readers need no order.
#[inline]
fn add(number: &AtomicU64, n: u64) {
    number.store(number.load(Relaxed) + n, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started() -> (StreamMetrics, impl Fn(u64)) {
        let (clock, mock) = Clock::mock();
        mock.increment(Duration::from_secs(1));
        let pass = move |millis| mock.increment(Duration::from_millis(millis));
        (StreamMetrics::start_with(clock), pass)
    }

    fn record(metrics: &StreamMetrics, bytes: usize) {
        match bytes {
            0 => metrics.record_other(),
            bytes => metrics.record_chunk(bytes, metrics.now()),
        }
    }

    #[test]
    fn times_are_taken_from_the_first_and_last_chunk_and_the_longest_gap() {
        let (metrics, pass) = started();
        assert_eq!(metrics.time_to_first_chunk(), None);
        for (millis, bytes) in [(10, 3), (5, 0), (20, 4), (1, 5)] {
            pass(millis);
            record(&metrics, bytes);
        }
        assert_eq!(metrics.bytes(), 12);
        assert_eq!(metrics.chunks(), 3, "an empty frame is no chunk");
        assert_eq!(metrics.frames(), 4);
        assert_eq!(metrics.time_to_first_chunk(), Some(Duration::from_millis(10)));
        assert_eq!(metrics.time_to_last_chunk(), Some(Duration::from_millis(36)));
        assert_eq!(metrics.longest_gap(), Some(Duration::from_millis(25)));
    }

    #[test]
    fn a_frozen_copy_stands_still() {
        let (metrics, pass) = started();
        pass(7);
        record(&metrics, 1);
        let frozen = metrics.freeze();
        pass(7);
        record(&metrics, 1);
        assert_eq!(frozen.bytes(), 1);
        assert_eq!(frozen.elapsed().as_millis(), 7);
        assert_eq!(metrics.elapsed().as_millis(), 14);
    }

    #[test]
    fn a_first_chunk_marked_by_hand_is_kept() {
        let (metrics, pass) = started();
        pass(1);
        metrics.record_first_chunk();
        pass(1);
        metrics.record_first_chunk();
        record(&metrics, 3);
        assert_eq!(metrics.time_to_first_chunk().map(|t| t.as_millis()), Some(1));
    }

    #[test]
    fn the_real_clock_keeps_time() {
        let metrics = StreamMetrics::start();
        let system = SystemTime::now();
        while system.elapsed().unwrap_or_default() < Duration::from_millis(20) {}
        let measured = metrics.elapsed().as_millis();
        assert!((19..2_000).contains(&measured), "{measured} ms of at least 20");
    }
}
