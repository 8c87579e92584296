//! What is known of a response before its body.

use http::{HeaderMap, Method, StatusCode, Uri};

/// What is known of a response before its body, for the choice of a meter.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ResponseHead<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// The request's URI, query included.
    pub uri: &'a Uri,
    /// The response's status.
    pub status: StatusCode,
    /// The response's headers.
    pub headers: &'a HeaderMap,
}

// === impl ResponseHead ===

impl<'a> ResponseHead<'a> {
    /// The head of a response with this status and these headers, to a request of this method and URI.
    pub fn new(method: &'a Method, uri: &'a Uri, status: StatusCode, headers: &'a HeaderMap) -> Self {
        Self { method, uri, status, headers }
    }
}
