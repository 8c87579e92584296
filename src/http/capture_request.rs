//! Reading requests as they stream through.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::stream::handle::StreamHandle;
use crate::stream::state::StreamState;

/// Reads the JSON of requests as it streams through: [`StreamRecord::llm`](crate::StreamRecord::llm) then knows the
/// model that was asked for, and an estimator of tokens knows what a cut stream was given.
///
/// It is a layer of its own, *inside* a [`StreamingAccumulatorLayer`](crate::StreamingAccumulatorLayer), whose
/// [`StreamHandle`] it finds in the request's extensions; without one it reads nothing. The inner service gets requests
/// with a [`RequestBody`] around the client's body, frame by frame the same. Requests whose `content-type` is neither
/// JSON nor missing nor `curl -d`'s own, and those with a `content-encoding`, go by unread. What is read is charged to
/// the outer layer's memory budget; where that has no room, the prompt is let go and reading ends.
///
/// ```
/// use streaming_accumulator::meter::MeterSet;
/// use streaming_accumulator::{CaptureRequestLayer, StreamingAccumulatorLayer};
/// use tower::ServiceBuilder;
///
/// let layer = StreamingAccumulatorLayer::builder()
///     .meter(MeterSet::detect())
///     .on_end(|record| async move { println!("{:?}", record.llm().and_then(|llm| llm.model())) })
///     .build()?;
/// let stack = ServiceBuilder::new().layer(layer).layer(CaptureRequestLayer::new(64 * 1024));
/// # let _ = stack;
/// # Ok::<(), streaming_accumulator::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct CaptureRequestLayer {
    max: usize,
}

/// The service of a [`CaptureRequestLayer`].
#[derive(Clone, Debug)]
pub struct CaptureRequest<S> {
    inner: S,
    max: usize,
}

pin_project! {
    /// The body of a request that went through [`CaptureRequest`]: forwards the client's body frame by frame, and reads
    /// the JSON in it on the way.
    ///
    /// Frames, trailers, errors, size hint and end hint are those of the body inside.
    pub struct RequestBody<B> {
        #[pin]
        inner: B,
        // None where the body is not read.
        stream: Option<Arc<StreamState>>,
    }
}

// === impl CaptureRequestLayer ===

impl CaptureRequestLayer {
    /// Keeps at most `max` bytes of each request. 0 keeps the model's name only.
    pub fn new(max: usize) -> Self {
        Self { max }
    }
}

impl<S> Layer<S> for CaptureRequestLayer {
    type Service = CaptureRequest<S>;

    fn layer(&self, inner: S) -> CaptureRequest<S> {
        CaptureRequest { inner, max: self.max }
    }
}

// === impl CaptureRequest ===

impl<S> CaptureRequest<S> {
    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside, to change it.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service inside, without the layer.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B> Service<Request<B>> for CaptureRequest<S>
where
    S: Service<Request<RequestBody<B>>>,
    B: Body<Data = Bytes>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let (parts, body) = request.into_parts();
        let wanted = !body.is_end_stream() && may_be_json(&parts.headers);
        let stream = parts.extensions.get::<StreamHandle>().filter(|_| wanted).map(StreamHandle::state);
        let stream = stream.inspect(|stream| stream.read_request(self.max)).cloned();
        self.inner.call(Request::from_parts(parts, RequestBody { inner: body, stream }))
    }
}

/// Whether a request's body looks like JSON that can be read: its media type is JSON or missing, and it is not
/// compressed. `curl -d` says of every body that it is a form, so that counts as missing.
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
    /// The client's body.
    pub fn get_ref(&self) -> &B {
        &self.inner
    }

    /// The client's body, to change it. What is pulled from it is not read.
    pub fn get_mut(&mut self) -> &mut B {
        &mut self.inner
    }

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
            stream.meters().feed_request(data);
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
    fn json_is_known_by_its_headers() {
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
