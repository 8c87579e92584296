//! The numbers of one stream.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The numbers of one stream: live behind [`StreamHandle::metrics`](crate::StreamHandle::metrics),
/// frozen in a [`StreamRecord`](crate::StreamRecord).
///
/// Bytes are counted as *pulled* (taken from the body by whoever polls it, usually hyper) and as
/// *produced* (yielded by the inner body). Neither says what the client received: the server and the
/// kernel may hold megabytes.
///
/// Times are monotonic, and follow tokio's clock: they stand still where a test pauses it.
///
/// Reading is wait-free. Each number is exact on its own; two numbers read while the stream runs may
/// be one frame apart.
#[derive(Debug)]
pub struct StreamMetrics {
    started: Instant,
    started_at: SystemTime,
    bytes: AtomicU64,
    bytes_produced: AtomicU64,
    chunks: AtomicU64,
    frames: AtomicU64,
    /// Nanoseconds after `started`, plus one; 0 until there is a first chunk.
    first_chunk: AtomicU64,
    /// As `first_chunk`.
    last_chunk: AtomicU64,
    /// Nanoseconds.
    longest_gap: AtomicU64,
    /// Nanoseconds after `started`, plus one; 0 while the stream runs.
    ended: AtomicU64,
}

// === impl StreamMetrics ===

impl StreamMetrics {
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
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
        match moment(&self.ended) {
            Some(ended) => ended,
            None => self.started.elapsed(),
        }
    }

    /// From the stream's opening to the first data frame that held at least one byte.
    pub fn time_to_first_chunk(&self) -> Option<Duration> {
        moment(&self.first_chunk)
    }

    /// From the stream's opening to the latest data frame that held at least one byte.
    pub fn time_to_last_chunk(&self) -> Option<Duration> {
        moment(&self.last_chunk)
    }

    /// The longest time between two successive chunks; none before the second.
    pub fn longest_gap(&self) -> Option<Duration> {
        (self.chunks() > 1).then(|| Duration::from_nanos(self.longest_gap.load(Relaxed)))
    }

    /// Marks now as the time of the first chunk, unless there is one already.
    pub fn record_first_chunk(&self) {
        let now = self.now();
        // The loser of a race keeps the earlier mark: a failed exchange is the wanted result.
        let _ = self.first_chunk.compare_exchange(0, now, Relaxed, Relaxed);
    }

    /// Counts bytes that the inner body yielded.
    pub(crate) fn record_produced(&self, bytes: usize) {
        add(&self.bytes_produced, bytes as u64);
    }

    /// Counts a frame that goes on to whoever polls, with its bytes of data. Reads the clock once.
    ///
    /// For the one task that polls the body: two callers at once would lose counts.
    pub(crate) fn record_frame(&self, bytes: usize) {
        add(&self.frames, 1);
        if bytes == 0 {
            return;
        }
        let pulled = self.bytes.load(Relaxed) + bytes as u64;
        self.bytes.store(pulled, Release);
        add(&self.chunks, 1);
        let now = self.now();
        match self.last_chunk.load(Relaxed) {
            0 => self.first_chunk.store(now, Relaxed),
            last => {
                let gap = now - last;
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
            started: self.started,
            started_at: self.started_at,
            bytes: copy(&self.bytes),
            bytes_produced: copy(&self.bytes_produced),
            chunks: copy(&self.chunks),
            frames: copy(&self.frames),
            first_chunk: copy(&self.first_chunk),
            last_chunk: copy(&self.last_chunk),
            longest_gap: copy(&self.longest_gap),
            ended: AtomicU64::new(self.now()),
        }
    }

    /// Nanoseconds after the start, plus one, so that 0 can mean never. Enough for 584 years.
    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64 + 1
    }
}

/// A load and a store instead of a locked add: there is one writer, and readers need no order.
fn add(number: &AtomicU64, n: u64) {
    number.store(number.load(Relaxed) + n, Relaxed);
}

fn moment(mark: &AtomicU64) -> Option<Duration> {
    let nanos = mark.load(Relaxed).checked_sub(1)?;
    Some(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn times_are_taken_from_the_first_and_last_chunk_and_the_longest_gap() {
        let metrics = StreamMetrics::start();
        assert_eq!(metrics.time_to_first_chunk(), None);
        for (pause, bytes) in [(10, 3), (5, 0), (20, 4), (1, 5)] {
            tokio::time::advance(Duration::from_millis(pause)).await;
            metrics.record_frame(bytes);
        }
        assert_eq!(metrics.bytes(), 12);
        assert_eq!(metrics.chunks(), 3, "an empty frame is no chunk");
        assert_eq!(metrics.frames(), 4);
        assert_eq!(metrics.time_to_first_chunk(), Some(Duration::from_millis(10)));
        assert_eq!(metrics.time_to_last_chunk(), Some(Duration::from_millis(36)));
        assert_eq!(metrics.longest_gap(), Some(Duration::from_millis(25)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_copy_stands_still() {
        let metrics = StreamMetrics::start();
        tokio::time::advance(Duration::from_millis(7)).await;
        metrics.record_frame(1);
        let frozen = metrics.freeze();
        tokio::time::advance(Duration::from_millis(7)).await;
        metrics.record_frame(1);
        assert_eq!(frozen.bytes(), 1);
        assert_eq!(frozen.elapsed().as_millis(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_chunk_marked_by_hand_is_kept() {
        let metrics = StreamMetrics::start();
        tokio::time::advance(Duration::from_millis(1)).await;
        metrics.record_first_chunk();
        tokio::time::advance(Duration::from_millis(1)).await;
        metrics.record_first_chunk();
        assert_eq!(metrics.time_to_first_chunk().map(|t| t.as_millis()), Some(1));
    }
}
