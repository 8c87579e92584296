//! TODO

pub(crate) mod admission;
pub(crate) mod body;
pub(crate) mod builder;
pub(crate) mod future;
pub(crate) mod layer;
pub(crate) mod request_body;
pub(crate) mod service;
