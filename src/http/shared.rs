//! What the layer and its services share.

use std::sync::Arc;

use http::request::Parts;

use crate::delivery::dispatcher::Dispatcher;

/// What the layer and its services share.
pub(crate) struct LayerShared<C> {
    pub(crate) dispatcher: Arc<Dispatcher<C>>,
    pub(crate) context: MakeContext<C>,
    pub(crate) filter: Option<Filter>,
}

pub(crate) type MakeContext<C> = Box<dyn Fn(&Parts) -> C + Send + Sync>;
pub(crate) type Filter = Box<dyn Fn(&Parts) -> bool + Send + Sync>;
