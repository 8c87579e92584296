//! A response body that costs as little as a body can.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

/// Clones of one static chunk, always ready, of unannounced length: what a handler that streams server-sent
/// events yields, without the work of making them.
#[derive(Clone, Debug)]
pub(crate) struct Frames {
    left: usize,
    chunk: Bytes,
}

impl Frames {
    /// `count` frames of `size` bytes, at most 64 KiB each.
    pub(crate) fn new(count: usize, size: usize) -> Self {
        static TEXT: [u8; 64 * 1024] = [b'x'; 64 * 1024];
        Self { left: count, chunk: Bytes::from_static(&TEXT[..size]) }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(left) = self.left.checked_sub(1) else {
            return Poll::Ready(None);
        };
        self.left = left;
        Poll::Ready(Some(Ok(Frame::data(self.chunk.clone()))))
    }
}
