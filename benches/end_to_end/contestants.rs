//! The layers that are compared, each around the same handler.
//!
//! No `tracing` subscriber is set, so that spans and events cost each layer as little as they can.

use std::convert::Infallible;

use axum::body::Body as AxumBody;
use http::{Request, Response};
use outlet::{RequestData, RequestHandler, RequestLoggerConfig, RequestLoggerLayer, ResponseData};
use streaming_accumulator::{Capture, StreamingAccumulatorLayer};
use tokio::net::TcpListener;
use tower::{Layer, Service, ServiceExt};
use tower_http::trace::TraceLayer;

use super::server::serve;
use super::workload::{Answer, Workload};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    NoLayer,
    NoLayerAgain,
    /// This layer, without capture, with a hook that does nothing.
    NoCapture,
    /// This layer as it comes, with a hook that does nothing.
    Defaults,
    Trace,
    Outlet,
}

impl Contestant {
    pub(crate) const ALL: [Self; 6] =
        [Self::NoLayer, Self::NoLayerAgain, Self::NoCapture, Self::Defaults, Self::Trace, Self::Outlet];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NoLayer => "no layer",
            Self::NoLayerAgain => "no layer again",
            Self::NoCapture => "this, none()",
            Self::Defaults => "this, default",
            Self::Trace => "TraceLayer",
            Self::Outlet => "outlet",
        }
    }

    /// Serves this contestant for ever. The service's type is that of the layer: nothing is boxed that the
    /// layer does not box itself.
    pub(crate) async fn serve(self, listener: TcpListener) {
        match self {
            Self::NoLayer | Self::NoLayerAgain => serve(listener, handler()).await,
            Self::NoCapture => serve(listener, ours(Some(Capture::none())).layer(handler())).await,
            Self::Defaults => serve(listener, ours(None).layer(handler())).await,
            Self::Trace => serve(listener, TraceLayer::new_for_http().layer(handler())).await,
            Self::Outlet => serve(listener, outlet()).await,
        }
    }
}

fn handler<B: Send + 'static>() -> impl Service<
    Request<B>,
    Response = Response<Answer>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Answer>, Infallible>> + Send + 'static,
> + Clone
+ Send
+ 'static {
    tower::service_fn(|request: Request<B>| {
        let workload = Workload::at(request.uri().path()).expect("the client asks for a workload's path");
        std::future::ready(Ok(Response::new(workload.answer())))
    })
}

fn ours(capture: Option<Capture>) -> StreamingAccumulatorLayer {
    let mut builder = StreamingAccumulatorLayer::builder();
    if let Some(capture) = capture {
        builder = builder.capture(capture);
    }
    builder.on_end(async |_| ()).build().expect("a valid configuration")
}

/// outlet takes and returns axum's boxed bodies only: the boxes are part of what it costs.
fn outlet()
-> impl Service<Request<hyper::body::Incoming>, Response = Response<AxumBody>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    struct Nothing;

    impl RequestHandler for Nothing {
        async fn handle_request(&self, _: RequestData) {}

        async fn handle_response(&self, _: RequestData, _: ResponseData) {}
    }

    let boxed = handler().map_response(|response: Response<Answer>| response.map(AxumBody::new));
    let layer = RequestLoggerLayer::new(RequestLoggerConfig::default(), Nothing);
    layer.layer(boxed).map_request(|request: Request<_>| request.map(AxumBody::new))
}
