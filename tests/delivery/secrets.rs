//! `Debug` and `Display` of what a user may log: they name no query, no header's value and no content.

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::ready;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Request, Response};
use streaming_accumulator::stream::StreamPipeline;
use streaming_accumulator::{
    BackpressureStrategy, Capture, ContentAccumulator, Outcome, PushError, RetryPolicy, StreamHandle,
    StreamingAccumulatorLayer,
};
use tower::{Layer, Service, ServiceExt};

use crate::support::{MockBody, Records, body, next, open, settled};

const SECRET: &str = "SECRET";

#[track_caller]
fn assert_silent(shown: impl Debug) {
    for text in [format!("{shown:?}"), format!("{shown:#?}")] {
        assert!(!text.contains(SECRET), "{text}");
        // As a list of bytes.
        assert!(!text.contains("83, 69, 67, 82, 69, 84"), "{text}");
    }
}

fn secret_value() -> HeaderValue {
    HeaderValue::from_static("SECRET")
}

fn secret_headers() -> HeaderMap {
    [("authorization", secret_value()), ("x-other", secret_value())]
        .into_iter()
        .map(|(name, value)| (http::HeaderName::from_static(name), value))
        .collect()
}

fn request() -> Request<()> {
    let mut request = Request::post("/path?key=SECRET").body(()).unwrap();
    *request.headers_mut() = secret_headers();
    request
}

fn response() -> Response<MockBody> {
    let trailers = crate::support::body::Step::Trailers(secret_headers());
    let mut response = Response::new(body(["SECRET", "SECRET"]).then(trailers));
    *response.headers_mut() = secret_headers();
    response
}

#[tokio::test(start_paused = true)]
async fn debug_of_a_stream_names_no_secret() {
    for capture in [Capture::all(100), Capture::all(3), Capture::tail(9), Capture::head_tail(3, 3)] {
        let seen = Records::default();
        let layer = StreamingAccumulatorLayer::builder()
            .context(|_| "the context is shown")
            .capture(capture)
            .on_end(seen.hook())
            .on_end(|_| ready(Err::<(), _>("down")))
            .retry(RetryPolicy::none())
            .on_dead_letter(|letter| assert_silent(letter))
            .build()
            .unwrap();
        let handle = layer.handle();
        let mut service = layer.layer(tower::service_fn(|request: Request<()>| {
            assert_silent(request.extensions().get::<StreamHandle>().unwrap());
            ready(Ok::<_, Infallible>(response()))
        }));
        assert_silent((&layer, &handle, &service));
        let future = service.ready().await.unwrap().call(request());
        assert_silent(&future);
        let response = future.await.unwrap();
        let stream = response.extensions().get::<StreamHandle>().unwrap().clone();
        let (tap, mut group) = (stream.tap(), stream.consumer_group().lossless());
        let mut body = response.into_body();
        assert_silent(&body);
        next(&mut body).await.unwrap().unwrap();
        assert_silent((&body, &stream, handle.streams(), &tap, &group, stream.metrics(), stream.snapshot()));
        assert!(SECRET.as_bytes().starts_with(&group.recv().await.unwrap().bytes));
        while next(&mut body).await.is_some() {}
        assert_silent((&body, &stream, &tap));
        drop(body);
        settled(&handle).await;

        let record = seen.only();
        assert_eq!(record.uri().query(), Some("key=SECRET"));
        assert_eq!(record.headers().unwrap()["x-other"], SECRET);
        assert_eq!(record.trailers().unwrap()["x-other"], SECRET);
        assert_silent((&record, record.content(), record.metrics(), record.outcome()));
        assert!(format!("{record:?}").contains("the context is shown"));
        assert!(format!("{record:?}").contains("/path"));
        assert_silent((handle.dead_letters(), handle.audit()));
        assert_silent(handle.shutdown(Duration::from_secs(1)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn debug_of_a_pipeline_names_no_secret() {
    let pipeline = StreamPipeline::builder()
        .request(http::Method::GET, "/path?key=SECRET".parse().unwrap())
        .buffer_limit(1)
        .backpressure(BackpressureStrategy::Reject)
        .build();
    let mut tap = pipeline.tap().lossless();
    pipeline.push(Bytes::from(SECRET)).await.unwrap();
    assert_silent((&pipeline, pipeline.handle(), pipeline.snapshot(), &tap));
    let error = pipeline.push(Bytes::from(SECRET)).await.unwrap_err();
    assert!(matches!(error, PushError::Failed(_)));
    assert_silent((&error, error.to_string(), &pipeline, pipeline.outcome()));
    assert_eq!(tap.next().await.unwrap(), SECRET);
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_layer_name_no_secret() {
    let layer = StreamingAccumulatorLayer::builder().capture(Capture::all(3).or_fail()).build().unwrap();
    for end in ["cancel", "too large"] {
        let mut flow = open(&layer).await;
        match end {
            "cancel" => drop(flow.handle.cancel()),
            _ => flow.feed.push(SECRET),
        }
        let error = flow.pull().await.unwrap().unwrap_err();
        assert_silent((&error, error.to_string(), error.stream_error()));
        let outcome = flow.handle.ended().await;
        assert_silent((&outcome, outcome.to_string()));
        assert_ne!(outcome, Outcome::Completed);
    }
}

#[test]
fn debug_of_an_accumulator_names_no_secret() {
    let accumulator = ContentAccumulator::new(8);
    accumulator.append(Bytes::from(SECRET)).unwrap();
    let refused = accumulator.append(Bytes::from(SECRET)).unwrap_err();
    assert_silent((&accumulator, accumulator.snapshot(), &refused, refused.to_string()));
    assert_silent(accumulator.snapshot().chunks().map(Result::unwrap).count());
}

#[tokio::test(start_paused = true)]
async fn debug_of_a_chunk_names_no_content() {
    let pipeline = StreamPipeline::new(8);
    pipeline.push(Bytes::from(SECRET)).await.unwrap();
    let chunk = pipeline.tap().recv().await.unwrap();
    assert_eq!(chunk.bytes, SECRET);
    assert_silent(chunk);
}

#[test]
fn debug_of_a_pipelines_builder_names_no_query() {
    let uri = "/path?key=SECRET".parse().unwrap();
    assert_silent(StreamPipeline::builder().request(http::Method::GET, uri));
    assert_silent(StreamPipeline::builder().content_type(secret_value()));
}
