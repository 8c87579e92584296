//! Bodies for counting: the scripted body allocates for its script, which would be counted too.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};

/// What upstreams are read into.
const READ_BUFFER: usize = 64 * 1024;

/// A body of the chunks that an iterator yields.
pub(crate) struct Chunks<I> {
    chunks: I,
    /// After its last chunk it waits for ever.
    held: bool,
}

/// Cuts `left` bytes into chunks of `size`, out of read buffers that it lets go of.
pub(crate) struct Cut {
    buffer: BytesMut,
    size: usize,
    left: usize,
    /// Takes a new read buffer for each chunk.
    sparse: bool,
}

pub(crate) type Ready = Chunks<std::vec::IntoIter<Bytes>>;
pub(crate) type Held = Chunks<std::option::IntoIter<Bytes>>;

/// A body of chunks that were made before.
pub(crate) fn ready(chunks: Vec<Bytes>) -> Ready {
    Chunks { chunks: chunks.into_iter(), held: false }
}

/// A body that yields a chunk, if it has one, and then waits for ever.
pub(crate) fn held(chunk: Option<Bytes>) -> Held {
    Chunks { chunks: chunk.into_iter(), held: true }
}

/// A body of `left` bytes in chunks of `size`.
pub(crate) fn cut(size: usize, left: usize, sparse: bool) -> Chunks<Cut> {
    Chunks { chunks: Cut { buffer: BytesMut::new(), size, left, sparse }, held: false }
}

// === impl Chunks ===

impl<I: Iterator<Item = Bytes> + Unpin> Body for Chunks<I> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.chunks.next() {
            Some(chunk) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
            None if self.held => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}

// === impl Cut ===

impl Iterator for Cut {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        if self.buffer.is_empty() || self.sparse {
            self.buffer = BytesMut::zeroed(READ_BUFFER);
        }
        let len = self.size.min(self.left).min(self.buffer.len());
        self.left -= len;
        Some(self.buffer.split_to(len).freeze())
    }
}
