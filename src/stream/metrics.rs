//! The numbers of one stream, and the gate that every counted frame passes.
//!
//! # The gate
//!
//! A stream may be ended from any thread while its body is being polled, and its record must count exactly what went on
//! to whoever polls. So one word, the *gate*, orders the two: a frame passes by one exchange of the gate, and whoever
//! ends the stream closes it by another. A frame whose exchange succeeds is counted and goes on. A frame whose exchange
//! meets a closed gate is not counted and must not go on. There is nothing in between.
//!
//! The body counts a frame right after it passed: what is written before an exchange has to leave the processor before
//! it, and would make it dearer. Whoever closes the gate knows from it how many frames have passed, and waits for the
//! few instructions in which the last one is counted.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::{Duration, SystemTime};

use once_cell::sync::Lazy;
use quanta::Clock;

/// The numbers of one stream: live behind [`StreamHandle::metrics`](crate::StreamHandle::metrics), frozen in a
/// [`StreamRecord`](crate::StreamRecord).
///
/// Bytes are counted as *pulled* (taken from the body by whoever polls it, usually hyper) and as *produced* (yielded
/// by the inner body). Neither says what the client received: the server and the kernel may hold megabytes.
///
/// Times are monotonic. They come from the processor's time-stamp counter where that is reliable, else from the
/// operating system: a stream reads the clock once per chunk, and the counter costs less than half of a system clock
/// read. They go on when a test pauses tokio's clock.
///
/// Reading is wait-free. Each number is exact on its own; two numbers read while the stream runs may be one frame
/// apart.
#[derive(Debug)]
pub struct StreamMetrics {
    /// `None` in a frozen copy, whose readings are nanoseconds.
    clock: Option<&'static Clock>,
    /// A reading of `clock`, like all moments here.
    started: u64,
    started_at: SystemTime,
    gate: AtomicU64,
    bytes: AtomicU64,
    chunks: AtomicU64,
    /// Chunks and other frames. Written last of what is counted.
    frames: AtomicU64,
    /// Bytes that the inner body yielded and that did not go on.
    withheld: AtomicU64,
    /// 0 until there is a first chunk.
    first_chunk: AtomicU64,
    /// As `first_chunk`.
    last_chunk: AtomicU64,
    /// The difference of two readings.
    longest_gap: AtomicU64,
    /// 0 while the stream runs.
    ended: AtomicU64,
}

/// What became of a frame at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    /// It is counted and goes on. Somebody taps the stream, if `tapped`.
    Counted {
        /// Whether a tap has to be told.
        tapped: bool,
    },
    /// The stream was ended: the frame is not counted and must not go on.
    Closed,
}

/// Nothing passes any more.
const CLOSED: u64 = 1;
/// The inner body said that the last frame that passed was its last.
const END_HINT: u64 = 1 << 1;
/// Somebody taps the stream.
const TAPPED: u64 = 1 << 2;
/// One frame that passed.
const FRAME: u64 = 1 << 3;

/// Calibrated once, which takes from a millisecond to 200.
static CLOCK: Lazy<Clock> = Lazy::new(Clock::new);

/// Calibrates the clock now, so that the first stream does not have to.
pub(crate) fn calibrate() {
    Lazy::force(&CLOCK);
}

// === impl StreamMetrics ===

impl StreamMetrics {
    /// The numbers of a stream that opens at `now`.
    pub(crate) fn start(now: SystemTime) -> Self {
        Self::start_with(&CLOCK, now)
    }

    fn start_with(clock: &'static Clock, now: SystemTime) -> Self {
        Self::of(Some(clock), clock.raw(), now)
    }

