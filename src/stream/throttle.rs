//! What a body waits for before it is polled: its readers, and its pace.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::accumulator::BufferWriter;
use crate::stream::backpressure::{Step, Throttle};
use crate::error::StreamError;
use crate::stream::state::{Pipeline, Stage};

/// Waits shorter than this are not waited for, but saved up: it is how finely tokio's timer measures.
const FINEST: Duration = Duration::from_millis(1);

/// A timer that fires late is made up for by so much.
const CATCH_UP: Duration = Duration::from_millis(10);

/// The gate of one body.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: State,
    throttle: Throttle,
    /// Made when it is needed first, and used again.
    timer: Option<Pin<Box<Sleep>>>,
    pace: Option<Pace>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Until the timer fires, or the readers are near again.
    Delayed,
    /// The next frame's delay is over.
    Paid,
    /// Until the readers are near enough, or the timer fires if it is set.
    Held { timed: bool },
}

/// So many bytes a second.
#[derive(Debug)]
struct Pace {
    nanos_per_byte: f64,
    /// When what was sent so far is to have been sent.
    due: Option<Instant>,
    armed: bool,
}

// === impl Gate ===

impl Gate {
    pub(crate) fn new(max_bytes_per_second: Option<u64>) -> Self {
        let pace = max_bytes_per_second.map(|bytes| Pace {
            nanos_per_byte: 1e9 / bytes as f64,
            due: None,
            armed: false,
        });
        Self { pace, ..Self::default() }
    }

    /// Ready when the body may be polled, or must end.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        pipeline: &Pipeline,
        writer: &BufferWriter,
    ) -> Poll<Result<(), StreamError>> {
        if self.poll_pace(cx).is_pending() {
            pipeline.set_gated(true);
            return Poll::Pending;
        }
        let polled = self.poll_readers(cx, pipeline, writer);
        if polled.is_ready() && pipeline.stage().has(Stage::GATED) {
            pipeline.set_gated(false);
        }
        polled
    }

    /// A frame went by.
    pub(crate) fn frame(&mut self, bytes: usize) {
        if self.state == State::Paid {
            self.state = State::Open;
        }
        if let Some(pace) = &mut self.pace {
            let now = Instant::now();
            let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
            let from = pace.due.map_or(now, |due| due.max(earliest));
            pace.due = Some(from + Duration::from_nanos((bytes as f64 * pace.nanos_per_byte) as u64));
        }
    }

    fn poll_pace(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(pace) = &mut self.pace else {
            return Poll::Ready(());
        };
        let Some(due) = pace.due else {
            return Poll::Ready(());
        };
        if !pace.armed {
            let wait = due.saturating_duration_since(Instant::now());
            if wait < FINEST {
                return Poll::Ready(());
            }
            pace.armed = true;
            arm(&mut self.timer, wait);
        }
        let polled = poll_timer(&mut self.timer, cx);
        pace.armed = polled.is_pending();
        polled
    }

    fn poll_readers(
        &mut self,
        cx: &mut Context<'_>,
        pipeline: &Pipeline,
        writer: &BufferWriter,
    ) -> Poll<Result<(), StreamError>> {
        let pressure = pipeline.pressure();
        if pressure.drops_oldest() {
            return Poll::Ready(Ok(()));
        }
        let mut lag = pipeline.lag(writer, cx.waker());
        loop {
            match self.state {
                State::Open => match self.throttle.step(pressure, lag) {
                    Step::Go => return Poll::Ready(Ok(())),
                    Step::Fail => return Poll::Ready(Err(pressure.too_far(lag))),
                    Step::Delay(delay) => {
                        arm(&mut self.timer, delay);
                        self.state = State::Delayed;
                    }
                    Step::Hold(longest) => {
                        if let Some(longest) = longest {
                            arm(&mut self.timer, longest);
                        }
                        self.state = State::Held { timed: longest.is_some() };
                    }
                },
                State::Paid if lag < pressure.high_water => self.state = State::Open,
                State::Paid if lag < pressure.buffer_limit => return Poll::Ready(Ok(())),
                State::Paid => self.state = State::Open,
                State::Delayed | State::Held { .. } => {
                    pipeline.wake_on_stop(cx.waker());
                    pipeline.set_gated(true);
                    // A reader that came further before it could see the gate is seen here.
                    lag = pipeline.lag(writer, cx.waker());
                    match self.state {
                        State::Delayed if lag < pressure.high_water => self.state = State::Open,
                        State::Delayed => {
                            ready!(poll_timer(&mut self.timer, cx));
                            self.state = State::Paid;
                        }
                        State::Held { .. } if lag < pressure.buffer_limit => self.state = State::Open,
                        State::Held { timed: true } => {
                            ready!(poll_timer(&mut self.timer, cx));
                            self.state = State::Open;
                            return Poll::Ready(Err(pressure.too_far(lag)));
                        }
                        _ => return Poll::Pending,
                    }
                }
            }
        }
    }
}

fn arm(timer: &mut Option<Pin<Box<Sleep>>>, delay: Duration) {
    match timer {
        Some(timer) => timer.as_mut().reset(Instant::now() + delay),
        None => *timer = Some(Box::pin(sleep(delay))),
    }
}

fn poll_timer(timer: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> Poll<()> {
    timer.as_mut().map_or(Poll::Ready(()), |timer| timer.as_mut().poll(cx))
}
