//! The response's body: forwards the inner body frame by frame, keeps and counts what goes by, and settles the stream
//! when it ends.
//!
//! The hot path is [`poll_frame`](AccumulatorBody::poll_frame) with `Tee::chunk` below it. It takes no lock, awaits
//! nothing, spawns nothing, reads the clock once per chunk, and allocates only when the accumulator needs another block.
//! (Where a meter reads the response, a mutex stands between the two: whoever settles the stream takes the meter away.
//! See [`crate::stream::meters`].)
//!
//! How the stream ended is not decided here. The body reports what it saw: the end (`None`), trailers, an error, or,
//! through its guard, that it was dropped. [`crate::stream::termination`] has the rules.
//!
//! # Ended from outside
//!
//! Any thread may end the stream while the body is polled. Each frame therefore passes the gate of the metrics, and
//! where that is closed the body ends as whoever closed it says: it forwards no frame that the record does not count,
//! and no proper end of a stream whose record says that it was stopped.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::body_error::BodyError;
use crate::accumulator::BufferWriter;
use crate::contain::contain;
use crate::error::{BoxError, text_of};
use crate::stream::check::ChunkCheck;
use crate::stream::error::StreamError;
use crate::stream::head::ResponseFacts;
use crate::stream::metrics::Passage;
use crate::stream::settle::{Settlement, StreamGuard};
use crate::stream::state::{Flags, StreamState};
use crate::stream::termination::EndSignal;
use crate::stream::throttle::PollThrottle;

pin_project! {
    /// The body of a response that went through [`StreamingAccumulator`](crate::StreamingAccumulator).
    ///
    /// Yields byte for byte and frame for frame what the inner body yields, trailers and errors included, and forwards
    /// `size_hint` and `is_end_stream`. Data frames that are not [`Bytes`] are copied into one. After its end, an error,
    /// or trailers it yields `None` and never touches the inner body again.
    ///
    /// # Errors
    ///
    /// A [`BodyError`] around the inner body's own error, or around a [`StreamError`]: `Stopped` where the stream was
    /// stopped on purpose, `ContentTooLarge` where that was asked for, or the limit that the stream met (`Backpressure`
    /// or one of the time limits). Where a meter had seen an error inside the stream before, `InBand` takes the place of
    /// any of these.
    ///
    /// # Panics
    ///
    /// Polled outside a tokio runtime with its time driver enabled, where it has to be delayed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the body settles the stream: as completed if there is evidence of that, else as cancelled.
    #[must_use = "a body that is dropped unpolled is a cancelled stream"]
    #[project = Projected]
    pub struct AccumulatorBody<B> {
        // Fields drop in order: the upstream is released before the record is handed over.
        #[pin]
        inner: Option<B>,
        tee: Tee,
        ended: bool,
        // None in a body that the layer does not account for.
        guard: Option<StreamGuard>,
    }
}

/// What the body does with each chunk.
#[derive(Debug, Default)]
pub(crate) struct Tee {
    writer: BufferWriter,
    /// Whether every frame is throttled, not only while there are readers.
    is_paced: bool,
    /// Made when it is needed first.
    throttle: Option<Box<PollThrottle>>,
    /// Whether a meter reads the chunks.
    is_metered: bool,
    /// What a response without content yields (HTTP/2 sends it all the same) is not looked at.
    bodiless: bool,
    /// `None` in most layers: one test instead of two.
    check: Option<Box<ChunkCheck>>,
}

// === impl AccumulatorBody ===

impl<B> AccumulatorBody<B> {
    pub(crate) fn new(inner: B, tee: Tee, guard: StreamGuard) -> Self {
        Self { inner: Some(inner), tee, ended: false, guard: Some(guard) }
    }

    /// A body that is forwarded and not accounted for.
    pub(crate) fn untouched(inner: B) -> Self {
        Self { inner: Some(inner), tee: Tee::default(), ended: false, guard: None }
    }

    /// The empty body of a response that is not the inner service's.
    pub(crate) fn empty() -> Self {
        Self { inner: None, tee: Tee::default(), ended: true, guard: None }
    }

    /// The body inside; `None` in a response that the layer made itself, or once the layer has ended the stream.
    pub fn get_ref(&self) -> Option<&B> {
        self.inner.as_ref()
    }

