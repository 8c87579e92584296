//! Responses that have no content, whatever their body would yield.

use std::path::PathBuf;

use axum::Router;
use axum::routing::get;
use http::{Method, Response};
use streaming_accumulator::Evidence::{Empty, EndHint, EndOfBody, NoBody};
use streaming_accumulator::Phase;
use tower::{Service, ServiceExt};
use tower_http::services::ServeDir;

use crate::support::exchange::{H2, H10, H11};
use crate::support::*;

/// Bodies that would yield ten bytes: a stream, one of a known size, and both with the end hint.
fn bodies() -> [MockBody; 4] {
    let two = || body(["hello", "world"]);
    [two(), two().exact(), two().hint(true), two().exact().hint(true)]
}

/// Never polled, nothing counted.
async fn unpolled(make: impl Fn(MockBody) -> Exchange) {
    for body in bodies() {
        make(body).expect(completed(NoBody, 0)).await;
    }
}

#[tokio::test]
async fn head_response_is_not_polled() {
    for proto in [H10, H11] {
        unpolled(|body| exchange(proto, body).method(Method::HEAD)).await;
        unpolled(|body| {
            let length = Some("10").filter(|_| http_body::Body::size_hint(&body).exact().is_none());
            let exchange = exchange(proto, body).method(Method::HEAD);
            length.map_or(exchange.clone(), |length| exchange.header("content-length", length))
        })
        .await;
    }
    let exchange = exchange(H11, body(["helloworld"]).exact()).method(Method::HEAD);
    let reply = exchange.delivers("", completed(NoBody, 0)).await;
    assert!(reply.text().contains("content-length: 10"), "{}", reply.text());
}

#[tokio::test]
async fn no_content_and_not_modified_are_not_polled() {
    for proto in [H10, H11] {
        for status in [204, 304] {
            unpolled(|body| exchange(proto, body).status(status)).await;
            let header = exchange(proto, body(["helloworld"])).status(status).header("content-length", "10");
            header.delivers("", completed(NoBody, 0)).await;
        }
    }
}

#[tokio::test]
async fn switching_protocols_is_not_polled() {
    unpolled(|body| {
        exchange(H11, body)
            .status(101)
            .asks("connection", "upgrade")
            .asks("upgrade", "x")
            .header("connection", "upgrade")
            .header("upgrade", "x")
    })
    .await;
}

#[tokio::test]
async fn accepted_connect_is_not_polled() {
    unpolled(|body| exchange(H11, body).method(Method::CONNECT)).await;
}

#[tokio::test]
async fn accepted_connect_on_http2() {
    for body in bodies() {
        let exchange = exchange(H2, body).method(Method::CONNECT);
        let recorder = Recorder::new();
        let server = serve(exchange.options(), recorder.around(answers([exchange.response()]))).await;
        let mut client = H2Client::connect(server.addr).await;
        let request = http::Request::connect("a:80").body(()).unwrap();
        let (response, _sending) = client.requests.send_request(request, false).unwrap();
        assert_eq!(within("the head", response).await.unwrap().status(), 200);
        assert_eq!(recorder.account().await, completed(NoBody, 0));
    }
}

#[tokio::test]
async fn refused_connect_and_reset_content_have_a_body() {
    for (hint, evidence) in [(false, EndOfBody), (true, EndHint)] {
        let body = || body(["helloworld"]).hint(hint);
        let refused = exchange(H11, body()).method(Method::CONNECT).status(400);
        refused.delivers("helloworld", completed(evidence, 10)).await;
        exchange(H11, body()).status(205).expect(completed(evidence, 10)).await;
        exchange(H2, body()).status(205).expect(completed(evidence, 10)).await;
    }
}

#[tokio::test]
async fn informational_status_from_the_handler() {
    unpolled(|body| exchange(H11, body).status(103)).await;
}

#[tokio::test]
async fn head_on_http2_is_polled_and_not_counted() {
    let polled = completed(NoBody, 0).in_phase(Phase::Body);
    for body in bodies() {
        exchange(H2, body).method(Method::HEAD).expect(polled).await;
    }
    // Without an end, until the client's reset arrives.
    let (_, record) = exchange(H2, body([]).endless(16 * 1024)).method(Method::HEAD).run().await;
    assert_eq!(Account::of(&record), polled);
    assert_eq!((record.metrics().bytes_produced(), record.content().len()), (0, 0));
}

#[tokio::test]
async fn bodiless_statuses_on_http2_are_not_counted() {
    for status in [204, 304] {
        for body in bodies() {
            let exchange = exchange(H2, body).status(status);
            let (reply, record) = exchange.run().await;
            assert_eq!(Account::of(&record), completed(NoBody, 0).in_phase(Phase::Body));
            assert_eq!((record.metrics().frames(), record.content().len()), (0, 0));
            // The layer is transparent to it all the same.
            assert_eq!(reply, exchange.run_bare().await);
        }
    }
}

async fn head_of<S, B>(h2: bool, recorder: &Recorder, service: S) -> Account
where
    S: Service<http::Request<hyper::body::Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<streaming_accumulator::BoxError>,
    B: http_body::Body<Data: Send, Error: Into<streaming_accumulator::BoxError>> + Send + 'static,
{
    let exchange = exchange(if h2 { H2 } else { H11 }, body([])).method(Method::HEAD);
    let server = serve(exchange.options(), service).await;
    let reply = exchange.ask(&server).await;
    assert_eq!(reply.body, "");
    recorder.account().await
}

#[tokio::test]
async fn axum_head_by_its_get_route_inside() {
    for h2 in [false, true] {
        for hint in [false, true] {
            let recorder = Recorder::new();
            let route = get(move || async move { axum::body::Body::new(body(["helloworld"]).hint(hint)) });
            let router = Router::new().route("/", route).layer(recorder.layer());
            assert_eq!(head_of(h2, &recorder, router).await, completed(NoBody, 0));
        }
    }
}

#[tokio::test]
async fn axum_head_with_the_layer_outside() {
    for h2 in [false, true] {
        let recorder = Recorder::new();
        let router = Router::new().route("/", get(|| async { "helloworld" }));
        assert_eq!(head_of(h2, &recorder, recorder.around(router)).await, completed(NoBody, 0));
    }
}

#[tokio::test]
async fn files_answer_head_and_conditional_requests() {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("files_to_serve");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("file"), "helloworld").unwrap();
    let ask = async |request: &'static str| {
        let recorder = Recorder::new();
        let files = ServeDir::new(&directory);
        let service = handler(move |request| {
            let files = files.clone();
            async move { Ok(files.oneshot(request).await?.map(boxed)) }
        });
        let server = serve(Options::h1(), recorder.around(service)).await;
        let mut client = RawClient::connect(server.addr).await;
        client.send(format!("{request}host: a\r\nconnection: close\r\n\r\n")).await;
        client.read_to_end().await;
        let record = recorder.only().await;
        (record.status().unwrap().as_u16(), Account::of(&record))
    };
    assert_eq!(ask("HEAD /file HTTP/1.1\r\n").await, (200, completed(NoBody, 0)));
    let later = "GET /file HTTP/1.1\r\nif-modified-since: Fri, 31 Dec 2100 23:59:59 GMT\r\n";
    assert_eq!(ask(later).await, (304, completed(NoBody, 0)));
    assert_eq!(ask("GET /none HTTP/1.1\r\n").await, (404, completed(Empty, 0)));
}
