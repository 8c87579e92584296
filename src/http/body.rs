//! The response's body: forwards the inner body frame by frame, keeps and counts what goes by, and
//! settles the stream when it ends.
//!
//! The hot path is [`poll_frame`](AccumulatorBody::poll_frame) with `tee` below it. It takes no lock,
//! awaits nothing, spawns nothing, reads the clock once per chunk, and allocates only when the
//! accumulator needs another block.
//!
//! A meter, where the layer has one for the response, reads each chunk last: after it was counted, and never one
//! that is withheld. It stands behind a mutex, because the stream may be settled from outside while the body lives
//! on, and that takes the meter away. The body only tries that lock and never waits for it: whoever else holds it
//! settles the stream, and then these bytes no longer count. Without a meter all this is one branch.
//!
//! How the stream ended is not decided here. The body reports what it saw: the end (`None`), trailers, an
//! error, or, through its guard, that it was dropped. [`crate::stream::termination`] has the rules.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::accumulator::BufferWriter;
use crate::stream::termination::Signal;
use crate::error::{BoxError, StreamError};
use crate::stream::throttle::Gate;
use crate::stream::settle::Guard;
use crate::stream::state::{Pipeline, Stage, StreamHandle};
use crate::stream::stop::StopReason;
use crate::stream::trace;

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
    /// [`StreamError::ContentTooLarge`] where that was asked for; the limit that the stream met: a
    /// [`StreamError::Backpressure`] or one of the time limits. Where a meter had seen an error inside the stream
    /// before, [`StreamError::InBand`] stands for any of these.
    ///
    /// # Panics
    ///
    /// Polled outside a tokio runtime with its time driver enabled, where it has to be delayed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the body settles the stream: as completed if there is evidence of that, else as
    /// cancelled.
    #[must_use = "a body that is dropped unpolled is a cancelled stream"]
    #[project = Projected]
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
    pub(crate) writer: BufferWriter,
    /// Whether every frame goes through the gate, not only while there are readers.
    pub(crate) is_paced: bool,
    /// Made when it is needed first.
    pub(crate) gate: Option<Box<Gate>>,
    /// The inner body said that its last frame was its last.
    pub(crate) hint: bool,
    /// Whether a meter reads the chunks.
    pub(crate) is_metered: bool,
    /// What a response without content yields (HTTP/2 sends it all the same) is not looked at.
    pub(crate) bodiless: bool,
    /// None in most layers: one test instead of two.
    pub(crate) check: Option<Check>,
}

/// What may withhold a chunk.
pub(crate) struct Check {
    pub(crate) on_chunk: Option<Arc<OnChunk>>,
    /// Bytes pulled beyond which the stream fails.
    pub(crate) fails_beyond: Option<u64>,
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

impl<B> Default for AccumulatorBody<B> {
    /// The empty body of no stream, for layers that answer in the service's place.
    fn default() -> Self {
        Self::empty()
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
        if let Some(error) = pipeline.stopped() {
            let error = error.clone();
            return this.end_with(error);
        }
        if this.tee.is_paced || pipeline.capture().is_gated() {
            match this.tee.poll_gate(cx, pipeline) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return this.limit(error),
                Poll::Pending => return this.pending(cx),
            }
        }
        let entered = pipeline.enter_poll();
        let end = match inner.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(mut data) => {
                    // hyper asks right after a data frame, and drops the body if the answer is yes.
                    let hint = inner.is_end_stream();
                    // Free of charge for `Bytes`: it takes the whole.
                    let chunk = data.copy_to_bytes(data.remaining());
                    entered.leave();
                    return match this.tee.chunk(&chunk, hint, guard) {
                        Ok(()) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
                        Err(error) => this.end_with(Some(error)),
                    };
                }
                Err(frame) => End::Trailers(frame.into_trailers().unwrap_or_default()),
            },
            Poll::Ready(Some(Err(error))) => End::Error(error.into()),
            Poll::Ready(None) => End::None,
            Poll::Pending => {
                entered.leave();
                pipeline.set_stage(this.tee.stage().and(Stage::PENDING, true));
                return this.pending(cx);
            }
        };
        entered.leave();
        pipeline.set_stage(this.tee.stage());
        this.end(end)
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

/// An end that the inner body itself came to.
enum End {
    None,
    Trailers(HeaderMap),
    Error(BoxError),
}

type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

