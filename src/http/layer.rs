//! The layer.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use tower_layer::Layer;

use crate::http::admission::Shared;
use crate::delivery::handle::Handle;
use crate::http::request_body::AsIs;
use crate::http::service::StreamingAccumulator;

/// The layer. See the [crate docs](crate).
///
/// Clones share everything: slots, hooks, workers, the audit. Install one clone in one place; installed
/// twice around a service there are two streams and two records of each exchange.
///
/// `C` is what [`Builder::context`](crate::Builder::context) makes of a request's head; `R` says whether the inner
/// service gets the request's body [as it is](AsIs), or as
/// [`Builder::capture_request`](crate::Builder::capture_request) wants it.
pub struct StreamingAccumulatorLayer<C = (), R = AsIs> {
    shared: Arc<Shared<C>>,
    request: PhantomData<fn() -> R>,
}

// === impl StreamingAccumulatorLayer ===

impl<C, R> StreamingAccumulatorLayer<C, R> {
    pub(crate) fn new(shared: Shared<C>) -> Self {
        Self { shared: Arc::new(shared), request: PhantomData }
    }

    /// The handle by which the layer is watched, and shut down.
    pub fn handle(&self) -> Handle<C> {
        Handle::new(Arc::clone(&self.shared.dispatcher))
    }
}

impl<S, C, R> Layer<S> for StreamingAccumulatorLayer<C, R> {
    type Service = StreamingAccumulator<S, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        StreamingAccumulator::new(inner, Arc::clone(&self.shared))
    }
}

impl<C, R> Clone for StreamingAccumulatorLayer<C, R> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), request: PhantomData }
    }
}

impl<C, R> fmt::Debug for StreamingAccumulatorLayer<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamingAccumulatorLayer").finish_non_exhaustive()
    }
}
