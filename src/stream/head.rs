//! What a stream keeps of its request and its response.

use http::{HeaderMap, Method, StatusCode, Uri, Version};

/// What of the request the record keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
}

/// What of the inner response the decision and the record need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResponseFacts {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The response has no content, whatever its body yields.
    pub(crate) bodiless: bool,
    /// The inner body said `is_end_stream` at hand-over.
    pub(crate) empty: bool,
    /// Bytes: the body's exact size hint, else a usable `content-length`.
    pub(crate) declared: Option<u64>,
    /// A `content-length` that cannot be used.
    pub(crate) bad_length: Option<Box<str>>,
}
