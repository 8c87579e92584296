//! The body that a client gets where the gateway asked for usage in its place.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::include_usage::Hider;

/// Bytes of one stream that were taken from the layer and not passed on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hidden(Arc<AtomicU64>);

/// Passes everything but what only the gateway asked for. Dropped, it drops the inner body.
pub(crate) struct Hiding<B: Body> {
    inner: B,
    hider: Hider,
    hidden: Hidden,
    /// What the inner body ended with, while an event that broke off goes first. None inside: nothing more.
    ending: Option<Option<Result<Frame<Bytes>, B::Error>>>,
}

// === impl Hidden ===

impl Hidden {
    // Relaxed, here and below: the count is added to before the inner body's next poll or its drop, and it is
    // read in the hook, which that poll or drop set off through the dispatcher's queue.
    fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Hiding ===

impl<B: Body> Hiding<B> {
    pub(crate) fn new(inner: B, hidden: Hidden) -> Self {
        Self { inner, hider: Hider::new(), hidden, ending: None }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Hiding<B>
where
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if let Some(ending) = this.ending.take() {
            return Poll::Ready(ending);
        }
        loop {
            let ending = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let out = this.hider.push(&data);
                        this.hidden.add(this.hider.hidden());
                        if out.is_empty() {
                            continue;
                        }
                        return Poll::Ready(Some(Ok(Frame::data(out.into()))));
                    }
                    Err(trailers) => Some(Ok(trailers)),
                },
                ending => ending,
            };
            let rest = this.hider.finish();
            if rest.is_empty() {
                return Poll::Ready(ending);
            }
            this.ending = Some(ending);
            return Poll::Ready(Some(Ok(Frame::data(rest.into()))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.hider.held() == 0 && self.ending.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Nobody knows yet what will be taken out.
        SizeHint::default()
    }
}

impl<B: Body> Drop for Hiding<B> {
    fn drop(&mut self) {
        // Before the inner body is dropped, which makes the record.
        self.hidden.add(self.hider.held() as u64);
    }
}