    /// The body inside, to change it. A frame that is pulled from it is not accounted for.
    pub fn get_mut(&mut self) -> Option<&mut B> {
        self.inner.as_mut()
    }

    /// The body inside. The stream is settled as if this body had been dropped.
    pub fn into_inner(self) -> Option<B> {
        self.inner
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
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let mut this = self.project();
        if *this.ended {
            return Poll::Ready(None);
        }
        let Some(mut inner) = this.inner.as_mut().as_pin_mut() else {
            return this.closed(cx);
        };
        let Some(stream) = this.guard.as_ref().map(StreamGuard::state) else {
            return forward(inner, cx);
        };
        if let Some(error) = stream.closing() {
            let error = error.clone();
            return this.end_with(error);
        }
        if this.tee.is_paced || stream.buffer().is_gated() {
            match this.tee.poll_throttle(cx, stream) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return this.limit(error),
                Poll::Pending => return this.pending(cx),
            }
        }
        stream.enter_poll();
        let end = match inner.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(mut data) => {
                    // hyper asks right after a data frame, and drops the body if the answer is yes.
                    let hint = inner.is_end_stream();
                    // Copies nothing where the data is `Bytes`.
                    let chunk = data.copy_to_bytes(data.remaining());
                    stream.leave_poll(Flags::POLLED);
                    return match this.tee.chunk(&chunk, hint, stream) {
                        Fate::Forwarded => Poll::Ready(Some(Ok(Frame::data(chunk)))),
                        Fate::Withheld(error) => this.end_with(Some(error)),
                        Fate::Closed => this.closed(cx),
                    };
                }
                Err(frame) => End::Trailers(frame.into_trailers().unwrap_or_default()),
            },
            Poll::Ready(Some(Err(error))) => End::Error(error.into()),
            Poll::Ready(None) => End::None,
            Poll::Pending => {
                stream.leave_poll(Flags::PENDING);
                return this.pending(cx);
            }
        };
        stream.leave_poll(Flags::POLLED);
        this.end(end, cx)
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

impl<B> fmt::Debug for AccumulatorBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccumulatorBody")
            .field("stream", &self.guard.as_ref().map(|guard| guard.state().id()))
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

/// What becomes of a chunk.
enum Fate {
    Forwarded,
    /// It was this body that ended the stream, with this error.
    Withheld(StreamError),
    /// Somebody else ended the stream.
    Closed,
}

type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// Polls a body that is not accounted for.
fn forward<B: Body<Error: Into<BoxError>>>(inner: Pin<&mut B>, cx: &mut Context<'_>) -> Polled {
    inner.poll_frame(cx).map(|frame| {
        let frame = frame?.map(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())));
        Some(frame.map_err(|error| BodyError::new(error.into())))
    })
}

