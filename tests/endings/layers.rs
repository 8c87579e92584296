//! Other layers outside ours.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, BodyStream, Limited, StreamBody};
use hyper::body::Incoming;
use streaming_accumulator::Evidence::{EndHint, EndOfBody, Error, Length, NoBody, Trailers};
use streaming_accumulator::{AccumulatorBody, Phase};
use tower::{Layer, Service, ServiceExt};
use tower_http::compression::CompressionLayer;
use tower_http::timeout::TimeoutBody;

use crate::support::*;

type Ours = AccumulatorBody<MockBody>;

/// Our layer inside a compression.
async fn compressed(body: MockBody) -> (Recorder, Server) {
    let recorder = Recorder::new();
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", "text/plain".parse().unwrap());
    let service = CompressionLayer::new().layer(recorder.around(answers([response])));
    (recorder, serve(Options::h1(), service).await)
}

async fn ask(server: &Server, method: Method) -> RawClient {
    let mut client = RawClient::connect(server.addr).await;
    let head =
        format!("{method} / HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n");
    client.send(head).await;
    client
}

#[tokio::test]
async fn compression_polls_again_after_the_end() {
    for hint in [false, true] {
        let (recorder, server) = compressed(body(["hello", "world"]).hint(hint)).await;
        let mut client = ask(&server, Method::GET).await;
        client.read_to_end().await;
        assert!(client.text().contains("content-encoding: gzip"), "{}", client.text());
        // It never asks for the hint.
        assert_eq!(recorder.account().await, completed(EndOfBody, 10));
    }
}

#[tokio::test]
async fn compression_with_other_ends() {
    for hint in [false, true] {
        let (recorder, server) = compressed(body(["hello"]).trailers().hint(hint)).await;
        ask(&server, Method::GET).await.read_to_end().await;
        assert_eq!(recorder.account().await, completed(Trailers, 5));

        let gate = Gate::new();
        let (recorder, server) = compressed(body(["hello"]).wait(&gate).hint(hint)).await;
        let client = ask(&server, Method::GET).await;
        gate.reached().await;
        client.fin().await;
        assert_eq!(recorder.account().await, cancelled(Phase::Body, 5));

        let (recorder, server) = compressed(body(["hello"]).yields().fails().hint(hint)).await;
        ask(&server, Method::GET).await.read_to_end().await;
        assert_eq!(recorder.account().await, failed("body", Phase::Body, Error, 5));
    }
}

#[tokio::test]
async fn compression_of_head() {
    for hint in [false, true] {
        let (recorder, server) = compressed(body(["hello"]).hint(hint)).await;
        ask(&server, Method::HEAD).await.read_to_end().await;
        assert_eq!(recorder.account().await, completed(NoBody, 0));
    }
}

/// Our layer around `response`, with `outer` around our body, over HTTP/1.1 with a client that reads on.
async fn wrapped<B>(
    response: Response<MockBody>,
    outer: impl Fn(Ours) -> B + Clone + Send + 'static,
) -> Account
where
    B: http_body::Body<Data = Bytes, Error: Into<streaming_accumulator::BoxError>> + Send + 'static,
{
    let recorder = Recorder::new();
    let inner = recorder.around(answers([response]));
    let service = handler(move |request: Request<Incoming>| {
        let response = inner.clone().call(request);
        let outer = outer.clone();
        async move { Ok(response.await?.map(|body| boxed(outer(body)))) }
    });
    let server = serve(Options::h1(), service).await;
    // Stays to the end: what ends the stream is on this side.
    let client = RawClient::get(server.addr).await;
    let account = recorder.account().await;
    drop(client);
    account
}

#[tokio::test]
async fn outer_timeout_of_the_body() {
    let gate = Gate::new();
    let body = body(["hello"]).wait(&gate);
    let account =
        wrapped(Response::new(body), |body| TimeoutBody::new(Duration::from_millis(20), body)).await;
    // Its cause is invisible from inside.
    assert_eq!(account, cancelled(Phase::Body, 5));
}

#[tokio::test]
async fn outer_adapters_that_hide_the_hints() {
    let full = || Response::new(body(["helloworld"]).exact().hint(true));
    let patient = wrapped(full(), |body| TimeoutBody::new(Duration::from_secs(60), body)).await;
    let rewrapped = wrapped(full(), |body| StreamBody::new(BodyStream::new(body))).await;
    let streamed = wrapped(full(), |body| axum::body::Body::from_stream(body.into_data_stream())).await;
    assert_eq!([patient, rewrapped, streamed], [completed(EndOfBody, 10); 3]);
}

