//! The built-in meter: detects which framing and protocol a stream has.
//!
//! Content types are not enough: events come as `application/json`, arrays of JSON as such, and much without any
//! type. The first byte therefore decides the framing, with the help of the content type where it is ambiguous. The
//! first unmistakable event decides the protocol. The path helps with events that could be of any protocol (an error,
//! a ping). What stays ambiguous is unknown.

mod auto_meter;
mod event_template;
mod grpc_body;
mod host;
mod path_hint;
mod protocol_reader;
mod signature;

pub(crate) use self::auto_meter::AutoMeter;
pub(crate) use self::host::provider_of_host;
pub(crate) use self::path_hint::PathHint;
