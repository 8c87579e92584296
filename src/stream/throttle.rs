//! What a stream waits for before it takes another chunk: its lossless readers, and its pace.

use std::task::{Context, Poll, Waker, ready};

use super::backpressure::{Action, Throttle};
use super::error::StreamError;
use super::pace::Pace;
use super::state::{Flags, StreamState};
use super::timer::Timer;
use crate::accumulator::BufferWriter;

/// Waits until the lossless readers allow another chunk: for a body before it is polled, and for a producer before it
/// pushes.
#[derive(Debug, Default)]
pub(crate) struct ReaderWait {
    state: WaitState,
    timer: Timer,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum WaitState {
    #[default]
    Open,
    /// Until the timer fires, or the readers are near again.
    Delayed,
    /// The delay of the next chunk is over.
    Paid,
    /// Until the readers are near enough, or the timer fires if it is set.
    Held { timed: bool },
}

/// What one body waits for before each poll.
#[derive(Debug, Default)]
pub(crate) struct PollThrottle {
    readers: ReaderWait,
    throttle: Throttle,
    pace: Option<Pace>,
}

// === impl ReaderWait ===

impl ReaderWait {
    /// Ready when another chunk may be taken, or when the stream must end with the given error.
    ///
    /// `lag` says how many chunks the slowest reader is behind, and wakes the waker that it is given when that changes.
    /// `decide` says what to do at a lag.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &StreamState,
        lag: impl Fn(&Waker) -> u64,
        mut decide: impl FnMut(u64) -> Action,
    ) -> Poll<Result<(), StreamError>> {
        let config = &stream.config().backpressure;
        if config.drops_oldest() {
            return Poll::Ready(Ok(()));
        }
        let mut behind = lag(cx.waker());
        loop {
            match self.state {
                WaitState::Open => match decide(behind) {
                    Action::Go => return Poll::Ready(Ok(())),
                    Action::Fail => return Poll::Ready(Err(config.too_far(behind))),
                    Action::Delay(delay) => {
                        self.timer.set(delay);
                        self.state = WaitState::Delayed;
                    }
                    Action::Hold(longest) => {
                        longest.into_iter().for_each(|longest| self.timer.set(longest));
                        self.state = WaitState::Held { timed: longest.is_some() };
                    }
                },
                WaitState::Paid if behind < config.high_water => self.state = WaitState::Open,
                WaitState::Paid if behind < config.buffer_limit => return Poll::Ready(Ok(())),
                WaitState::Paid => self.state = WaitState::Open,
                WaitState::Delayed | WaitState::Held { .. } => {
                    stream.wake_on_change(cx.waker());
                    stream.set_throttled(true);
                    // A reader that came further before it could see the flag is seen here.
                    behind = lag(cx.waker());
                    match self.state {
                        WaitState::Delayed if behind < config.high_water => self.state = WaitState::Open,
                        WaitState::Delayed => {
                            ready!(self.timer.poll(cx));
                            self.state = WaitState::Paid;
                        }
                        WaitState::Held { .. } if behind < config.buffer_limit => {
                            self.state = WaitState::Open
                        }
                        WaitState::Held { timed: true } => {
                            ready!(self.timer.poll(cx));
                            self.state = WaitState::Open;
                            return Poll::Ready(Err(config.too_far(behind)));
                        }
                        _ => return Poll::Pending,
                    }
                }
            }
        }
    }

    /// The chunk was taken: a delay that was paid is spent.
    fn spend(&mut self) {
        if self.state == WaitState::Paid {
            self.state = WaitState::Open;
        }
    }
}

// === impl PollThrottle ===

impl PollThrottle {
    pub(crate) fn new(max_bytes_per_second: Option<u64>) -> Self {
        Self { pace: max_bytes_per_second.map(Pace::new), ..Self::default() }
    }

    /// Ready when the body may be polled, or must end with the given error.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &StreamState,
        writer: &BufferWriter,
    ) -> Poll<Result<(), StreamError>> {
        if self.pace.as_mut().is_some_and(|pace| pace.poll(cx).is_pending()) {
            stream.set_throttled(true);
            return Poll::Pending;
        }
        let config = &stream.config().backpressure;
        let throttle = &mut self.throttle;
        let lag = |waker: &Waker| stream.lag(writer, waker);
        let polled = self.readers.poll(cx, stream, lag, |lag| throttle.step(config, lag));
        if polled.is_ready() && stream.flags().has(Flags::THROTTLED) {
            stream.set_throttled(false);
        }
        polled
    }

    /// A frame of `bytes` was pulled.
    pub(crate) fn spend(&mut self, bytes: usize) {
        self.readers.spend();
        if let Some(pace) = &mut self.pace {
            pace.spend(bytes);
        }
    }
}
