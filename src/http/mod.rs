//! Tower and hyper: the layer, its service, the response's future and body, and the builder of them all.

mod body;
mod body_error;
mod builder;
#[cfg(feature = "llm")]
mod capture_request;
mod layer;
mod response_future;
mod service;
mod shared;

pub use self::body::AccumulatorBody;
pub use self::body_error::BodyError;
pub use self::builder::{Builder, NoHooks, WithHooks};
#[cfg(feature = "llm")]
pub use self::capture_request::{CaptureRequest, CaptureRequestLayer, RequestBody};
pub use self::layer::StreamingAccumulatorLayer;
pub use self::response_future::{Rejected, ResponseFuture};
pub use self::service::StreamingAccumulator;
