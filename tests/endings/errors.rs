//! Errors and panics.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use streaming_accumulator::Evidence::{Dropped, EndHint, Error, Length, Panic};
use streaming_accumulator::Phase::{self, BeforeBody, BeforeHead};
use streaming_accumulator::StreamError;
use tower::{Layer, ServiceExt};
use tower_http::catch_panic::CatchPanicLayer;

use crate::support::exchange::{H2, H10, H11};
use crate::support::*;

fn hints(body: MockBody) -> [MockBody; 2] {
    [body.clone().hint(false), body.hint(true)]
}

fn body_error(bytes: u64) -> Account {
    failed("body", Phase::Body, Error, bytes)
}

fn panicked(phase: Phase, bytes: u64) -> Account {
    failed("panicked", phase, Panic, bytes)
}

#[tokio::test]
async fn body_error_right_after_the_data() {
    for body in hints(body(["hello"]).fails()) {
        let (reply, record) = exchange(H11, body).run().await;
        assert_eq!(Account::of(&record), body_error(5));
        assert_eq!(record.outcome().error(), Some(&StreamError::Body("scripted error".into())));
        assert!(reply.raw.is_empty(), "pulled is not delivered");
    }
}

/// The error comes after the data has left.
async fn later_error(proto: Proto, hint: bool) -> Reply {
    let gate = Gate::new();
    let exchange = exchange(proto, body(["hello"]).wait(&gate).fails().hint(hint));
    let recorder = Recorder::new();
    let server = serve(exchange.options(), recorder.around(answers([exchange.response()]))).await;
    let open = async {
        gate.reached().await;
        gate.open();
    };
    let (reply, ()) = tokio::join!(exchange.ask(&server), open);
    assert_eq!(recorder.account().await, body_error(5));
    reply
}

#[tokio::test]
async fn body_error_after_a_pause() {
    for hint in [false, true] {
        let reply = later_error(H11, hint).await;
        assert!(reply.text().ends_with("5\r\nhello\r\n"), "no last chunk: {}", reply.text());
    }
}

#[tokio::test]
async fn body_error_of_a_close_delimited_response() {
    for hint in [false, true] {
        let reply = later_error(H10, hint).await;
        assert_eq!((reply.body, reply.broken), ("hello".into(), false), "the client sees a normal end");
    }
}

#[tokio::test]
async fn body_error_on_http2() {
    for hint in [false, true] {
        let hello = || body(["hello"]);
        for (body, bytes) in [(hello().fails(), 5), (body([]).fails(), 0), (hello().yields().fails(), 5)] {
            let reply = exchange(H2, body.hint(hint)).expect(body_error(bytes)).await;
            assert_eq!(reply.reset, Some(h2::Reason::INTERNAL_ERROR));
        }
        later_error(H2, hint).await;
    }
}

#[tokio::test]
async fn nothing_is_polled_after_an_error() {
    for body in hints(body(["hello"]).fails().data("never")) {
        let recorder = Recorder::new();
        let service = recorder.around(answers([Response::new(body)]));
        let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
        assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), "scripted error");
        // The inner body would panic.
        assert!(body.frame().await.is_none());
        assert!(body.frame().await.is_none());
        assert!(body.is_end_stream());
        drop(body);
        assert_eq!(recorder.account().await, body_error(5));
    }
}

#[tokio::test]
async fn panic_in_the_body() {
    for body in hints(body(["hello"]).panics()) {
        exchange(H11, body.clone()).expect(panicked(Phase::Body, 5)).await;
        exchange(H10, body).expect(panicked(Phase::Body, 5)).await;
    }
    for body in hints(body([]).panics()) {
        exchange(H11, body).expect(panicked(Phase::Body, 0)).await;
    }
    // A pipelined request dies with it: it never was a call.
    let script = answers([Response::new(body(["hello"]).panics()), Response::new(body(["second"]))]);
    let recorder = Recorder::new();
    let server = serve(Options::h1(), recorder.around(script.clone())).await;
    let mut client = RawClient::connect(server.addr).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.read_to_end().await;
    server.all_closed().await;
    assert_eq!((recorder.account().await, script.calls()), (panicked(Phase::Body, 5), 1));
}

#[tokio::test]
async fn panic_in_the_body_on_http2() {
    for body in hints(body(["hello"]).yields().panics()) {
        let reply = exchange(H2, body).expect(panicked(Phase::Body, 5)).await;
        assert_eq!(reply.reset, Some(h2::Reason::CANCEL));
    }
}

type Panicking = tower::util::BoxCloneService<
    Request<hyper::body::Incoming>,
    Response<TestBody>,
    streaming_accumulator::BoxError,
>;

