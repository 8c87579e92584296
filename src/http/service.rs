//! The middleware's service.

use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::http::admission::Shared;
use crate::http::body::AccumulatorBody;
use crate::http::future::ResponseFuture;
use crate::http::request_body::{AsIs, MapRequest};

/// Makes every response of the service inside it accountable. See the [crate docs](crate).
///
/// Made by [`StreamingAccumulatorLayer`](crate::StreamingAccumulatorLayer).
pub struct StreamingAccumulator<S, C = (), R = AsIs> {
    inner: S,
    shared: Arc<Shared<C>>,
    request: PhantomData<fn() -> R>,
}

// === impl StreamingAccumulator ===

impl<S, C, R> StreamingAccumulator<S, C, R> {
    pub(crate) fn new(inner: S, shared: Arc<Shared<C>>) -> Self {
        Self { inner, shared, request: PhantomData }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, C, R, ReqB, ResB> Service<Request<ReqB>> for StreamingAccumulator<S, C, R>
where
    R: MapRequest<ReqB>,
    // Clone, so that a call that waits for a slot can take the service that is ready along.
    S: Service<Request<R::Body>, Response = Response<ResB>> + Clone,
    S::Error: Display,
    ResB: Body,
    C: Send + Sync + 'static,
{
    type Response = Response<AccumulatorBody<ResB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqB, C, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        ResponseFuture::new(&self.shared, &mut self.inner, request)
    }
}

impl<S: Clone, C, R> Clone for StreamingAccumulator<S, C, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared), request: PhantomData }
    }
}

impl<S: fmt::Debug, C, R> fmt::Debug for StreamingAccumulator<S, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamingAccumulator").field("inner", &self.inner).finish_non_exhaustive()
    }
}
