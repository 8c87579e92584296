//! The layer.

use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use super::service::StreamingAccumulator;
use super::shared::LayerShared;
use crate::delivery::Handle;

/// The layer. See the [crate docs](crate).
///
/// Clones share everything: slots, hooks, workers, the audit. Install one clone in one place; installed twice around a
/// service there are two streams and two records of each exchange.
///
/// `C` is what [`Builder::context`](crate::Builder::context) makes of a request's head.
pub struct StreamingAccumulatorLayer<C = ()> {
    shared: Arc<LayerShared<C>>,
}

// === impl StreamingAccumulatorLayer ===

impl<C> StreamingAccumulatorLayer<C> {
    pub(crate) fn new(shared: LayerShared<C>) -> Self {
        Self { shared: Arc::new(shared) }
    }

    /// The handle by which the layer is watched, and shut down.
    pub fn handle(&self) -> Handle<C> {
        Handle::new(Arc::clone(&self.shared.dispatcher))
    }
}

impl<S, C> Layer<S> for StreamingAccumulatorLayer<C> {
    type Service = StreamingAccumulator<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        StreamingAccumulator::new(inner, Arc::clone(&self.shared))
    }
}

impl<C> Clone for StreamingAccumulatorLayer<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<C> fmt::Debug for StreamingAccumulatorLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamingAccumulatorLayer").finish_non_exhaustive()
    }
}
