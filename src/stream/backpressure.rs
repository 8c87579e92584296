//! What happens to a stream whose readers fall behind.
//!
//! Nothing here waits or reads a clock: [`Throttle::step`] is told the lag and says what to do.

use std::time::Duration;

use crate::error::StreamError;

/// What a stream does when a reader that asked to be waited for falls behind.
///
/// *Lag* is the number of chunks that were appended and that the slowest such reader has not read.
/// [`buffer_limit`](crate::Builder::buffer_limit) bounds it; throttling starts at
/// [`high_water_mark`](crate::Builder::high_water_mark) per cent of that. Chunks that were there before a
/// reader came do not count as its lag: a reader never harms a stream by coming late.
///
/// | strategy | the body | the slow reader | the client |
/// |---|---|---|---|
/// | `Adaptive` | its next poll is delayed, longer with each frame above the mark; at the limit it is not polled | loses nothing | slower |
/// | `DropOldest` | never waits | skips its oldest unread chunks, and is told how many | unaffected |
/// | `Reject` | ends at the limit | sees the error | error |
/// | `Block` | waits for room at the limit, so long at the most, then ends | loses nothing | slower, then error |
///
/// A stream that nobody taps has no lag and pays nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum BackpressureStrategy {
    /// Slows the body down, and stops it at the limit.
    Adaptive {
        /// The delay before the first frame above the mark. Below the mark it starts anew.
        initial_delay: Duration,
        /// The longest delay.
        max_delay: Duration,
        /// What each further frame above the mark multiplies the delay by; at least 1.
        multiplier: f64,
    },
    /// Lets the slow reader miss chunks.
    DropOldest,
    /// Ends the stream with [`StreamError::Backpressure`](crate::StreamError::Backpressure).
    Reject,
    /// Stops the body at the limit for so long, then as `Reject`.
    Block(Duration),
}

/// The strategy of a layer, with its numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pressure {
    pub(crate) strategy: BackpressureStrategy,
    /// Chunks.
    pub(crate) buffer_limit: u64,
    /// Chunks.
    pub(crate) high_water: u64,
}

/// How far one stream is throttled.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// The delay of the next frame above the mark.
    next: Option<Duration>,
}

/// What is to be done before the body is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Go,
    /// Wait so long, or until the lag is below the mark.
    Delay(Duration),
    /// Wait until the lag is below the limit, so long at the most.
    Hold(Option<Duration>),
    /// End the stream.
    Fail,
}

// === impl BackpressureStrategy ===

impl Default for BackpressureStrategy {
    /// `Adaptive`, from 1 ms to 100 ms, doubling.
    fn default() -> Self {
        Self::Adaptive {
            initial_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(100),
            multiplier: 2.0,
        }
    }
}

// === impl Pressure ===

impl Pressure {
    /// A limit in chunks, and a mark in per cent of it.
    pub(crate) fn new(strategy: BackpressureStrategy, buffer_limit: usize, high_water_mark: u8) -> Self {
        let buffer_limit = buffer_limit as u64;
        let high_water = (u128::from(buffer_limit) * u128::from(high_water_mark)).div_ceil(100);
        Self { strategy, buffer_limit, high_water: high_water as u64 }
    }

    /// The error of a stream whose slowest reader is so many chunks behind.
    pub(crate) fn too_far(&self, lag: u64) -> StreamError {
        StreamError::Backpressure { lag, limit: self.buffer_limit }
    }

    /// Whether the slowest reader is to skip what it is too far behind of.
    pub(crate) fn drops_oldest(&self) -> bool {
        self.strategy == BackpressureStrategy::DropOldest
    }
}

// === impl Throttle ===

impl Throttle {
    /// What to do before the next frame, at a lag of so many chunks.
    pub(crate) fn step(&mut self, pressure: &Pressure, lag: u64) -> Step {
        let at_limit = lag >= pressure.buffer_limit;
        match pressure.strategy {
            BackpressureStrategy::Adaptive { .. } if at_limit => Step::Hold(None),
            BackpressureStrategy::Adaptive { initial_delay, max_delay, multiplier } => {
                if lag < pressure.high_water {
                    self.next = None;
                    return Step::Go;
                }
                let delay = self.next.unwrap_or(initial_delay).min(max_delay);
                // Saturates: the longest delay would be a fit answer to infinity, too.
                let longer = Duration::try_from_secs_f64(delay.as_secs_f64() * multiplier);
                self.next = Some(longer.unwrap_or(max_delay).min(max_delay));
                Step::Delay(delay)
            }
            BackpressureStrategy::Reject if at_limit => Step::Fail,
            BackpressureStrategy::Block(longest) if at_limit => Step::Hold(Some(longest)),
            _ => Step::Go,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn steps(strategy: BackpressureStrategy, lags: &[u64]) -> Vec<Step> {
        let pressure = Pressure { strategy, buffer_limit: 10, high_water: 8 };
        let mut throttle = Throttle::default();
        lags.iter().map(|lag| throttle.step(&pressure, *lag)).collect()
    }

    #[test]
    fn adaptive_delays_grow_above_the_mark_and_reset_below_it() {
        let strategy =
            BackpressureStrategy::Adaptive { initial_delay: MS, max_delay: 5 * MS, multiplier: 2.0 };
        let delay = |ms| Step::Delay(ms * MS);
        assert_eq!(
            steps(strategy, &[7, 8, 9, 8, 8, 10, 9, 7, 8]),
            [
                Step::Go,
                delay(1),
                delay(2),
                delay(4),
                delay(5),
                Step::Hold(None),
                delay(5),
                Step::Go,
                delay(1)
            ]
        );
    }

    #[test]
    fn a_first_delay_above_the_longest_is_cut() {
        let strategy =
            BackpressureStrategy::Adaptive { initial_delay: 9 * MS, max_delay: 5 * MS, multiplier: 1e300 };
        assert_eq!(steps(strategy, &[8, 8]), [Step::Delay(5 * MS), Step::Delay(5 * MS)]);
    }

    #[test]
    fn the_others_look_at_the_limit_only() {
        let lags = [0, 8, 9, 10, 11];
        assert_eq!(steps(BackpressureStrategy::DropOldest, &lags), [Step::Go; 5]);
        let reject = [Step::Go, Step::Go, Step::Go, Step::Fail, Step::Fail];
        assert_eq!(steps(BackpressureStrategy::Reject, &lags), reject);
        let hold = Step::Hold(Some(3 * MS));
        assert_eq!(
            steps(BackpressureStrategy::Block(3 * MS), &lags),
            [Step::Go, Step::Go, Step::Go, hold, hold]
        );
    }
}