#[tokio::test]
async fn outer_limit_below_a_stream() {
    for hint in [false, true] {
        let long = || Response::new(body(["hello", "world", "never"]).hint(hint));
        assert_eq!(wrapped(long(), |body| Limited::new(body, 7)).await, cancelled(Phase::Body, 10));

        let recorder = Recorder::new();
        let response = recorder.around(answers([long()])).oneshot(Request::new(())).await.unwrap();
        axum::body::to_bytes(axum::body::Body::new(response.into_body()), 7).await.unwrap_err();
        assert_eq!(recorder.account().await, cancelled(Phase::Body, 10));
    }
}

/// Not knowable: ours handed over all that it declared. Be outermost.
#[tokio::test]
async fn outer_limit_below_a_declared_length() {
    for (hint, evidence) in [(false, Length), (true, EndHint)] {
        let exact = Response::new(body(["hello", "world"]).exact().hint(hint));
        assert_eq!(wrapped(exact, |body| Limited::new(body, 7)).await, completed(evidence, 10));
    }
}

/// Not knowable: the outer layer took everything. Be outermost.
#[tokio::test]
async fn outer_layer_that_buffers() {
    for hint in [false, true] {
        let (recorder, gate) = (Recorder::new(), Gate::new());
        let inner = recorder.around(answers([Response::new(body(["hello", "world"]).hint(hint))]));
        let waiting = gate.clone();
        let service = handler(move |request: Request<Incoming>| {
            let (response, gate) = (inner.clone().call(request), waiting.clone());
            async move {
                let collected = response.await?.into_body().collect().await?;
                gate.passed().await;
                Ok(Response::new(boxed(collected.map_err(|never| match never {}))))
            }
        });
        let server = serve(Options::h1(), service).await;
        let client = RawClient::get(server.addr).await;
        gate.reached().await;
        client.fin().await;
        server.all_closed().await;
        // `collect` polls past the hint.
        assert_eq!(recorder.account().await, completed(EndOfBody, 10));
    }
}

#[tokio::test]
async fn outer_layer_that_replaces_the_response() {
    for hint in [false, true] {
        let recorder = Recorder::new();
        let inner = recorder.around(answers([Response::new(body(["hello"]).hint(hint))]));
        let service =
            ServiceExt::<Request<Incoming>>::map_response(inner, |_| Response::new(body(["other"])));
        let server = serve(Options::h1(), service).await;
        RawClient::get(server.addr).await.read_until("other").await;
        assert_eq!(recorder.account().await, cancelled(Phase::BeforeBody, 0));
    }
}

#[tokio::test]
async fn axum_router_outside() {
    for (hint, evidence) in [(false, EndOfBody), (true, EndHint)] {
        let recorder = Recorder::new();
        let route = recorder.around(answers([Response::new(body(["hello", "world"]).hint(hint))]));
        let infallible =
            |error: streaming_accumulator::BoxError| -> std::convert::Infallible { panic!("{error}") };
        let route = ServiceExt::<Request<axum::body::Body>>::map_err(route, infallible);
        let router: axum::Router = axum::Router::new().route_service("/", route);
        let server = serve(Options::h1(), router).await;
        RawClient::get(server.addr).await.read_until("world").await;
        assert_eq!(recorder.account().await, completed(evidence, 10));
    }
}

#[tokio::test]
async fn body_polled_past_its_end_hint() {
    let recorder = Recorder::new();
    let service = recorder.around(answers([Response::new(body(["hello", "world"]).hint(true))]));
    let response = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "helloworld");
    assert_eq!(recorder.account().await, completed(EndOfBody, 10));
}

#[tokio::test]
async fn rewrapped_stream_under_a_content_length() {
    for (hint, evidence) in [(false, Length), (true, EndHint)] {
        let response = Response::builder().header("content-length", "10");
        let response = response.body(body(["hello", "world"]).hint(hint)).unwrap();
        let account = wrapped(response, |body| axum::body::Body::from_stream(body.into_data_stream())).await;
        assert_eq!(account, completed(evidence, 10));
    }
}