/// Handlers that panic: when called, when first polled, and later.
fn panicking() -> [Panicking; 3] {
    let at = |when: u8| {
        let called = move |_| {
            assert!(when != 0, "scripted panic");
            async move {
                assert!(when != 1, "scripted panic");
                tokio::task::yield_now().await;
                panic!("scripted panic")
            }
        };
        tower::util::BoxCloneService::new(handler(called))
    };
    [at(0), at(1), at(2)]
}

#[tokio::test]
async fn panic_in_the_handler() {
    for proto in [H11, H2] {
        for handler in panicking() {
            let recorder = Recorder::new();
            let exchange = exchange(proto, body([]));
            let server = serve(exchange.options(), recorder.around(handler)).await;
            let reply = exchange.ask(&server).await;
            assert_eq!((reply.status, reply.raw), (None, Bytes::new()));
            let record = recorder.only().await;
            assert_eq!(Account::of(&record), panicked(BeforeHead, 0));
            assert_eq!(record.status(), None);
        }
    }
}

#[tokio::test]
async fn handler_panic_that_an_outer_layer_catches() {
    for handler in panicking() {
        let recorder = Recorder::new();
        let service = CatchPanicLayer::new().layer(recorder.around(handler));
        let server = serve(Options::h1(), service).await;
        let mut client = RawClient::get(server.addr).await;
        client.read_until("HTTP/1.1 500").await;
        assert_eq!(recorder.account().await, panicked(BeforeHead, 0));
    }
}

#[tokio::test]
async fn body_panic_that_no_outer_layer_catches() {
    for body in hints(body(["hello"]).panics()) {
        let recorder = Recorder::new();
        let service = CatchPanicLayer::new().layer(recorder.around(answers([Response::new(body)])));
        let server = serve(Options::h1(), service).await;
        RawClient::get(server.addr).await.read_to_end().await;
        assert_eq!(recorder.account().await, panicked(Phase::Body, 5));
    }
}

#[tokio::test]
async fn service_error_fails_before_the_head() {
    for proto in [H11, H2] {
        let recorder = Recorder::new();
        let exchange = exchange(proto, body([]));
        let server = serve(exchange.options(), recorder.around(answers([]))).await;
        let reply = exchange.ask(&server).await;
        assert!(reply.raw.is_empty() && reply.status.is_none());
        assert!(proto != H2 || reply.reset == Some(h2::Reason::INTERNAL_ERROR));
        let record = recorder.only().await;
        assert_eq!(Account::of(&record), failed("service", BeforeHead, Error, 0));
        assert_eq!(record.outcome().error(), Some(&StreamError::Service("no answer left".into())));
    }
}

#[tokio::test]
async fn unusable_content_length_fails() {
    let account = failed("bad_length", BeforeBody, Dropped, 0).by(By::Downstream);
    for body in hints(body(["hello"])) {
        let no_number = exchange(H11, body.clone()).header("content-length", "ten");
        let differing = exchange(H11, body).header("content-length", "5").header("content-length", "6");
        for exchange in [no_number, differing] {
            let reply = exchange.expect(account).await;
            assert!(reply.raw.is_empty());
        }
    }
}

#[tokio::test]
async fn content_length_beside_transfer_encoding() {
    for body in hints(body(["hello"])) {
        let exchange =
            exchange(H11, body).header("content-length", "5").header("transfer-encoding", "chunked");
        let (_, record) = exchange.run().await;
        // A check at hand-over is optional. Without it the drop is all that is known.
        let account = Account::of(&record);
        let detected = failed("bad_length", BeforeBody, Dropped, 0).by(By::Downstream);
        assert!([cancelled(BeforeBody, 0), detected].contains(&account), "{account:?}");
    }
}

#[tokio::test]
async fn exact_hint_and_header_differ() {
    for (hint, evidence) in [(false, Length), (true, EndHint)] {
        let exchange = exchange(H11, body(["helloworld"]).exact().hint(hint)).header("content-length", "7");
        // hyper's debug build asserts that they are equal, while it writes the head.
        let account = if cfg!(debug_assertions) {
            panicked(BeforeBody, 0).by(By::Downstream)
        } else {
            completed(evidence, 10)
        };
        exchange.expect(account).await;
    }
}

#[tokio::test]
async fn exact_hint_outweighs_a_different_header() {
    // By hand, because hyper's debug build panics: as many polls as a length encoder of 10 makes.
    for (hint, evidence) in [(false, Length), (true, EndHint)] {
        let exchange =
            exchange(H11, body(["hello", "world"]).exact().hint(hint)).header("content-length", "7");
        let recorder = Recorder::new();
        let service = recorder.around(answers([exchange.response()]));
        let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        body.frame().await.unwrap().unwrap();
        drop(body);
        let record = recorder.only().await;
        assert_eq!(Account::of(&record), completed(evidence, 10));
        assert_eq!(record.declared_length(), Some(10));
    }
}