impl<B> Projected<'_, B> {
    /// Settles the stream as the inner body ended it.
    #[cold]
    fn end(mut self, end: End, cx: &mut Context<'_>) -> Polled {
        let Some(stream) = self.guard.as_ref().map(StreamGuard::state) else {
            return Poll::Ready(None);
        };
        let (signal, trailers) = match &end {
            End::None => (EndSignal::EndOfBody, None),
            End::Trailers(trailers) => (EndSignal::Trailers, Some(trailers)),
            End::Error(error) => {
                // The error's text is foreign code.
                let text = contain(|| text_of(&**error));
                let text = text.unwrap_or_else(|| "an error whose text panicked".into());
                (EndSignal::Error(StreamError::Body(text)), None)
            }
        };
        if stream.settle(signal, trailers) == Settlement::Already {
            // In this order: `closing` is set before the outcome.
            let is_decided = stream.outcome().is_some();
            let closing = stream.closing();
            let is_undecided = closing.is_none() && !is_decided;
            // A stream that was stopped must not look complete, nor a complete one as if it had failed.
            if is_undecided || matches!(closing, Some(Some(_))) || matches!(end, End::Error(_)) {
                self.inner.set(None);
                return self.closed(cx);
            }
        }
        *self.ended = true;
        Poll::Ready(match end {
            End::None => None,
            End::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
            End::Error(error) => Some(Err(BodyError::new(error))),
        })
    }

    /// Registers the task to be woken when the stream is ended from outside.
    fn pending(self, cx: &mut Context<'_>) -> Polled {
        let Some(stream) = self.guard.as_ref().map(StreamGuard::state) else {
            return Poll::Pending;
        };
        stream.wake_on_change(cx.waker());
        // The end may have come just before there was a waker to wake.
        let Some(error) = stream.closing() else {
            return Poll::Pending;
        };
        let error = error.clone();
        self.end_with(error)
    }

    /// Ends the body of a stream that somebody else has ended, or waits for the moment in which they decide how.
    #[cold]
    fn closed(self, cx: &mut Context<'_>) -> Polled {
        let Some(stream) = self.guard.as_ref().map(StreamGuard::state) else {
            return Poll::Ready(None);
        };
        stream.wake_on_change(cx.waker());
        // In this order: `closing` is set before the outcome.
        let is_decided = stream.outcome().is_some();
        let error = match (stream.closing(), is_decided) {
            (Some(error), _) => error.clone(),
            // Complete without us, and nothing that comes now would be counted.
            (None, true) => None,
            (None, false) => return Poll::Pending,
        };
        self.end_with(error)
    }

    /// Ends the body because of a reader that is too far behind.
    #[cold]
    fn limit(self, error: StreamError) -> Polled {
        let Some(stream) = self.guard.as_ref().map(StreamGuard::state) else {
            return Poll::Ready(None);
        };
        let error = match stream.settle(EndSignal::Limit(error.clone()), None) {
            Settlement::Failed(error) => Some(error),
            Settlement::Settled => None,
            // Somebody ended the stream in this very moment.
            Settlement::Already | Settlement::Deferred => stream.closing().cloned().unwrap_or(Some(error)),
        };
        self.end_with(error)
    }

    /// Ends a body whose stream is settled: without an error if it had handed over all that it declared, or the
    /// protocol's own end.
    #[cold]
    fn end_with(mut self, error: Option<StreamError>) -> Polled {
        *self.ended = true;
        // Not left to the drop of the body: whoever polls us may hold it for long.
        self.inner.set(None);
        Poll::Ready(error.map(|error| Err(BodyError::new(error.into()))))
    }
}

// === impl Tee ===

impl Tee {
    pub(crate) fn new(stream: &StreamState, check: Option<ChunkCheck>) -> Self {
        Self {
            writer: stream.buffer().writer(),
            is_paced: stream.config().max_bytes_per_second.is_some(),
            throttle: None,
            is_metered: false,
            bodiless: false,
            check: check.map(Box::new),
        }
    }

    /// There is a response: opens its meter, if the layer has one for it.
    pub(crate) fn responded(&mut self, stream: &Arc<StreamState>, response: &ResponseFacts) {
        self.bodiless = response.bodiless;
        #[cfg(feature = "llm")]
        {
            self.is_metered = stream.open_meter(response);
        }
        #[cfg(not(feature = "llm"))]
        let _ = stream;
    }

    /// Counts and keeps a chunk that is to go on, or settles the stream. `hint` is what the inner body said of its end
    /// after it.
    #[inline]
    fn chunk(&mut self, chunk: &Bytes, hint: bool, stream: &StreamState) -> Fate {
        if self.bodiless {
            return Fate::Forwarded;
        }
        if let Some(check) = &mut self.check
            && let Err(error) = check.chunk(chunk, stream)
        {
            return Fate::Withheld(error);
        }
        if let Some(throttle) = &mut self.throttle {
            throttle.spend(chunk.len());
        }
        let passed = if chunk.is_empty() {
            stream.metrics().pass_other(hint) != Passage::Closed
        } else {
            stream.pass_chunk(&mut self.writer, chunk, hint, self.is_metered)
        };
        if passed { Fate::Forwarded } else { Fate::Closed }
    }

    #[cold]
    fn poll_throttle(&mut self, cx: &mut Context<'_>, stream: &StreamState) -> Poll<Result<(), StreamError>> {
        let throttle = self
            .throttle
            .get_or_insert_with(|| Box::new(PollThrottle::new(stream.config().max_bytes_per_second)));
        throttle.poll(cx, stream, &self.writer)
    }
}