    fn of(clock: Option<&'static Clock>, started: u64, started_at: SystemTime) -> Self {
        Self {
            clock,
            started,
            started_at,
            gate: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            chunks: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            withheld: AtomicU64::new(0),
            first_chunk: AtomicU64::new(0),
            last_chunk: AtomicU64::new(0),
            longest_gap: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }

    /// Bytes of data pulled.
    pub fn bytes(&self) -> u64 {
        // Acquire: pairs with the Release in `count_chunk`. Whoever sees the count finds the bytes kept.
        self.bytes.load(Acquire)
    }

    /// Bytes of data that the inner body yielded, a withheld chunk included.
    pub fn bytes_produced(&self) -> u64 {
        self.bytes() + self.withheld.load(Relaxed)
    }

    /// Data frames pulled that held at least one byte.
    pub fn chunks(&self) -> u64 {
        // Acquire: as for `bytes`.
        self.chunks.load(Acquire)
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
        let ended = self.ended.load(Relaxed);
        self.between(self.started, if ended > 0 { ended } else { self.now() })
    }

    /// From the stream's opening to the first data frame that held at least one byte.
    pub fn time_to_first_chunk(&self) -> Option<Duration> {
        self.moment(self.first_chunk.load(Relaxed))
    }

    /// From the stream's opening to the latest data frame that held at least one byte.
    pub fn time_to_last_chunk(&self) -> Option<Duration> {
        self.moment(self.last_chunk.load(Relaxed))
    }

    /// The longest time between two successive chunks; `None` before the second.
    pub fn longest_gap(&self) -> Option<Duration> {
        (self.chunks() > 1).then(|| self.between(0, self.longest_gap.load(Relaxed)))
    }

    /// Marks now as the time of the first chunk, unless there is one already.
    pub fn record_first_chunk(&self) {
        let now = self.now();
        // The loser of a race keeps the earlier mark: a failed exchange is the wanted result.
        let _ = self.first_chunk.compare_exchange(0, now, Relaxed, Relaxed);
    }

    /// A reading of the clock, for [`arrival`](Self::arrival), [`since_start`](Self::since_start) and
    /// [`pass_chunk`](Self::pass_chunk).
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.clock.map_or(0, Clock::raw)
    }

    /// The time from the stream's opening to the reading `now`, in units of 1,024 ns.
    #[inline]
    pub(crate) fn arrival(&self, now: u64) -> u64 {
        self.clock.map_or(0, |clock| clock.delta_as_nanos(self.started, now) >> 10)
    }

    /// The time from the stream's opening to the reading `now`.
    #[cfg(feature = "llm")]
    pub(crate) fn since_start(&self, now: u64) -> Duration {
        self.between(self.started, now)
    }

    /// Counts bytes that the inner body yielded and that do not go on.
    pub(crate) fn record_withheld(&self, bytes: usize) {
        // A load and a store instead of a locked add: there is one writer.
        self.withheld.store(self.withheld.load(Relaxed) + bytes as u64, Relaxed);
    }

    /// Passes a chunk of `bytes` bytes, at least one, at the reading `now`. `hint` is what the inner body said of its
    /// end after it.
    ///
    /// For the one task that polls the body: two callers at once would lose counts.
    #[inline]
    pub(crate) fn pass_chunk(&self, bytes: usize, now: u64, hint: bool) -> Passage {
        let passage = self.pass(hint);
        if passage != Passage::Closed {
            self.count_chunk(bytes, now);
        }
        passage
    }

    /// Passes a frame that is not a chunk.
    #[cold]
    pub(crate) fn pass_other(&self, hint: bool) -> Passage {
        let passage = self.pass(hint);
        if passage != Passage::Closed {
            self.count_frame();
        }
        passage
    }

    /// Takes a frame through the gate, unless it is closed. The caller counts it at once, and calls nothing foreign
    /// before that.
    #[inline]
    fn pass(&self, hint: bool) -> Passage {
        let mut gate = self.gate.load(Relaxed);
        loop {
            if gate & CLOSED != 0 {
                return Passage::Closed;
            }
            let next = (gate & !END_HINT) + FRAME + if hint { END_HINT } else { 0 };
            // Release: pairs with the Acquire in `set_tapped`. A tap that this exchange does not know of sees the chunk
            // in the accumulator. Without it that tap could overlook the chunk, and sleep.
            match self.gate.compare_exchange(gate, next, Release, Relaxed) {
                Ok(_) => return Passage::Counted { tapped: gate & TAPPED != 0 },
                // Somebody closed the gate, or the first tap came or the last one went.
                Err(changed) => gate = changed,
            }
        }
    }

