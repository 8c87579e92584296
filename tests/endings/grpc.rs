//! gRPC: what counts is the status in the trailers, or in the headers of an answer that has nothing else.

use bytes::Bytes;
use streaming_accumulator::Evidence::{Empty, Trailers};
use streaming_accumulator::{Evidence, Phase};
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::HealthReporter;

use crate::support::body::Step;
use crate::support::exchange::H2;
use crate::support::*;

/// A framed message with one status in it.
const MESSAGE: u64 = 7;

/// tonic's own health service with our layer around it.
async fn health() -> (Recorder, Server, HealthReporter, HealthClient<Channel>) {
    let recorder = Recorder::new();
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("svc", ServingStatus::Serving).await;
    let server = serve(Options::h2(), recorder.around(service)).await;
    let channel = Channel::from_shared(format!("http://{}", server.addr)).unwrap();
    let channel = within("a channel", channel.connect()).await.unwrap();
    (recorder, server, reporter, HealthClient::new(channel))
}

fn service(name: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: name.into() }
}

fn refused(evidence: Evidence, bytes: u64) -> Account {
    failed("grpc", completed(evidence, 0).phase, evidence, bytes)
}

#[tokio::test]
async fn unary_and_server_streaming_complete() {
    let (recorder, _server, _reporter, mut client) = health().await;
    client.check(service("svc")).await.unwrap();
    let record = recorder.only().await;
    assert_eq!(Account::of(&record), completed(Trailers, MESSAGE));
    assert_eq!(record.grpc_status(), Some(0));

    let (recorder, _server, mut reporter, mut client) = health().await;
    let mut stream = client.watch(service("svc")).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    recorder.assert_open(1);
    // The service has no more to say of it: the stream ends.
    reporter.clear_service_status("svc").await;
    while within("the end", stream.message()).await.unwrap().is_some() {}
    let record = recorder.only().await;
    let bytes = record.metrics().bytes();
    assert!(bytes >= MESSAGE);
    assert_eq!(Account::of(&record), completed(Trailers, bytes));
    assert_eq!(record.grpc_status(), Some(0));
}

#[tokio::test]
async fn server_streaming_that_fails_midway() {
    for hint in [false, true] {
        let gate = Gate::new();
        gate.open();
        let status = trailers(&[("grpc-status", "13"), ("grpc-message", "disk%20full")]);
        let body = body([]).data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1])).wait(&gate);
        let exchange = exchange(H2, body.then(Step::Trailers(status)).hint(hint));
        let (reply, record) = exchange.header("content-type", "application/grpc").run().await;
        assert_eq!(Account::of(&record), refused(Trailers, MESSAGE));
        assert_eq!(record.grpc_status(), Some(13));
        assert_eq!(record.outcome().error().unwrap().to_string(), "grpc status 13: disk full");
        assert_eq!(reply.trailers.unwrap()["grpc-status"], "13");
    }
}

#[tokio::test]
async fn unary_error_in_the_headers() {
    let (recorder, _server, _reporter, mut client) = health().await;
    assert_eq!(client.check(service("none")).await.unwrap_err().code(), Code::NotFound);
    let record = recorder.only().await;
    assert_eq!(Account::of(&record), refused(Empty, 0));
    assert_eq!((record.grpc_status(), record.status().unwrap().as_u16()), (Some(5), 200));

    let fine = exchange(H2, body([]).hint(true)).header("grpc-status", "0");
    fine.expect(completed(Empty, 0)).await;
}

#[tokio::test]
async fn reset_mid_stream_is_cancelled() {
    let (recorder, _server, _reporter, mut client) = health().await;
    let mut stream = client.watch(service("svc")).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    recorder.assert_open(1);
    drop(stream);
    let record = recorder.only().await;
    assert_eq!(Account::of(&record), cancelled(Phase::Body, MESSAGE));
    assert_eq!(record.grpc_status(), None);
}
