//! Framings: what separates the events of a response.
//!
//! Each decoder is fed bytes that are cut anywhere, and yields whole events. Decoders do not know providers.
//!
//! | file | framing |
//! |---|---|
//! | `sse` | server-sent events |
//! | `ndjson` | lines of JSON |
//! | `json` | one JSON document, or one array of them |
//! | `event_stream` | AWS event streams |
//! | `grpc` | messages of gRPC and gRPC-Web |
//!
//! `lines` cuts bytes into lines and stands below the others.

mod event_stream;
mod grpc;
mod json;
mod lines;
mod ndjson;
mod sse;
mod sse_event;

pub use self::event_stream::{EventStreamDecoder, EventStreamError, EventStreamMessage, EventStreamValue};
pub use self::grpc::GrpcDecoder;
pub use self::json::JsonDecoder;
pub use self::ndjson::NdjsonDecoder;
pub use self::sse::SseDecoder;
pub(crate) use self::sse::SseItem;
pub use self::sse_event::SseEvent;