    /// Loads and stores instead of locked adds: there is one writer.
    #[inline]
    fn count_chunk(&self, bytes: usize, now: u64) {
        // Release: pairs with the Acquire in `bytes` and `chunks`.
        self.bytes.store(self.bytes.load(Relaxed) + bytes as u64, Release);
        self.chunks.store(self.chunks.load(Relaxed) + 1, Release);
        let last = self.last_chunk.load(Relaxed);
        self.last_chunk.store(now, Relaxed);
        // Counters of two cores may be a few ticks apart.
        if now.saturating_sub(last) > self.longest_gap.load(Relaxed) {
            self.record_gap(last, now);
        }
        self.count_frame();
    }

    #[inline]
    fn count_frame(&self) {
        // Release: pairs with the Acquire in `close`. Without it the other numbers of the frame could be missing there.
        self.frames.store(self.frames.load(Relaxed) + 1, Release);
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

    /// Lets no frame pass from now on. The numbers stand still when this returns.
    ///
    /// Called while another thread polls the body, it waits until that one has counted the frame that passed last.
    pub(crate) fn close(&self) {
        let passed = self.gate.fetch_or(CLOSED, AcqRel) / FRAME;
        while self.frames.load(Acquire) != passed {
            // A few instructions, unless the system took the processor from the other thread just there.
            std::thread::yield_now();
        }
    }

    /// Whether the inner body said that the last frame that passed was its last.
    pub(crate) fn end_hint(&self) -> bool {
        self.gate.load(Relaxed) & END_HINT != 0
    }

    /// Says whether somebody taps the stream, so that whoever passes the next frame knows.
    pub(crate) fn set_tapped(&self, tapped: bool) {
        if tapped {
            // Acquire: pairs with the Release in `pass`. Without it a new tap could overlook a chunk that passed just
            // before it, and sleep.
            self.gate.fetch_or(TAPPED, AcqRel);
        } else {
            self.gate.fetch_and(!TAPPED, AcqRel);
        }
    }

    /// A copy that no longer changes: `elapsed` stands at now. Its times are in nanoseconds from the start.
    pub(crate) fn freeze(&self) -> Self {
        // At least 1, because 0 says that there is none.
        let nanos = |reading: u64| match reading {
            0 => 0,
            reading => (self.between(self.started, reading).as_nanos() as u64).max(1),
        };
        let mut frozen = Self::of(None, 0, self.started_at);
        let copy = |number: &AtomicU64| AtomicU64::new(number.load(Relaxed));
        let mark = |number: &AtomicU64| AtomicU64::new(nanos(number.load(Relaxed)));
        frozen.bytes = copy(&self.bytes);
        frozen.chunks = copy(&self.chunks);
        frozen.frames = copy(&self.frames);
        frozen.withheld = copy(&self.withheld);
        frozen.first_chunk = mark(&self.first_chunk);
        frozen.last_chunk = mark(&self.last_chunk);
        let gap = self.between(0, self.longest_gap.load(Relaxed));
        frozen.longest_gap = AtomicU64::new(gap.as_nanos() as u64);
        frozen.ended = AtomicU64::new(nanos(self.now()));
        frozen
    }

    /// The time from the start to a moment, if it has come.
    fn moment(&self, reading: u64) -> Option<Duration> {
        (reading > 0).then(|| self.between(self.started, reading))
    }

    fn between(&self, start: u64, end: u64) -> Duration {
        Duration::from_nanos(match self.clock {
            Some(clock) => clock.delta_as_nanos(start, end),
            None => end.saturating_sub(start),
        })
    }
}

#[cfg(feature = "serde")]
mod as_data {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::*;

    /// What a stream's numbers serialise to.
    #[derive(Serialize, Deserialize)]
    struct Numbers {
        started_at: SystemTime,
        bytes: u64,
        bytes_produced: u64,
        chunks: u64,
        frames: u64,
        elapsed: Duration,
        time_to_first_chunk: Option<Duration>,
        time_to_last_chunk: Option<Duration>,
        longest_gap: Option<Duration>,
    }

