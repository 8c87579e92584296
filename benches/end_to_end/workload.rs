//! What the server answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::body::Frames;

/// Bytes in each frame.
pub(crate) const SIZE: usize = 256;

/// One kind of answer, and what it may cost under this layer with `Capture::none()` and one hook.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// The path of requests for it.
    pub(crate) path: &'static str,
    pub(crate) frames: usize,
    /// The body returns `Pending` before each frame and wakes its task at once.
    pends: bool,
    /// The largest ratio to no layer.
    pub(crate) wanted: Option<f64>,
    pub(crate) beside_trace: Option<BesideTrace>,
}

/// What is wanted of this layer's ratio beside that of `TraceLayer`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BesideTrace {
    Below,
    NotAbove,
}

pub(crate) const ALL: [Workload; 3] = [
    Workload { name: "1 frame", path: "/1", frames: 1, pends: false, wanted: Some(1.10), beside_trace: None },
    Workload {
        name: "64 frames, ready",
        path: "/64",
        frames: 64,
        pends: false,
        wanted: Some(1.06),
        beside_trace: Some(BesideTrace::Below),
    },
    Workload {
        name: "64 frames, pending",
        path: "/64-pending",
        frames: 64,
        pends: true,
        wanted: None,
        beside_trace: Some(BesideTrace::NotAbove),
    },
];

/// The body of an answer, as cheap as it can be.
#[derive(Debug)]
pub(crate) struct Answer {
    frames: Frames,
    pends: bool,
    woken: bool,
}

impl Workload {
    pub(crate) fn at(path: &str) -> Option<Self> {
        ALL.into_iter().find(|workload| workload.path == path)
    }

    pub(crate) fn answer(&self) -> Answer {
        Answer { frames: Frames::new(self.frames, SIZE), pends: self.pends, woken: false }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.pends && !self.woken {
            self.woken = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.woken = false;
        Pin::new(&mut self.frames).poll_frame(cx)
    }
}
