//! Requests that are read as they stream through.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use streaming_accumulator::http::{CaptureRequest, RequestBody};
use streaming_accumulator::meter::UsageBasis;
use streaming_accumulator::{
    BoxError, Capture, CaptureRequestLayer, Outcome, Phase, StreamRecord, StreamingAccumulator,
    StreamingAccumulatorLayer, WhenFull,
};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server as TonicServer};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::{Layer, Service, ServiceExt};

use super::lines::{metered, report, tokens};
use crate::support::exchange::H2;
use crate::support::*;

/// `service`, whose requests are read.
fn reading<S>(recorder: &Recorder, service: S) -> StreamingAccumulator<CaptureRequest<S>> {
    recorder.around(CaptureRequestLayer::new(64 * 1024).layer(service))
}

fn asked(record: &StreamRecord) -> Option<&str> {
    record.llm()?.request_model.as_deref()
}

/// A service of hyper's that reads the request to its end and answers with it.
async fn echo(request: Request<RequestBody<Incoming>>) -> Result<Response<TestBody>, BoxError> {
    let upload = request.into_body().collect().await?;
    let trailers = upload.trailers().cloned();
    let mut body = body([]).data(upload.to_bytes());
    if let Some(trailers) = trailers {
        body = body.then(crate::support::body::Step::Trailers(trailers));
    }
    Ok(Response::new(boxed(body)))
}

/// An HTTP/1 request of these chunks, whose connection is closed after it.
fn upload(headers: &str, chunks: &[&str]) -> String {
    let mut text = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n{headers}\r\n"
    );
    for chunk in chunks {
        text.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
    }
    text
}

const JSON: &str = "content-type: application/json\r\n";

