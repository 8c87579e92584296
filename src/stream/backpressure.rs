//! What happens to a stream whose lossless readers fall behind.
//!
//! Nothing here waits or reads a clock: [`Throttle::step`] is told the lag and says what to do.

use std::time::Duration;

use super::error::StreamError;

/// What a stream does when a lossless reader falls behind.
///
/// *Lag* is the number of chunks that were appended and that the slowest lossless reader has not read.
/// [`buffer_limit`](crate::Builder::buffer_limit) bounds it; throttling starts at
/// [`high_water_mark`](crate::Builder::high_water_mark) per cent of that. Chunks that were there before a reader came
/// do not count as its lag: a reader never harms a stream by coming late.
///
/// | strategy | the body | the slow reader | the client |
/// |---|---|---|---|
/// | `Adaptive` | its next poll is delayed, longer with each frame above the mark; at the limit it is not polled | loses nothing | slower |
/// | `DropOldest` | never waits | skips its oldest unread chunks, and is told how many | unaffected |
/// | `Reject` | ends at the limit | sees the error | error |
/// | `Block` | waits for room at the limit, at most for the given time, then ends | loses nothing | slower, then error |
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
        /// The factor by which each further frame above the mark multiplies the delay; at least 1.
        multiplier: f64,
    },
    /// Lets the slow reader miss chunks.
    DropOldest,
    /// Ends the stream with [`StreamError::Backpressure`](crate::StreamError::Backpressure).
    Reject,
    /// Stops the body at the limit, at most for this long; then as `Reject`. `Duration::MAX` is "as long as it
    /// takes".
    Block(Duration),
}

/// The strategy of a layer, with its numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackpressureConfig {
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

/// What is to be done before the next chunk is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Go,
    /// Wait this long, or until the lag is below the mark.
    Delay(Duration),
    /// Wait until the lag is below the limit, at most this long if there is a time.
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

// === impl BackpressureConfig ===

impl BackpressureConfig {
    /// `buffer_limit` is in chunks, `high_water_mark` in per cent of it.
    pub(crate) fn new(strategy: BackpressureStrategy, buffer_limit: usize, high_water_mark: u8) -> Self {
        let buffer_limit = buffer_limit as u64;
        let high_water = (u128::from(buffer_limit) * u128::from(high_water_mark)).div_ceil(100);
        Self { strategy, buffer_limit, high_water: high_water as u64 }
    }

    /// The error of a stream whose slowest reader is `lag` chunks behind.
    pub(crate) fn too_far(&self, lag: u64) -> StreamError {
        StreamError::Backpressure { lag, limit: self.buffer_limit }
    }

    /// Whether a reader that is too far behind skips chunks, and the body does not wait.
    pub(crate) fn drops_oldest(&self) -> bool {
        self.strategy == BackpressureStrategy::DropOldest
    }
}

// === impl Throttle ===

impl Throttle {
    /// What to do before the next chunk, at a lag of `lag` chunks.
    pub(crate) fn step(&mut self, config: &BackpressureConfig, lag: u64) -> Action {
        let at_limit = lag >= config.buffer_limit;
        match config.strategy {
            BackpressureStrategy::Adaptive { .. } if at_limit => Action::Hold(None),
            BackpressureStrategy::Adaptive { initial_delay, max_delay, multiplier } => {
                if lag < config.high_water {
                    self.next = None;
                    return Action::Go;
                }
                let delay = self.next.unwrap_or(initial_delay).min(max_delay);
                // Saturates: the longest delay would be a fit answer to infinity, too.
                let longer = Duration::try_from_secs_f64(delay.as_secs_f64() * multiplier);
                self.next = Some(longer.unwrap_or(max_delay).min(max_delay));
                Action::Delay(delay)
            }
            BackpressureStrategy::Reject if at_limit => Action::Fail,
            BackpressureStrategy::Block(longest) if at_limit => Action::Hold(Some(longest)),
            _ => Action::Go,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn steps(strategy: BackpressureStrategy, lags: &[u64]) -> Vec<Action> {
        let config = BackpressureConfig { strategy, buffer_limit: 10, high_water: 8 };
        let mut throttle = Throttle::default();
        lags.iter().map(|lag| throttle.step(&config, *lag)).collect()
    }

    #[test]
    fn adaptive_delays_grow_above_the_mark_and_reset_below_it() {
        let strategy =
            BackpressureStrategy::Adaptive { initial_delay: MS, max_delay: 5 * MS, multiplier: 2.0 };
        let delay = |ms| Action::Delay(ms * MS);
        assert_eq!(
            steps(strategy, &[7, 8, 9, 8, 8, 10, 9, 7, 8]),
            [
                Action::Go,
                delay(1),
                delay(2),
                delay(4),
                delay(5),
                Action::Hold(None),
                delay(5),
                Action::Go,
                delay(1)
            ]
        );
    }

    #[test]
    fn a_first_delay_above_the_longest_is_cut() {
        let strategy =
            BackpressureStrategy::Adaptive { initial_delay: 9 * MS, max_delay: 5 * MS, multiplier: 1e300 };
        assert_eq!(steps(strategy, &[8, 8]), [Action::Delay(5 * MS), Action::Delay(5 * MS)]);
    }

    #[test]
    fn the_others_look_at_the_limit_only() {
        let lags = [0, 8, 9, 10, 11];
        assert_eq!(steps(BackpressureStrategy::DropOldest, &lags), [Action::Go; 5]);
        let reject = [Action::Go, Action::Go, Action::Go, Action::Fail, Action::Fail];
        assert_eq!(steps(BackpressureStrategy::Reject, &lags), reject);
        let hold = Action::Hold(Some(3 * MS));
        assert_eq!(
            steps(BackpressureStrategy::Block(3 * MS), &lags),
            [Action::Go, Action::Go, Action::Go, hold, hold]
        );
    }
}
