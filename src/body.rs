//! The response's body: forwards the inner body frame by frame, keeps and counts what goes by, and
//! settles the stream when it ends.
//!
//! The hot path is [`poll_frame`](AccumulatorBody::poll_frame) with `tee` below it. It takes no lock,
//! awaits nothing, spawns nothing, reads the clock once per chunk, and allocates only when the
//! accumulator needs another block.
//!
//! How the stream ended is not decided here. The body reports what it saw: the end (`None`), trailers, an
//! error, or, through its guard, that it was dropped. [`crate::ending`] has the rules.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::ending::Signal;
use crate::error::{BoxError, StreamError};
use crate::guard::Guard;
use crate::pipeline::StreamHandle;
use crate::stop::StopReason;
use crate::telemetry;

/// Called with each chunk before it goes on.
pub(crate) type OnChunk = dyn Fn(&Bytes, &StreamHandle) -> ControlFlow<StopReason> + Send + Sync;

pin_project! {
    /// The body of a response that went through [`StreamingAccumulator`](crate::StreamingAccumulator).
    ///
    /// Yields byte for byte and frame for frame what the inner body yields, trailers and errors included,
    /// and forwards `size_hint` and `is_end_stream`. Data frames that are not [`Bytes`] are copied into
    /// one. After its end, an error, or trailers it yields `None` and never touches the inner body again.
    ///
    /// # Errors
    ///
    /// The inner body's own, boxed; [`StreamError::Stopped`] where the stream was stopped on purpose;
    /// [`StreamError::ContentTooLarge`] where that was asked for.
    ///
    /// # Cancel safety
    ///
    /// Dropping the body settles the stream: as completed if there is evidence of that, else as
    /// cancelled.
    #[must_use = "a body that is dropped unpolled is a cancelled stream"]
    pub struct AccumulatorBody<B> {
        // Fields drop in order: the upstream is released before the record is handed over.
        #[pin]
        inner: Option<B>,
        tee: Tee,
        ended: bool,
        // None in the body of a rejection.
        guard: Option<Guard>,
    }
}

/// What the body does with each chunk.
#[derive(Default)]
pub(crate) struct Tee {
    pub(crate) on_chunk: Option<Arc<OnChunk>>,
    /// Bytes pulled beyond which the stream fails.
    pub(crate) fails_beyond: Option<u64>,
    /// What a response without content yields (HTTP/2 sends it all the same) is not looked at.
    pub(crate) bodiless: bool,
}

// === impl AccumulatorBody ===

impl<B> AccumulatorBody<B> {
    pub(crate) fn new(inner: B, tee: Tee, guard: Guard) -> Self {
        Self { inner: Some(inner), tee, ended: false, guard: Some(guard) }
    }

    /// The empty body of a response that is not the inner service's.
    pub(crate) fn empty() -> Self {
        Self { inner: None, tee: Tee::default(), ended: true, guard: None }
    }
}

impl<B> Body for AccumulatorBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let (Some(mut inner), Some(guard), false) =
            (this.inner.as_mut().as_pin_mut(), this.guard.as_mut(), *this.ended)
        else {
            return Poll::Ready(None);
        };
        let pipeline = guard.pipeline();
        let end = if let Some(error) = pipeline.stopped() {
            Some(Err(error.clone().into()))
        } else {
            pipeline.set_polled();
            let polled = pipeline.in_poll(|| {
                let frame = inner.as_mut().poll_frame(cx).map_ok(|frame| frame.map_data(into_bytes));
                // hyper asks right after a data frame, and drops the body if the answer is yes.
                if let Poll::Ready(Some(Ok(_))) = &frame {
                    pipeline.set_end_hint(inner.is_end_stream());
                }
                frame
            });
            match polled {
                Poll::Ready(None) => {
                    guard.settle(Signal::EndOfBody, None);
                    None
                }
                Poll::Ready(Some(Err(error))) => {
                    let error = error.into();
                    let text = StreamError::text_of(&*error);
                    guard.settle(Signal::Error(StreamError::Body(text)), None);
                    Some(Err(error))
                }
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(chunk) = frame.data_ref() {
                        match this.tee.chunk(chunk, guard) {
                            Ok(()) => return Poll::Ready(Some(Ok(frame))),
                            Err(error) => Some(Err(error.into())),
                        }
                    } else {
                        if !this.tee.bodiless {
                            pipeline.metrics().record_frame(0);
                        }
                        guard.settle(Signal::Trailers, frame.trailers_ref());
                        Some(Ok(frame))
                    }
                }
                Poll::Pending => {
                    pipeline.wake_on_stop(cx.waker());
                    // The stop may have come just before there was a waker to wake.
                    match pipeline.stopped() {
                        None => return Poll::Pending,
                        Some(error) => Some(Err(error.clone().into())),
                    }
                }
            }
        };
        *this.ended = true;
        if let Some(Err(_)) = &end {
            // Not left to the drop of the body: whoever polls us may hold it for long.
            this.inner.set(None);
        }
        Poll::Ready(end)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) if !self.ended => inner.size_hint(),
            _ => SizeHint::with_exact(0),
        }
    }
}

impl<B> std::fmt::Debug for AccumulatorBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccumulatorBody")
            .field("stream", &self.guard.as_ref().map(Guard::handle))
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// Free of charge for [`Bytes`]: it takes the whole.
fn into_bytes<D: Buf>(mut data: D) -> Bytes {
    data.copy_to_bytes(data.remaining())
}

// === impl Tee ===

impl Tee {
    /// Counts and keeps a chunk that is to go on, or settles the stream and says why it may not.
    fn chunk(&mut self, chunk: &Bytes, guard: &mut Guard) -> Result<(), StreamError> {
        if self.bodiless {
            return Ok(());
        }
        let pipeline = guard.pipeline();
        pipeline.metrics().record_produced(chunk.len());
        let withheld = match self.ask(chunk, guard.handle()) {
            ControlFlow::Break(reason) => {
                Some((Signal::BrokenOff(reason.clone()), StreamError::Stopped { reason }))
            }
            ControlFlow::Continue(()) => self.too_large(pipeline.metrics().bytes(), chunk),
        };
        let Some((signal, error)) = withheld else {
            pipeline.record_chunk(chunk);
            return Ok(());
        };
        // If somebody stopped the stream in this very moment, theirs is the record's reason.
        Err(guard.settle(signal, None).unwrap_or(error))
    }

    fn ask(&mut self, chunk: &Bytes, handle: &StreamHandle) -> ControlFlow<StopReason> {
        let (Some(on_chunk), false) = (&self.on_chunk, chunk.is_empty()) else {
            return ControlFlow::Continue(());
        };
        let call = AssertUnwindSafe(|| on_chunk(chunk, handle));
        catch_unwind(call).unwrap_or_else(|_| {
            telemetry::callback_panicked(None, "on_chunk");
            self.on_chunk = None;
            ControlFlow::Continue(())
        })
    }

    fn too_large(&self, pulled: u64, chunk: &Bytes) -> Option<(Signal, StreamError)> {
        let limit = self.fails_beyond?;
        let too_large = pulled + chunk.len() as u64 > limit;
        too_large.then_some((Signal::TooLarge { limit }, StreamError::ContentTooLarge { limit }))
    }
}
