//! The future of a response: from the call of the inner service to the response's head.

use std::any::Any;
use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::{CONTENT_LENGTH, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::{AccumulatorBody, Tee};
use crate::contain::contain;
use crate::error::{BoxError, text_of};
use crate::stream::error::StreamError;
use crate::stream::handle::StreamHandle;
use crate::stream::head::ResponseFacts;
use crate::stream::settle::StreamGuard;
use crate::stream::state::Flags;
use crate::stream::termination::EndSignal;

pin_project! {
    /// The response future of [`StreamingAccumulator`](crate::StreamingAccumulator).
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it is ready settles the stream as cancelled, in [`Phase::BeforeHead`](crate::Phase).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        state: FutureState<F>,
    }
}

pin_project! {
    #[project = FutureProjection]
    enum FutureState<F> {
        // The inner service works. `future` stands first: it is dropped before the guard settles the stream.
        Running {
            #[pin]
            future: F,
            stream: Option<RunningStream>,
        },
        // The stream is not for the layer.
        Untouched {
            #[pin]
            future: F,
        },
        // There was no slot.
        Rejected,
    }
}

#[derive(Debug)]
struct RunningStream {
    tee: Tee,
    guard: StreamGuard,
}

/// Marks a response that the layer made itself, because it had no slot or was shut down: the inner service was not
/// called.
///
/// It stands in the response's extensions, so that a client-side caller can tell this 503 from its provider's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejected;

// === impl ResponseFuture ===

impl<F> ResponseFuture<F> {
    pub(crate) fn running(future: F, tee: Tee, guard: StreamGuard) -> Self {
        Self { state: FutureState::Running { future, stream: Some(RunningStream { tee, guard }) } }
    }

    pub(crate) fn untouched(future: F) -> Self {
        Self { state: FutureState::Untouched { future } }
    }

    pub(crate) fn rejected() -> Self {
        Self { state: FutureState::Rejected }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
    E: Display + 'static,
{
    type Output = Result<Response<AccumulatorBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            FutureProjection::Running { future, stream } => {
                let state = stream.as_ref().expect("polled after it was ready").guard.state();
                state.enter_poll();
                let polled = future.poll(cx);
                state.leave_poll(Flags::NONE);
                let result = ready!(polled);
                let stream = stream.take().expect("present: it was just used");
                Poll::Ready(stream.finish(result))
            }
            FutureProjection::Untouched { future } => {
                future.poll(cx).map_ok(|response| response.map(AccumulatorBody::untouched))
            }
            FutureProjection::Rejected => Poll::Ready(Ok(rejection())),
        }
    }
}

impl<F> std::fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

fn rejection<B>() -> Response<AccumulatorBody<B>> {
    let mut response = Response::new(AccumulatorBody::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response.extensions_mut().insert(Rejected);
    response
}

// === impl RunningStream ===

impl RunningStream {
    fn finish<B: Body, E: Display + 'static>(
        self,
        result: Result<Response<B>, E>,
    ) -> Result<Response<AccumulatorBody<B>>, E> {
        let Self { mut tee, guard } = self;
        let stream = guard.state();
        match result {
            Ok(mut response) => {
                // The body's own code runs here too.
                stream.enter_poll();
                let facts = facts_of(&stream.request().method, &response);
                stream.leave_poll(Flags::NONE);
                tee.responded(stream, &facts);
                stream.set_response(facts);
                response.extensions_mut().insert(StreamHandle::new(stream.clone()));
                Ok(response.map(|inner| AccumulatorBody::new(inner, tee, guard)))
            }
            Err(error) => {
                // `Display` is foreign code.
                let text = contain(|| text(&error)).unwrap_or_else(|| "an error whose text panicked".into());
                stream.settle(EndSignal::Error(StreamError::Service(text)), None);
                Err(error)
            }
        }
    }
}

/// The text of a service's error. Its causes are known of a boxed error only: any other type may be no `Error` at all.
fn text<E: Display + 'static>(error: &E) -> Box<str> {
    match (error as &dyn Any).downcast_ref::<BoxError>() {
        Some(error) => text_of(&**error),
        None => error.to_string().into(),
    }
}

/// What has to be known of a response before its body runs.
fn facts_of<B: Body>(method: &Method, response: &Response<B>) -> ResponseFacts {
    let status = response.status();
    let body = response.body();
    // hyper's own order: an exact hint wins over the header.
    let (declared, bad_length) = match body.size_hint().exact() {
        Some(length) => (Some(length), None),
        None => content_length(response.headers()),
    };
    ResponseFacts {
        status,
        headers: response.headers().clone(),
        bodiless: is_bodiless(method, status),
        empty: body.is_end_stream(),
        declared,
        bad_length,
    }
}

/// Whether the response has no content, whatever its body would yield (RFC 9110, section 6.4.1).
fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || (*method == Method::CONNECT && status.is_success())
}

/// The declared length, or the header that cannot be used: not a number, or several that differ
/// (RFC 9110, section 8.6).
fn content_length(headers: &HeaderMap) -> (Option<u64>, Option<Box<str>>) {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else {
        return (None, None);
    };
    match parse_length(first) {
        Some(length) if values.all(|value| parse_length(value) == Some(length)) => (Some(length), None),
        _ => {
            let values: Vec<_> = headers
                .get_all(CONTENT_LENGTH)
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
                .collect();
            (None, Some(values.join(", ").into()))
        }
    }
}

/// Digits only: `u64::from_str` would take a sign.
fn parse_length(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}