#[tokio::test]
async fn through_hyper_in_chunks() {
    let recorder = metered();
    let server = serve(Options::h1(), reading(&recorder, handler(echo))).await;
    let mut client = RawClient::connect(server.addr).await;
    let chunks =
        [r#"{"messages":[{"role":"user","content":"hi"}],"mo"#, r#"del":"gp"#, r#"t","stream":true}"#];
    client.send(upload(JSON, &chunks) + "0\r\n\r\n").await;
    assert!(client.read_to_end().await);
    assert_eq!(Reply::of_h1(&client, true).body, chunks.concat());
    let record = recorder.only().await;
    assert_eq!((record.outcome(), asked(&record)), (&Outcome::Completed, Some("gpt")));
    assert_eq!(report(&record).model(), Some("gpt"));
}

#[tokio::test]
async fn through_hyper_on_http2_with_trailers() {
    let recorder = metered();
    let server = serve(Options::h2(), reading(&recorder, handler(echo))).await;
    let mut client = H2Client::connect(server.addr).await;
    let request = Request::post("http://a/").header("content-type", "application/json").body(()).unwrap();
    let (response, mut sending) = client.requests.send_request(request, false).unwrap();
    sending.send_data(Bytes::from_static(br#"{"model":"#), false).unwrap();
    sending.send_data(Bytes::from_static(br#""gpt"}"#), false).unwrap();
    sending.send_trailers(trailers(&[("x-sum", "abc")])).unwrap();
    let reply = crate::support::client::read_h2(response).await;
    assert_eq!(reply.body, r#"{"model":"gpt"}"#);
    assert_eq!(reply.trailers, Some(trailers(&[("x-sum", "abc")])));
    assert_eq!(asked(&*recorder.only().await), Some("gpt"));
}

#[tokio::test]
async fn cut_upload_keeps_what_came() {
    for rst in [false, true] {
        let recorder = metered();
        let server = serve(Options::h1(), reading(&recorder, handler(echo))).await;
        let mut client = RawClient::connect(server.addr).await;
        client.send(upload(JSON, &[r#"{"model":"gpt","messages":[{"content":"so fa"#])).await;
        // Its first chunk is then read, too: the second one waits for it.
        until("the request", || recorder.handle().audit().opened() == 1).await;
        client.leave(rst).await;
        let record = recorder.only().await;
        assert_eq!(record.phase(), Phase::BeforeHead);
        assert_eq!(asked(&record), Some("gpt"), "{record:?}");
        assert_eq!(tokens(&record), (None, UsageBasis::Absent));
    }
}

#[tokio::test]
async fn answer_is_cut_during_the_upload() {
    let recorder = metered();
    let service = handler(|request: Request<RequestBody<Incoming>>| async move {
        let mut upload = request.into_body();
        let first = upload.frame().await.ok_or("no upload")??.into_data().unwrap();
        // Goes on reading, as a gateway does, when the answer has long begun.
        tokio::spawn(upload.collect());
        Ok(Response::new(boxed(body(["one\n"]).data(first).wait(&Gate::new()))))
    });
    let server = serve(Options::h2(), reading(&recorder, service)).await;
    let mut client = H2Client::connect(server.addr).await;
    let request = Request::post("http://a/").body(()).unwrap();
    let (response, mut sending) = client.requests.send_request(request, false).unwrap();
    sending.send_data(Bytes::from_static(br#"{"model":"gpt",""#), false).unwrap();
    let mut answer = within("the head", response).await.unwrap().into_body();
    within("data", answer.data()).await.unwrap().unwrap();
    sending.send_data(Bytes::from_static(br#"messages":[]"#), false).unwrap();
    sending.send_reset(h2::Reason::CANCEL);
    let record = recorder.only().await;
    assert_eq!((record.outcome(), asked(&record)), (&Outcome::Cancelled, Some("gpt")));
    assert_eq!(record.usage().basis, UsageBasis::Partial);
}

/// An application of axum's that needs the whole request.
fn app(recorder: &Recorder) -> Router {
    let answer = |Json(request): Json<Value>| async move { format!("{}\nend\n", request["model"]) };
    Router::new()
        .route("/chat", post(answer))
        .layer(CaptureRequestLayer::new(64 * 1024))
        .layer(recorder.layer())
}

#[tokio::test]
async fn through_axum() {
    let recorder = metered();
    let request = Request::post("/chat")
        .header("content-type", "application/json")
        .body(axum::body::Body::from(json!({ "model": "gpt" }).to_string()))
        .unwrap();
    let response = app(&recorder).oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "\"gpt\"\nend\n");
    let record = recorder.only().await;
    assert_eq!(asked(&record), Some("gpt"));
    assert_eq!(tokens(&record), (Some(1), UsageBasis::Reported));
}

#[tokio::test]
async fn through_axum_on_a_real_server() {
    let recorder = metered();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(axum::serve(listener, app(&recorder)).into_future());
    let mut client = RawClient::connect(addr).await;
    let request = upload(JSON, &[r#"{"model":"#, r#""gpt"}"#]) + "0\r\n\r\n";
    client.send(request.replace("POST / ", "POST /chat ")).await;
    client.read_until("end\n").await;
    assert_eq!(asked(&*recorder.only().await), Some("gpt"));
    server.abort();
}

#[tokio::test]
async fn through_tonic() {
    let recorder = metered();
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("svc", ServingStatus::Serving).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let layers =
        tower::ServiceBuilder::new().layer(recorder.layer()).layer(CaptureRequestLayer::new(64 * 1024));
    let server = TonicServer::builder().layer(layers.into_inner()).add_service(service);
    let server = tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let channel = Channel::from_shared(format!("http://{addr}")).unwrap();
    let channel = within("a channel", channel.connect()).await.unwrap();
    let request = HealthCheckRequest { service: "svc".into() };
    let answer = within("an answer", HealthClient::new(channel).check(request)).await.unwrap();
    assert_eq!(answer.into_inner().status, ServingStatus::Serving as i32);
    let record = recorder.only().await;
    assert_eq!(record.outcome(), &Outcome::Completed);
    assert_eq!(asked(&record), None, "gRPC is no JSON");
    server.abort();
}

#[tokio::test]
async fn only_what_may_be_json_is_read() {
    let cases = [
        ("", r#"{"model":"gpt"}"#, Some("gpt")),
        ("content-type: application/problem+json\r\n", r#"{"model":"gpt"}"#, Some("gpt")),
        ("content-encoding: identity\r\n", r#"{"model":"gpt"}"#, Some("gpt")),
        ("content-type: text/plain\r\n", r#"{"model":"gpt"}"#, None),
        ("content-encoding: gzip\r\n", r#"{"model":"gpt"}"#, None),
        (JSON, "model=gpt", None),
    ];
    for (headers, json, model) in cases {
        // Without a meter: what is then known is the request's alone.
        let recorder = Recorder::new();
        let server = serve(Options::h1(), reading(&recorder, handler(echo))).await;
        let mut client = RawClient::connect(server.addr).await;
        client.send(upload(headers, &[json]) + "0\r\n\r\n").await;
        client.read_to_end().await;
        assert_eq!(Reply::of_h1(&client, true).body, json);
        let record = recorder.only().await;
        assert_eq!(asked(&record), model, "{headers}");
        assert_eq!((record.llm().is_some(), tokens(&record)), (model.is_some(), (None, UsageBasis::Absent)));
    }
}

#[tokio::test]
async fn a_request_without_a_body_says_nothing() {
    let recorder = Recorder::new();
    for (h2, calls) in [(false, 1), (true, 2)] {
        let server = serve(Options { h2, ..Options::default() }, reading(&recorder, handler(echo))).await;
        let get = exchange(if h2 { H2 } else { crate::support::exchange::H11 }, body([]));
        get.ask(&server).await;
        assert!(recorder.all(calls).await.iter().all(|record| record.llm().is_none()));
    }
}

#[tokio::test]
async fn prompt_without_room_is_dropped() {
    let recorder = Recorder::with(|builder| {
        builder.capture(Capture::none()).memory_budget(64 * 1024).when_full(WhenFull::Reject)
    });
    let service = recorder.around(CaptureRequestLayer::new(1 << 20).layer(handler(echo)));
    let server = serve(Options::h1(), service).await;
    let mut client = RawClient::connect(server.addr).await;
    let content = "words ".repeat(50_000);
    let json = format!(r#"{{"model":"gpt","messages":[{{"content":"{content}"}}]}}"#);
    client.send(upload(JSON, &[&json]) + "0\r\n\r\n").await;
    client.read_to_end().await;
    assert_eq!(Reply::of_h1(&client, true).body, json);
    let record = recorder.only().await;
    assert_eq!(asked(&record), Some("gpt"));
}

#[tokio::test]
async fn waiting_call_is_read_when_admitted() {
    let recorder = Recorder::with(|builder| builder.max_in_flight(1));
    let called = Arc::new(AtomicU64::new(0));
    let calls = Arc::clone(&called);
    let echo = move |request: Request<RequestBody<MockBody>>| {
        calls.fetch_add(1, SeqCst);
        std::future::ready(Ok::<_, Infallible>(Response::new(request.into_body())))
    };
    let mut service = reading(&recorder, tower::service_fn(echo));
    let first = service.clone().oneshot(Request::new(body([r#"{"model":"first"}"#]))).await.unwrap();
    // Not ready while the first call has the only slot.
    let second = async {
        service.ready().await.unwrap();
        service.call(Request::new(body([r#"{"model":"second"}"#]))).await
    };
    let mut second = tokio_test::task::spawn(second);
    assert!(second.poll().is_pending());
    assert_eq!(called.load(SeqCst), 1);
    first.into_body().collect().await.unwrap();
    within("a slot", second).await.unwrap().into_body().collect().await.unwrap();
    let records = recorder.all(2).await;
    let models: Vec<_> = records.iter().map(|record| asked(record)).collect();
    assert_eq!(models, [Some("first"), Some("second")]);
}

#[tokio::test]
async fn requests_are_read_with_a_context() {
    let layer = StreamingAccumulatorLayer::builder()
        .context(|parts| parts.uri.path().len())
        .on_end(|record| {
            assert_eq!(record.context(), Some(&1));
            assert_eq!(record.llm().and_then(|report| report.request_model.as_deref()), Some("gpt"));
            async {}
        })
        .build()
        .unwrap();
    let service = tower::ServiceBuilder::new()
        .layer(layer.clone())
        .layer(CaptureRequestLayer::new(1024))
        .service_fn(|request: Request<RequestBody<MockBody>>| async move {
            Ok::<_, Infallible>(Response::new(request.into_body()))
        });
    let request = r#"{"model":"gpt"}"#;
    let response = service.oneshot(Request::new(body([request]))).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), request);
    until("the record", || layer.handle().audit().hooks()[0].delivered() == 1).await;
}

#[tokio::test]
async fn without_an_accumulator_requests_pass_unread() {
    let service = CaptureRequestLayer::new(1024).layer(tower::service_fn(
        |request: Request<RequestBody<MockBody>>| async move {
            Ok::<_, Infallible>(Response::new(request.into_body().into_inner()))
        },
    ));
    let response = service.oneshot(Request::new(body(["hello"]))).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
}