    impl Serialize for StreamMetrics {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let numbers = Numbers {
                started_at: self.started_at(),
                bytes: self.bytes(),
                bytes_produced: self.bytes_produced(),
                chunks: self.chunks(),
                frames: self.frames(),
                elapsed: self.elapsed(),
                time_to_first_chunk: self.time_to_first_chunk(),
                time_to_last_chunk: self.time_to_last_chunk(),
                longest_gap: self.longest_gap(),
            };
            numbers.serialize(serializer)
        }
    }

    impl<'de> Deserialize<'de> for StreamMetrics {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let numbers = Numbers::deserialize(deserializer)?;
            // At least 1, because 0 says that there is none.
            let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
            let mark = |time: Option<Duration>| AtomicU64::new(time.map_or(0, nanos));
            let mut metrics = Self::of(None, 0, numbers.started_at);
            metrics.bytes = AtomicU64::new(numbers.bytes);
            metrics.chunks = AtomicU64::new(numbers.chunks);
            metrics.frames = AtomicU64::new(numbers.frames);
            metrics.last_chunk = mark(numbers.time_to_last_chunk);
            metrics.longest_gap = AtomicU64::new(numbers.longest_gap.map_or(0, |gap| gap.as_nanos() as u64));
            metrics.withheld = AtomicU64::new(numbers.bytes_produced.saturating_sub(numbers.bytes));
            metrics.first_chunk = mark(numbers.time_to_first_chunk);
            metrics.ended = AtomicU64::new(nanos(numbers.elapsed));
            Ok(metrics)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started() -> (StreamMetrics, impl Fn(u64)) {
        let (clock, mock) = Clock::mock();
        mock.increment(Duration::from_secs(1));
        let pass = move |millis| mock.increment(Duration::from_millis(millis));
        (StreamMetrics::start_with(Box::leak(Box::new(clock)), SystemTime::now()), pass)
    }

    fn record(metrics: &StreamMetrics, bytes: usize) {
        match bytes {
            0 => metrics.pass_other(false),
            bytes => metrics.pass_chunk(bytes, metrics.now(), false),
        };
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
        let metrics = StreamMetrics::start(SystemTime::now());
        let system = SystemTime::now();
        while system.elapsed().unwrap_or_default() < Duration::from_millis(20) {}
        let measured = metrics.elapsed().as_millis();
        assert!((19..2_000).contains(&measured), "{measured} ms of at least 20");
    }

    #[test]
    fn closed_gate_counts_nothing() {
        let (metrics, pass) = started();
        pass(1);
        assert_eq!(metrics.pass_chunk(3, metrics.now(), true), Passage::Counted { tapped: false });
        assert!(metrics.end_hint());
        metrics.set_tapped(true);
        assert_eq!(metrics.pass_chunk(4, metrics.now(), false), Passage::Counted { tapped: true });
        assert!(!metrics.end_hint());
        metrics.close();
        assert_eq!(metrics.pass_chunk(5, metrics.now(), true), Passage::Closed);
        assert_eq!(metrics.pass_other(true), Passage::Closed);
        assert_eq!((metrics.bytes(), metrics.chunks(), metrics.frames()), (7, 2, 2));
        assert!(!metrics.end_hint());
    }

    #[test]
    fn frames_that_pass_are_those_counted_at_close() {
        for _ in 0..200 {
            let metrics = StreamMetrics::start(SystemTime::now());
            let passed = std::thread::scope(|scope| {
                let body = scope.spawn(|| {
                    let passes = |_: &u64| metrics.pass_chunk(10, metrics.now(), false) != Passage::Closed;
                    (0_u64..).take_while(passes).count() as u64
                });
                while metrics.chunks() < 5 {
                    std::hint::spin_loop();
                }
                metrics.close();
                let counted = (metrics.bytes(), metrics.chunks());
                assert_eq!(counted.0, 10 * counted.1);
                assert_eq!(body.join().unwrap(), counted.1);
                counted.1
            });
            assert_eq!(metrics.freeze().chunks(), passed);
        }
    }
}
