//! Deadlines, for durations of any length.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Stands for every duration that a clock cannot add: as long as it takes.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The moment `duration` after `start`. `Duration::MAX` is "as long as it takes".
pub(crate) fn deadline(start: Instant, duration: Duration) -> Instant {
    start.checked_add(duration.min(FOREVER)).unwrap_or(start)
}

/// A timer that is made when it is needed first, and used again.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

// === impl Timer ===

impl Timer {
    /// Sets the timer to fire after `delay`.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with its time driver enabled.
    pub(crate) fn set(&mut self, delay: Duration) {
        let at = deadline(Instant::now(), delay);
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(at),
            None => self.sleep = Some(Box::pin(sleep_until(at))),
        }
    }

    /// Ready when the timer has fired, or was never set.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().map_or(Poll::Ready(()), |sleep| sleep.as_mut().poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn endless_delays_do_not_overflow() {
        let mut timer = Timer::default();
        for _ in 0..2 {
            timer.set(Duration::MAX);
            let mut fired = tokio_test::task::spawn(std::future::poll_fn(|cx| timer.poll(cx)));
            assert!(fired.poll().is_pending());
        }
        timer.set(Duration::from_millis(1));
        std::future::poll_fn(|cx| timer.poll(cx)).await;
    }
}
