//! The stacks that are compared: the same handler under each layer.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::Body as AxumBody;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use outlet::{RequestData, RequestHandler, RequestLoggerConfig, RequestLoggerLayer, ResponseData};
use streaming_accumulator::{BoxError, Capture, StreamingAccumulatorLayer};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceExt};
use tower_http::on_early_drop::{OnBodyDropFn, OnEarlyDropLayer};
use tower_http::trace::TraceLayer;

use super::body::Frames;
use super::mutex_design::MutexBody;

pub(crate) const NONE: &str = "none";
pub(crate) const ALL: &str = "this, all(64 MiB)";
pub(crate) const TRACE: &str = "TraceLayer";
pub(crate) const OUTLET: &str = "outlet, full capture";

/// Boxed alike whatever the layer, since axum boxes the body of whatever layer it is given. The stack
/// without a layer is boxed too, so that what a layer adds is its own work.
type BoxedBody = UnsyncBoxBody<Bytes, BoxError>;
type Stack = BoxCloneService<Request<AxumBody>, Response<BoxedBody>, BoxError>;

/// One layer around the handler.
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    stack: Stack,
    /// A permit for each record that was handed to the user; none where there are no records.
    records: Option<Arc<Semaphore>>,
}

/// All of them. For a runtime's context: some layers spawn when they are made.
pub(crate) fn all() -> Vec<Contestant> {
    vec![
        Contestant::new(NONE, handler()),
        ours("this, none()", Some(Capture::none())),
        ours("this, tail(16 KiB)", Some(Capture::tail(16 * 1024))),
        ours("this, default", None),
        ours(ALL, Some(Capture::all(64 * 1024 * 1024))),
        on_early_drop(),
        Contestant::new(TRACE, TraceLayer::new_for_http().layer(handler())),
        outlet(),
        mutex_design(),
    ]
}

fn handler() -> impl Service<
    Request<AxumBody>,
    Response = Response<AxumBody>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<AxumBody>, Infallible>> + Send + 'static,
> + Clone
+ Send
+ 'static {
    tower::service_fn(|request: Request<AxumBody>| async move {
        let frames = request.extensions().get::<Frames>().cloned();
        Ok(Response::new(AxumBody::new(frames.expect("put there by `stream`"))))
    })
}

fn ours(name: &'static str, capture: Option<Capture>) -> Contestant {
    let mut builder = StreamingAccumulatorLayer::builder();
    if let Some(capture) = capture {
        builder = builder.capture(capture);
    }
    let records = Arc::new(Semaphore::new(0));
    let delivered = Arc::clone(&records);
    let layer = builder.on_end(move |_| {
        delivered.add_permits(1);
        std::future::ready(())
    });
    let layer = layer.build().expect("a valid configuration");
    Contestant::new(name, layer.layer(handler())).recorded(records)
}

fn on_early_drop() -> Contestant {
    let on_drop = OnBodyDropFn::new(|_: &Request<AxumBody>| |_: &http::response::Parts| || ());
    let layer = OnEarlyDropLayer::builder().on_body_drop(on_drop);
    Contestant::new("OnEarlyDropLayer", layer.layer(handler()))
}

fn outlet() -> Contestant {
    struct Deliver(Arc<Semaphore>);

    impl RequestHandler for Deliver {
        async fn handle_request(&self, _: RequestData) {}

        async fn handle_response(&self, _: RequestData, _: ResponseData) {
            self.0.add_permits(1);
        }
    }

    let records = Arc::new(Semaphore::new(0));
    let handler_of_records = Deliver(Arc::clone(&records));
    let layer = RequestLoggerLayer::new(RequestLoggerConfig::default(), handler_of_records);
    Contestant::new(OUTLET, layer.layer(handler())).recorded(records)
}

fn mutex_design() -> Contestant {
    let records = Arc::new(Semaphore::new(0));
    let delivered = Arc::clone(&records);
    let wrap = move |response: Response<AxumBody>| {
        let delivered = Arc::clone(&delivered);
        response.map(|body| {
            MutexBody::new(body, move |text| {
                std::hint::black_box(text);
                delivered.add_permits(1);
            })
        })
    };
    Contestant::new("mutex + task", handler().map_response(wrap)).recorded(records)
}

// === impl Contestant ===

impl Contestant {
    fn new<S, B>(name: &'static str, service: S) -> Self
    where
        S: Service<Request<AxumBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let stack = service
            .map_response(|response| response.map(|body| BoxedBody::new(body.map_err(Into::into))))
            .map_err(Into::into)
            .boxed_clone();
        Self { name, stack, records: None }
    }

    fn recorded(mut self, records: Arc<Semaphore>) -> Self {
        self.records = Some(records);
        self
    }

    /// Runs one stream of `frames` to its end, polled by hand. Returns two times: that of polling the body
    /// to its end and dropping it, which is what the client waits for; and that from the call until the
    /// user has the record, which is all work, whoever does it.
    pub(crate) async fn stream(&mut self, frames: Frames) -> (Duration, Duration) {
        let mut request = Request::new(AxumBody::empty());
        request.extensions_mut().insert(frames);
        let called = Instant::now();
        let response = self.stack.ready().await.expect("is ready").call(request).await;
        let body = response.expect("infallible").into_body();
        let opened = Instant::now();
        drain(body);
        let polled = opened.elapsed();
        if let Some(records) = &self.records {
            records.acquire().await.expect("never closed").forget();
        }
        (polled, called.elapsed())
    }
}

/// Polls `body` to its end and drops it, as a server does.
fn drain(body: BoxedBody) {
    let mut body = pin!(body);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match body.as_mut().poll_frame(&mut cx) {
            Poll::Ready(Some(frame)) => drop(std::hint::black_box(frame.expect("infallible"))),
            Poll::Ready(None) => return,
            Poll::Pending => unreachable!("the frames are always ready"),
        }
    }
}
