//! A body's pace in bytes a second.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::timer::Timer;

/// Waits shorter than this are saved up: tokio's timer measures no finer.
const FINEST: Duration = Duration::from_millis(1);

/// At most this much is made up for when a timer fires late.
const CATCH_UP: Duration = Duration::from_millis(10);

/// Delays a body so that it yields a number of bytes a second, on average.
#[derive(Debug)]
pub(crate) struct Pace {
    nanos_per_byte: f64,
    /// When the bytes so far are due to have been sent.
    due: Option<Instant>,
    timer: Timer,
    is_waiting: bool,
}

// === impl Pace ===

impl Pace {
    /// A pace of `bytes_per_second`, at least 1.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        let nanos_per_byte = 1e9 / bytes_per_second as f64;
        Self { nanos_per_byte, due: None, timer: Timer::default(), is_waiting: false }
    }

    /// Ready when the next chunk may be pulled.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else {
            return Poll::Ready(());
        };
        if !self.is_waiting {
            let wait = due.saturating_duration_since(Instant::now());
            if wait < FINEST {
                return Poll::Ready(());
            }
            self.timer.set(wait);
        }
        let polled = self.timer.poll(cx);
        self.is_waiting = polled.is_pending();
        polled
    }

    /// A chunk of `bytes` was pulled.
    pub(crate) fn spend(&mut self, bytes: usize) {
        let now = Instant::now();
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        let from = self.due.map_or(now, |due| due.max(earliest));
        self.due = Some(from + Duration::from_nanos((bytes as f64 * self.nanos_per_byte) as u64));
    }
}
