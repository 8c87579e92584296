//! Which protocol a stream speaks.
//!
//! Content types do not tell: events come as `application/json`, arrays of JSON as such, and much without any
//! type. So the first byte tells the framing, with the content type's help where it is ambiguous, and the first
//! event that is unmistakable tells the protocol. The path helps with events that could be of any (an error, a
//! ping). What stays ambiguous is unknown.

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
