//! A response body that follows a script.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

use super::feed::{Feed, Next};
use super::server::BoxError;

/// One thing that a body does when it is polled.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    Error,
    Panic,
    /// Pending once; wakes itself.
    Yield,
    /// Pending until the gate is opened.
    Wait(Gate),
    /// Frames of this many bytes, without end.
    Endless(usize),
    /// What the test feeds, until it ends the feed.
    Fed(Feed),
}

/// When the body reports its end.
#[derive(Clone, Copy, Debug)]
enum Hint {
    Never,
    AtEnd,
    /// After this many frames, whatever is left: a body that lies.
    After(usize),
}

/// A body that follows a script. It panics if it is polled after its end: nobody may do that.
#[derive(Clone, Debug)]
pub(crate) struct MockBody {
    steps: VecDeque<Step>,
    hint: Hint,
    size: Option<u64>,
    frames: usize,
    over: bool,
}

/// What a body waits at. Tests see when it is reached, and open it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<GateState>);

#[derive(Debug, Default)]
struct GateState {
    open: AtomicBool,
    waker: AtomicWaker,
    reached: Notify,
}

/// A body that yields these frames and ends, of unknown length and without an end hint.
pub(crate) fn body<const N: usize>(frames: [&'static str; N]) -> MockBody {
    MockBody {
        steps: frames.map(|frame| Step::Data(Bytes::from_static(frame.as_bytes()))).into(),
        hint: Hint::Never,
        size: None,
        frames: 0,
        over: false,
    }
}

pub(crate) fn trailers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    pairs.iter().map(pair).collect()
}

// === impl MockBody ===

impl MockBody {
    pub(crate) fn scripted(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), ..body([]) }
    }

    pub(crate) fn then(mut self, step: Step) -> Self {
        self.steps.push_back(step);
        self
    }

    pub(crate) fn data(self, data: impl Into<Bytes>) -> Self {
        self.then(Step::Data(data.into()))
    }

    pub(crate) fn wait(self, gate: &Gate) -> Self {
        self.then(Step::Wait(gate.clone()))
    }

    pub(crate) fn yields(self) -> Self {
        self.then(Step::Yield)
    }

    pub(crate) fn fails(self) -> Self {
        self.then(Step::Error)
    }

    pub(crate) fn panics(self) -> Self {
        self.then(Step::Panic)
    }

    pub(crate) fn endless(self, frame: usize) -> Self {
        self.then(Step::Endless(frame))
    }

    pub(crate) fn trailers(self) -> Self {
        self.then(Step::Trailers(trailers(&[("x-sum", "abc")])))
    }

    /// Whether it reports its end after its last frame.
    pub(crate) fn hint(mut self, hint: bool) -> Self {
        self.hint = if hint { Hint::AtEnd } else { Hint::Never };
        self
    }

    /// Reports its end after `frames` frames, whatever is left.
    pub(crate) fn claims_end_after(mut self, frames: usize) -> Self {
        self.hint = Hint::After(frames);
        self
    }

    /// An exact size hint that is true.
    pub(crate) fn exact(self) -> Self {
        let size = self.steps.iter().map(|step| match step {
            Step::Data(data) => data.len() as u64,
            _ => 0,
        });
        let size = size.sum();
        self.claims(size)
    }

    /// An exact size hint, true or not.
    pub(crate) fn claims(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    fn data_frame(&mut self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.frames += 1;
        self.size = self.size.map(|size| size.saturating_sub(data.len() as u64));
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

impl Body for MockBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        assert!(!self.over, "polled after its end");
        if let Some(Step::Wait(gate)) = self.steps.front() {
            if !gate.poll(cx) {
                return Poll::Pending;
            }
            self.steps.pop_front();
        }
        if let Some(Step::Fed(feed)) = self.steps.front() {
            match feed.poll(cx) {
                Poll::Ready(Next::Data(data)) => return self.data_frame(data),
                Poll::Ready(Next::Error) => self.steps[0] = Step::Error,
                Poll::Ready(Next::End) => drop(self.steps.pop_front()),
                Poll::Pending => return Poll::Pending,
            }
        }
        if let Some(Step::Endless(size)) = self.steps.front() {
            let data = Bytes::from(vec![b'x'; *size]);
            return self.data_frame(data);
        }
        match self.steps.pop_front() {
            Some(Step::Data(data)) => self.data_frame(data),
            Some(Step::Trailers(trailers)) => {
                self.frames += 1;
                self.over = true;
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Some(Step::Error) => {
                self.over = true;
                Poll::Ready(Some(Err("scripted error".into())))
            }
            Some(Step::Panic) => panic!("scripted panic"),
            Some(Step::Yield) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            // Behind another gate or a feed: the next poll looks at it.
            Some(step @ (Step::Wait(_) | Step::Endless(_) | Step::Fed(_))) => {
                self.steps.push_front(step);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => {
                self.over = true;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.hint {
            Hint::Never => false,
            Hint::AtEnd => self.steps.is_empty(),
            Hint::After(frames) => self.frames >= frames,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.size.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

// === impl Gate ===

impl Gate {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn open(&self) {
        self.0.open.store(true, SeqCst);
        self.0.waker.wake();
    }

    /// Waits until somebody waits at the gate, or did.
    pub(crate) async fn reached(&self) {
        super::within("a gate to be reached", self.0.reached.notified()).await;
    }

    /// Waits until it is open.
    pub(crate) async fn passed(&self) {
        std::future::poll_fn(|cx| if self.poll(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    fn poll(&self, cx: &mut Context<'_>) -> bool {
        self.0.waker.register(cx.waker());
        // Leaves a permit, so that a test that asks later sees it too.
        self.0.reached.notify_one();
        self.0.open.load(SeqCst)
    }
}
