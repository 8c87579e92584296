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
    bytes_produced: AtomicU64,
    chunks: AtomicU64,
    frames: AtomicU64,
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
            bytes_produced: AtomicU64::new(0),
            chunks: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            first_chunk: AtomicU64::new(0),
            last_chunk: AtomicU64::new(0),
            longest_gap: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }

    /// Bytes of data pulled.
    pub fn bytes(&self) -> u64 {
        // Pairs with the Release in `record_frame`: captured content is at least as new as this count.
        self.bytes.load(Acquire)
    }

    /// Bytes of data that the inner body yielded, a withheld chunk included.
    pub fn bytes_produced(&self) -> u64 {
        self.bytes_produced.load(Relaxed)
    }

    /// Data frames pulled that held at least one byte.
    pub fn chunks(&self) -> u64 {
        self.chunks.load(Relaxed)
    }

    /// Frames pulled: data, empty data, trailers.
    pub fn frames(&self) -> u64 {
        self.frames.load(Relaxed)
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

    /// Counts bytes that the inner body yielded.
    #[inline]
    pub(crate) fn record_produced(&self, bytes: usize) {
        add(&self.bytes_produced, bytes as u64);
    }

    /// Counts a frame that goes on to whoever polls, with its bytes of data. Reads the clock once.
    ///
    /// For the one task that polls the body: two callers at once would lose counts.
    #[inline]
    pub(crate) fn record_frame(&self, bytes: usize) {
        add(&self.frames, 1);
        if bytes == 0 {
            return;
        }
        let pulled = self.bytes.load(Relaxed) + bytes as u64;
        self.bytes.store(pulled, Release);
        add(&self.chunks, 1);
        let now = self.clock.raw();
        match self.last_chunk.load(Relaxed) {
            // Unless it was marked by hand.
            0 if self.first_chunk.load(Relaxed) == 0 => self.first_chunk.store(now, Relaxed),
            0 => {}
            last => {
                // Counters of two cores may be a few ticks apart.
                let gap = now.saturating_sub(last);
                if gap > self.longest_gap.load(Relaxed) {
                    self.longest_gap.store(gap, Relaxed);
                }
            }
        }
        self.last_chunk.store(now, Relaxed);
    }

    /// A copy that no longer changes: `elapsed` stands at now.
    pub(crate) fn freeze(&self) -> Self {
        let copy = |number: &AtomicU64| AtomicU64::new(number.load(Relaxed));
        Self {
            clock: self.clock.clone(),
            started: self.started,
            started_at: self.started_at,
            bytes: copy(&self.bytes),
            bytes_produced: copy(&self.bytes_produced),
            chunks: copy(&self.chunks),
            frames: copy(&self.frames),
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

    #[test]
    fn times_are_taken_from_the_first_and_last_chunk_and_the_longest_gap() {
        let (metrics, pass) = started();
        assert_eq!(metrics.time_to_first_chunk(), None);
        for (millis, bytes) in [(10, 3), (5, 0), (20, 4), (1, 5)] {
            pass(millis);
            metrics.record_frame(bytes);
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
        metrics.record_frame(1);
        let frozen = metrics.freeze();
        pass(7);
        metrics.record_frame(1);
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
        metrics.record_frame(3);
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
