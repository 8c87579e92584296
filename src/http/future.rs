//! The future of a response: from admission to the response's head.

use std::fmt::Display;
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::{CONTENT_LENGTH, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::sync::OwnedSemaphorePermit;
use tower_service::Service;

use crate::http::admission::Shared;
use crate::http::body::{AccumulatorBody, Tee};
use crate::stream::termination::Signal;
use crate::error::StreamError;
use crate::stream::settle::Guard;
use crate::stream::state::ResponseHead;
use crate::http::request_body::{AsIs, MapRequest};

pin_project! {
    /// The response future of [`StreamingAccumulator`](crate::StreamingAccumulator).
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it is ready settles the stream as cancelled, in `Phase::BeforeHead`. Dropping
    /// it while it waits for a slot leaves no record: the call is counted as abandoned.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, ReqB, C = (), R = AsIs>
    where
        R: MapRequest<ReqB>,
        S: Service<Request<<R as MapRequest<ReqB>>::Body>>,
    {
        #[pin]
        state: State<S::Future, Waiting<S, ReqB, C>>,
        _request: PhantomData<fn() -> R>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, W> {
        // Waits for a slot; taken when there is one.
        Waiting { waiting: Option<W> },
        // The inner service works. `future` stands first: it is dropped before the guard settles.
        Running {
            #[pin]
            future: F,
            running: Option<Running>,
        },
        // There was no slot.
        Rejected,
    }
}

/// A call that has no slot yet. It is no stream and has no record.
pub(crate) struct Waiting<S, ReqB, C> {
    service: S,
    request: Request<ReqB>,
    shared: Arc<Shared<C>>,
    slot: Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>,
    abandoned: Abandoned<C>,
}

/// Counts a call that is dropped while it waits.
struct Abandoned<C> {
    shared: Option<Arc<Shared<C>>>,
    count: fn(&Shared<C>),
}

struct Running {
    method: Method,
    tee: Tee,
    guard: Guard,
}

// === impl ResponseFuture ===

impl<S, ReqB, C, R> ResponseFuture<S, ReqB, C, R>
where
    R: MapRequest<ReqB>,
    S: Service<Request<R::Body>>,
    C: Send + Sync + 'static,
{
    /// Admits the call, or has it wait or be rejected.
    pub(crate) fn new(shared: &Arc<Shared<C>>, service: &mut S, request: Request<ReqB>) -> Self
    where
        S: Clone,
    {
        let state = match shared.try_slot() {
            Ok(slot) => running::<_, _, _, R>(shared, service, request, slot),
            Err(wait) if wait => {
                // The clone stays behind; `service` is the one that was polled ready.
                let clone = service.clone();
                let waiting = Waiting {
                    service: mem::replace(service, clone),
                    request,
                    shared: Arc::clone(shared),
                    slot: Box::pin(shared.slot()),
                    abandoned: Abandoned { shared: Some(Arc::clone(shared)), count: Shared::abandoned },
                };
                State::Waiting { waiting: Some(waiting) }
            }
            Err(_) => rejected(shared),
        };
        Self { state, _request: PhantomData }
    }
}

impl<S, ReqB, ResB, C, R> Future for ResponseFuture<S, ReqB, C, R>
where
    R: MapRequest<ReqB>,
    S: Service<Request<R::Body>, Response = Response<ResB>>,
    S::Error: Display,
    ResB: Body,
    C: Send + Sync + 'static,
{
    type Output = Result<Response<AccumulatorBody<ResB>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Waiting { waiting } => {
                    let polled = waiting.as_mut().map(|waiting| waiting.slot.as_mut().poll(cx));
                    let slot = ready!(polled.expect("polled after it was ready"));
                    let waiting = waiting.take().expect("present: it was just polled");
                    let Waiting { mut service, request, shared, slot: _, mut abandoned } = waiting;
                    abandoned.shared = None;
                    match slot {
                        Some(slot) => running::<_, _, _, R>(&shared, &mut service, request, slot),
                        // Closed: the shutdown has begun.
                        None => rejected(&shared),
                    }
                }
                StateProj::Running { future, running } => {
                    let guard = &running.as_ref().expect("polled after it was ready").guard;
                    let result = ready!(guard.pipeline().in_poll(|| future.poll(cx)));
                    let running = running.take().expect("present: it was just used");
                    return Poll::Ready(running.finish(result));
                }
                StateProj::Rejected => return Poll::Ready(Ok(rejection())),
            };
            state.set(next);
        }
    }
}

fn running<S, ReqB, C, R>(
    shared: &Arc<Shared<C>>,
    service: &mut S,
    request: Request<ReqB>,
    slot: OwnedSemaphorePermit,
) -> State<S::Future, Waiting<S, ReqB, C>>
where
    R: MapRequest<ReqB>,
    S: Service<Request<R::Body>>,
    C: Send + Sync + 'static,
{
    let method = request.method().clone();
    let (request, guard) = shared.open(request, slot);
    let (parts, body) = request.into_parts();
    let body = R::map(body, &parts.headers, guard.handle());
    let request = Request::from_parts(parts, body);
    let future = guard.pipeline().in_poll(|| service.call(request));
    let tee = shared.tee(&guard);
    State::Running { future, running: Some(Running { method, tee, guard }) }
}

fn rejected<F, W, C: Send + Sync + 'static>(shared: &Shared<C>) -> State<F, W> {
    shared.rejected();
    State::Rejected
}

fn rejection<B>() -> Response<AccumulatorBody<B>> {
    let mut response = Response::new(AccumulatorBody::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

// === impl Abandoned ===

impl<C> Drop for Abandoned<C> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            (self.count)(&shared);
        }
    }
}

// === impl Running ===

impl Running {
    fn finish<B: Body, E: Display>(
        self,
        result: Result<Response<B>, E>,
    ) -> Result<Response<AccumulatorBody<B>>, E> {
        let Self { method, mut tee, mut guard } = self;
        match result {
            Ok(response) => {
                // The body's own code runs here too.
                let head = guard.pipeline().in_poll(|| head_of(&method, &response));
                tee.bodiless = head.bodiless;
                guard.pipeline().set_head(head);
                tee.is_metered = guard.pipeline().meter_answer();
                Ok(response.map(|inner| AccumulatorBody::new(inner, tee, guard)))
            }
            Err(error) => {
                let text = error.to_string().into();
                guard.settle(Signal::Error(StreamError::Service(text)), None);
                Err(error)
            }
        }
    }
}

/// What has to be known of a response before its body runs.
fn head_of<B: Body>(method: &Method, response: &Response<B>) -> ResponseHead {
    let status = response.status();
    let body = response.body();
    // hyper's own order: an exact hint wins over the header.
    let (declared, bad_length) = match body.size_hint().exact() {
        Some(length) => (Some(length), None),
        None => content_length(response.headers()),
    };
    ResponseHead {
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
