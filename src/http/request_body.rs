//! The request's body, read as it streams through.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::stream::state::{Pipeline, StreamHandle};

/// What a layer makes of the bodies of requests: nothing ([`AsIs`]), or bodies that are read as they stream
/// through ([`CaptureRequest`]).
///
/// It is implemented by these two and by nothing else. They are the last type parameter of the layer, its builder
/// and its service; those who do not call [`Builder::capture_request`](crate::Builder::capture_request) never
/// see it.
pub trait MapRequest<B>: sealed::Sealed + 'static {
    /// The body that the inner service gets.
    type Body;

    #[doc(hidden)]
    fn map(body: B, headers: &HeaderMap, stream: &StreamHandle) -> Self::Body;
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::AsIs {}
    impl Sealed for super::CaptureRequest {}
}

/// The inner service gets the bodies of requests as they are. See [`MapRequest`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AsIs;

/// The inner service gets each request with a [`RequestBody`]. See [`MapRequest`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CaptureRequest;

pin_project! {
    /// The body of a request to a layer with
    /// [`capture_request`](crate::Builder::capture_request): forwards the client's body frame by frame, and has
    /// the JSON in it read on the way.
    ///
    /// Frames, trailers, errors, size hint and end hint are those of the body inside.
    pub struct RequestBody<B> {
        #[pin]
        inner: B,
        // None where the body is not read.
        stream: Option<Arc<Pipeline>>,
    }
}

// === impl AsIs ===

impl<B> MapRequest<B> for AsIs {
    type Body = B;

    fn map(body: B, _: &HeaderMap, _: &StreamHandle) -> B {
        body
    }
}

// === impl CaptureRequest ===

impl<B: Body<Data = Bytes>> MapRequest<B> for CaptureRequest {
    type Body = RequestBody<B>;

    fn map(body: B, headers: &HeaderMap, stream: &StreamHandle) -> RequestBody<B> {
        let pipeline = stream.pipeline();
        let wanted = !body.is_end_stream() && may_be_json(headers);
        let is_read = wanted && pipeline.read_request();
        RequestBody { inner: body, stream: is_read.then(|| Arc::clone(pipeline)) }
    }
}

/// Whether a request's body looks like JSON that can be read: it says so or says nothing, and is not packed. What
/// `curl -d` says of every body counts as nothing.
fn may_be_json(headers: &HeaderMap) -> bool {
    let is = |name: HeaderName, test: fn(&str) -> bool| {
        headers.get(name).is_none_or(|value| value.to_str().is_ok_and(test))
    };
    is(CONTENT_ENCODING, |coding| coding.trim().eq_ignore_ascii_case("identity"))
        && is(CONTENT_TYPE, |kind| {
            let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            kind == "application/json"
                || kind.ends_with("+json")
                || kind == "application/x-www-form-urlencoded"
        })
}

// === impl RequestBody ===

impl<B> RequestBody<B> {
    /// The client's body. What is pulled from it is not read.
    pub fn into_inner(self) -> B {
        self.inner
    }
}

impl<B: Body<Data = Bytes>> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let polled = this.inner.poll_frame(cx);
        if let (Some(stream), Poll::Ready(Some(Ok(frame)))) = (this.stream, &polled)
            && let Some(data) = frame.data_ref()
        {
            stream.metered().feed_request(data);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("is_read", &self.stream.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: Option<&str>, coding: Option<&str>) -> HeaderMap {
        let pairs = [(CONTENT_TYPE, kind), (CONTENT_ENCODING, coding)];
        pairs.into_iter().filter_map(|(name, value)| Some((name, value?.parse().unwrap()))).collect()
    }

    #[test]
    fn json_is_told_by_its_headers() {
        let kinds = [
            (None, true),
            (Some("application/json"), true),
            (Some("Application/JSON; charset=utf-8"), true),
            (Some("application/vnd.api+json"), true),
            (Some("application/jsonl"), false),
            (Some("text/plain"), false),
            (Some("multipart/form-data; boundary=+json"), false),
            (Some(""), false),
        ];
        for (kind, expected) in kinds {
            assert_eq!(may_be_json(&headers(kind, None)), expected, "{kind:?}");
            assert_eq!(may_be_json(&headers(kind, Some("identity"))), expected, "{kind:?}");
            assert!(!may_be_json(&headers(kind, Some("gzip"))), "{kind:?}");
        }
    }
}