impl<B> Projected<'_, B> {
    /// Settles the stream as the inner body ended it.
    #[cold]
    fn end(self, end: End) -> Polled {
        *self.ended = true;
        let Some(guard) = self.guard else {
            return Poll::Ready(None);
        };
        Poll::Ready(match end {
            End::None => {
                guard.settle(Signal::EndOfBody, None);
                None
            }
            End::Trailers(trailers) => {
                self.tee.trailers(guard);
                guard.settle(Signal::Trailers, Some(&trailers));
                Some(Ok(Frame::trailers(trailers)))
            }
            End::Error(error) => {
                let text = StreamError::text_of(&*error);
                guard.settle(Signal::Error(StreamError::Body(text)), None);
                Some(Err(error))
            }
        })
    }

    /// Has the task woken when the stream is stopped.
    fn pending(self, cx: &mut Context<'_>) -> Polled {
        let Some(guard) = self.guard.as_ref() else {
            return Poll::Pending;
        };
        guard.pipeline().wake_on_stop(cx.waker());
        // The stop may have come just before there was a waker to wake.
        let Some(error) = guard.pipeline().stopped() else {
            return Poll::Pending;
        };
        let error = error.clone();
        self.end_with(error)
    }

    /// Ends the body because of a reader that is too far behind.
    #[cold]
    fn limit(self, error: StreamError) -> Polled {
        let Some(guard) = self.guard.as_mut() else {
            return Poll::Ready(None);
        };
        // None of it: somebody stopped the stream in this very moment. The client is told ours.
        let settled = guard.settle_shared(Signal::Limit(error.clone()));
        self.end_with(settled.unwrap_or(Some(error)))
    }

    /// Ends a body whose stream the layer has settled already: without an error if it had handed over all that it
    /// declared, or the protocol's own end.
    #[cold]
    fn end_with(mut self, error: Option<StreamError>) -> Polled {
        *self.ended = true;
        // Not left to the drop of the body: whoever polls us may hold it for long.
        self.inner.set(None);
        Poll::Ready(error.map(|error| Err(error.into())))
    }
}

// === impl Tee ===

impl Tee {
    /// Counts and keeps a chunk that is to go on, or settles the stream and says why it may not. `hint`
    /// is what the inner body said of its end after it.
    #[inline]
    fn chunk(&mut self, chunk: &Bytes, hint: bool, guard: &mut Guard) -> Result<(), StreamError> {
        self.hint = hint;
        guard.pipeline().set_stage(self.stage());
        if self.bodiless {
            return Ok(());
        }
        if let Some(check) = &mut self.check {
            check.chunk(chunk, guard)?;
        }
        if let Some(gate) = &mut self.gate {
            gate.frame(chunk.len());
        }
        let now = guard.pipeline().record_chunk(&mut self.writer, chunk);
        if let (true, Some(now)) = (self.is_metered, now) {
            guard.pipeline().meter_chunk(chunk, now);
        }
        Ok(())
    }

    /// How far a body is that was polled.
    #[inline]
    fn stage(&self) -> Stage {
        Stage::POLLED.and(Stage::END_HINT, self.hint)
    }

    #[cold]
    fn poll_gate(&mut self, cx: &mut Context<'_>, pipeline: &Pipeline) -> Poll<Result<(), StreamError>> {
        let gate =
            self.gate.get_or_insert_with(|| Box::new(Gate::new(pipeline.rules().max_bytes_per_second)));
        gate.poll(cx, pipeline, &self.writer)
    }

    fn trailers(&self, guard: &Guard) {
        if !self.bodiless {
            guard.pipeline().metrics().record_other();
        }
    }
}

// === impl Check ===

impl Check {
    fn chunk(&mut self, chunk: &Bytes, guard: &mut Guard) -> Result<(), StreamError> {
        let (signal, error) = match self.ask(chunk, guard.handle()) {
            ControlFlow::Break(reason) => {
                (Signal::BrokenOff(reason.clone()), StreamError::Stopped { reason })
            }
            ControlFlow::Continue(()) => match self.fails_beyond {
                Some(limit) if guard.pipeline().metrics().bytes() + chunk.len() as u64 > limit => {
                    (Signal::TooLarge { limit }, StreamError::ContentTooLarge { limit })
                }
                _ => return Ok(()),
            },
        };
        guard.pipeline().metrics().record_withheld(chunk.len());
        // If somebody stopped the stream in this very moment, the record has their reason; the client is
        // told ours.
        Err(guard.settle(signal, None).unwrap_or(error))
    }

    fn ask(&mut self, chunk: &Bytes, handle: &StreamHandle) -> ControlFlow<StopReason> {
        let (Some(on_chunk), false) = (&self.on_chunk, chunk.is_empty()) else {
            return ControlFlow::Continue(());
        };
        let call = AssertUnwindSafe(|| on_chunk(chunk, handle));
        catch_unwind(call).unwrap_or_else(|_| {
            trace::callback_panicked(None, "on_chunk");
            self.on_chunk = None;
            ControlFlow::Continue(())
        })
    }
}
