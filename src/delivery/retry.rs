//! When a failed delivery is tried again.

use std::time::Duration;

use crate::error::ConfigError;

/// How often, and after how long, a failed delivery is tried again.
///
/// The longest delay before attempt n + 1 is `initial_delay` × 2^(n − 1), at most `max_delay`; the delay
/// itself is random between zero and that: full jitter, by which many failed deliveries do not come back
/// all at once (Marc Brooker, [Exponential Backoff And Jitter][aws], AWS Architecture Blog).
///
/// [aws]: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
///
/// ```
/// use std::time::Duration;
/// use streaming_accumulator::RetryPolicy;
///
/// let policy = RetryPolicy::default().max_attempts(3).initial_delay(Duration::from_millis(50));
/// # let _ = policy;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    max_attempts: u32,
    initial_delay: Duration,
    max_delay: Duration,
}

// === impl RetryPolicy ===

impl RetryPolicy {
    /// One attempt and no other.
    pub fn none() -> Self {
        Self::default().max_attempts(1)
    }

    /// Attempts in all, the first one included. Default 5: with the default delays a hook that is down
    /// for less than a second loses nothing to the dead letters.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// The longest delay before the first retry. Default 200 ms.
    pub fn initial_delay(mut self, delay: Duration) -> Self {
        self.initial_delay = delay;
        self
    }

    /// The longest delay of all. Default 10 s.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.max_attempts == 0 {
            return Err(ConfigError::Zero { setting: "max_attempts" });
        }
        if self.initial_delay > self.max_delay {
            return Err(ConfigError::RetryDelays { initial: self.initial_delay, max: self.max_delay });
        }
        Ok(())
    }

    /// How long to wait after the failed attempt `attempt` (from 1), or `None` to give up.
    pub(crate) fn delay_after(&self, attempt: u32) -> Option<Duration> {
        let longest = self.longest_after(attempt)?;
        // The fallback is for delays of ages, which rounding may push beyond what a `Duration` can hold.
        Some(Duration::try_from_secs_f64(longest.as_secs_f64() * fastrand::f64()).unwrap_or(longest))
    }

    fn longest_after(&self, attempt: u32) -> Option<Duration> {
        if attempt >= self.max_attempts {
            return None;
        }
        let doublings = 2_u32.checked_pow(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        Some(self.initial_delay.saturating_mul(doublings).min(self.max_delay))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            initial_delay: Duration::from_millis(200),
            max_delay: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_then_there_are_none() {
        let policy = RetryPolicy::default()
            .max_attempts(5)
            .initial_delay(Duration::from_millis(100))
            .max_delay(Duration::from_millis(350));
        let longest: Vec<_> = (1..=5).map(|n| policy.longest_after(n).map(|d| d.as_millis())).collect();
        assert_eq!(longest, [Some(100), Some(200), Some(350), Some(350), None]);
    }

    #[test]
    fn jitter_is_full() {
        let policy = RetryPolicy::default();
        let delays: Vec<_> = (0..1000).filter_map(|_| policy.delay_after(1)).collect();
        assert_eq!(delays.len(), 1000);
        assert!(delays.iter().all(|d| *d <= Duration::from_millis(200)));
        assert!(delays.iter().any(|d| *d < Duration::from_millis(20)));
        assert!(delays.iter().any(|d| *d > Duration::from_millis(180)));
    }

    #[test]
    fn a_policy_that_cannot_work_is_refused() {
        let none = RetryPolicy::default().max_attempts(0);
        assert!(matches!(none.check(), Err(ConfigError::Zero { .. })));
        let inverted = RetryPolicy::default().max_delay(Duration::ZERO);
        assert!(matches!(inverted.check(), Err(ConfigError::RetryDelays { .. })));
    }
}
