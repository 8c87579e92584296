//! Ordinary ends.

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use streaming_accumulator::Evidence::{Empty as NothingToSend, EndHint, EndOfBody, Error, Length};
use streaming_accumulator::{Evidence, Phase};

use crate::support::exchange::{H2, H10, H11};
use crate::support::*;

/// Without the hint it ends by `off`, with it by `on`.
async fn both(exchange: impl Fn(bool) -> Exchange, off: Evidence, on: Evidence, content: &'static str) {
    let bytes = content.len() as u64;
    exchange(false).delivers(content, completed(off, bytes)).await;
    exchange(true).delivers(content, completed(on, bytes)).await;
}

fn two() -> MockBody {
    body(["hello", "world"])
}

#[tokio::test]
async fn chunked_body_read_to_its_end_completes() {
    let reply = exchange(H11, two()).delivers("helloworld", completed(EndOfBody, 10)).await;
    assert!(reply.text().contains("transfer-encoding: chunked"), "{}", reply.text());
}

#[tokio::test]
async fn end_hint_after_the_last_frame_completes() {
    exchange(H11, two().hint(true)).delivers("helloworld", completed(EndHint, 10)).await;
}

#[tokio::test]
async fn exact_hint_alone_completes_by_length() {
    exchange(H11, two().exact()).delivers("helloworld", completed(Length, 10)).await;
}

#[tokio::test]
async fn exact_hint_with_end_hint_completes() {
    exchange(H11, body(["helloworld"]).exact().hint(true))
        .delivers("helloworld", completed(EndHint, 10))
        .await;
}

#[tokio::test]
async fn content_length_completes_a_stream_of_unknown_size() {
    let exchange = |hint| exchange(H11, two().hint(hint)).header("content-length", "10");
    both(exchange, Length, EndHint, "helloworld").await;
}

#[tokio::test]
async fn nothing_beyond_the_declared_length_is_polled() {
    let closed = Gate::new();
    for tail in [two().wait(&closed), two().fails(), two().trailers()] {
        for hint in [false, true] {
            // The hint stays false: the tail is still to come.
            let exchange = exchange(H11, tail.clone().hint(hint)).header("content-length", "10");
            exchange.delivers("helloworld", completed(Length, 10)).await;
        }
    }
}

#[tokio::test]
async fn http2_polls_on_at_the_declared_length() {
    both(|hint| exchange(H2, two().exact().hint(hint)), EndOfBody, EndHint, "helloworld").await;
    let header = |hint| exchange(H2, two().hint(hint)).header("content-length", "10");
    both(header, EndOfBody, EndHint, "helloworld").await;
}

#[tokio::test]
async fn http2_error_after_the_declared_length() {
    for hint in [false, true] {
        let exchange =
            exchange(H2, body(["helloworld"]).yields().fails().hint(hint)).header("content-length", "10");
        let reply = exchange.expect(failed("body", Phase::Body, Error, 10)).await;
        assert_eq!(reply.reset, Some(h2::Reason::INTERNAL_ERROR));
    }
}

#[tokio::test]
async fn empty_body_with_end_hint_completes_unpolled() {
    for proto in [H10, H11, H2] {
        exchange(proto, body([]).hint(true)).delivers("", completed(NothingToSend, 0)).await;
        for empty in [|| boxed(Empty::<Bytes>::new()), || boxed(Full::<Bytes>::from(""))] {
            let recorder = Recorder::new();
            let service = handler(move |_| async move { Ok(Response::new(empty())) });
            let exchange = exchange(proto, body([]));
            let server = serve(exchange.options(), recorder.around(service)).await;
            exchange.ask(&server).await;
            assert_eq!(recorder.account().await, completed(NothingToSend, 0));
        }
    }
}

#[tokio::test]
async fn declared_length_zero_completes() {
    let unpolled = completed(Length, 0).in_phase(Phase::BeforeBody);
    for proto in [H10, H11] {
        exchange(proto, body([]).exact()).delivers("", unpolled).await;
        exchange(proto, body([])).header("content-length", "0").delivers("", unpolled).await;
    }
}

#[tokio::test]
async fn declared_length_zero_completes_on_http2() {
    exchange(H2, body([]).exact()).delivers("", completed(EndOfBody, 0)).await;
    exchange(H2, body([])).header("content-length", "0").delivers("", completed(EndOfBody, 0)).await;
}

#[tokio::test]
async fn empty_stream_without_hints_completes() {
    for proto in [H10, H11, H2] {
        exchange(proto, body([])).delivers("", completed(EndOfBody, 0)).await;
    }
}

#[tokio::test]
async fn zero_length_frames_do_not_end_a_body() {
    for proto in [H10, H11, H2] {
        for (hint, evidence) in [(false, EndOfBody), (true, EndHint)] {
            let (reply, record) = exchange(proto, body(["", "abc", ""]).hint(hint)).run().await;
            assert_eq!(Account::of(&record), completed(evidence, 3), "{proto:?}");
            assert_eq!((record.metrics().chunks(), record.metrics().frames()), (1, 3));
            assert_eq!(reply.body, "abc");
        }
    }
}

#[tokio::test]
async fn zero_length_frame_after_the_declared_length() {
    for hint in [false, true] {
        let exchange = exchange(H11, body(["abc", ""]).hint(hint)).header("content-length", "3");
        let (_, record) = exchange.run().await;
        assert_eq!(Account::of(&record), completed(Length, 3));
        assert_eq!(record.metrics().frames(), 1);
    }
}

#[tokio::test]
async fn surplus_beyond_the_length_completes() {
    for hint in [false, true] {
        let exchange =
            exchange(H11, body(["12345678", "12345678", "never"]).hint(hint)).header("content-length", "10");
        let (reply, record) = exchange.run().await;
        assert_eq!(Account::of(&record), completed(Length, 16));
        // What a bill may be based on, and what the client got.
        assert_eq!((record.declared_length(), reply.body), (Some(10), "1234567812".into()));
    }
}

#[tokio::test]
async fn surplus_beyond_the_length_on_http2() {
    for (hint, evidence) in [(false, EndOfBody), (true, EndHint)] {
        let exchange = exchange(H2, body(["12345678", "12345678", "12345678"]).hint(hint))
            .header("content-length", "10");
        let (reply, record) = exchange.run().await;
        assert_eq!(Account::of(&record), completed(evidence, 24));
        assert_eq!(record.declared_length(), Some(10));
        assert!(reply.broken, "the client counts too");
    }
}

#[tokio::test]
async fn body_short_of_its_length_fails() {
    let exchange = exchange(H11, body(["hello"])).header("content-length", "10");
    let reply = exchange.delivers("", failed("short_body", Phase::Body, EndOfBody, 5)).await;
    assert!(reply.raw.is_empty(), "hyper flushes nothing of it");
}

#[tokio::test]
async fn end_hint_short_of_the_length_fails() {
    let exchange = exchange(H11, body(["hello"]).hint(true)).header("content-length", "10");
    exchange.delivers("hello", failed("short_body", Phase::Body, EndHint, 5)).await;
}

#[tokio::test]
async fn body_short_of_its_length_fails_on_http2() {
    for (hint, evidence) in [(false, EndOfBody), (true, EndHint)] {
        let exchange = exchange(H2, body(["hello"]).hint(hint)).header("content-length", "10");
        let reply = exchange.expect(failed("short_body", Phase::Body, evidence, 5)).await;
        assert!(reply.broken, "the client counts too");
    }
}

#[tokio::test]
async fn http10_body_is_delimited_by_the_close() {
    both(|hint| exchange(H10, two().hint(hint)), EndOfBody, EndHint, "helloworld").await;
}

#[tokio::test]
async fn http10_with_keep_alive_completes() {
    let exchange = |hint| exchange(H10, two().hint(hint)).asks("connection", "keep-alive");
    both(exchange, EndOfBody, EndHint, "helloworld").await;
}

#[tokio::test]
async fn http10_with_an_exact_hint_completes() {
    both(|hint| exchange(H10, two().exact().hint(hint)), Length, EndHint, "helloworld").await;
}

#[tokio::test]
async fn handlers_chunked_header_wins_over_an_exact_hint() {
    let exchange = |hint| exchange(H11, two().exact().hint(hint)).header("transfer-encoding", "chunked");
    both(exchange, EndOfBody, EndHint, "helloworld").await;
}

#[tokio::test]
async fn pipelined_requests_run_one_after_the_other() {
    let gate = Gate::new();
    let first = body(["first"]).wait(&gate);
    let script = answers([Response::new(first), Response::new(body(["second"]).hint(true))]);
    let recorder = Recorder::new();
    let server = serve(Options::h1(), recorder.around(script.clone())).await;
    let mut client = RawClient::connect(server.addr).await;
    client.send("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.read_until("first").await;
    gate.reached().await;
    assert_eq!(script.calls(), 1, "the second waits for the end of the first");
    recorder.assert_open(1);
    gate.open();
    client.read_until("second").await;
    let records = recorder.all(2).await;
    let mut accounts: Vec<_> =
        records.iter().map(|record| (record.uri().path().to_owned(), Account::of(record))).collect();
    accounts.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [("/1".to_owned(), completed(EndOfBody, 5)), ("/2".to_owned(), completed(EndHint, 6))];
    assert_eq!(accounts, expected);
}

const EXPECT: &str = "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";

#[tokio::test]
async fn expect_continue_that_is_honoured() {
    for (hint, evidence) in [(false, EndOfBody), (true, EndHint)] {
        let recorder = Recorder::new();
        let service = handler(move |request: http::Request<Incoming>| async move {
            let sent = request.into_body().collect().await?.to_bytes();
            assert_eq!(sent, "12345");
            Ok(Response::new(boxed(two().hint(hint))))
        });
        let server = serve(Options::h1(), recorder.around(service)).await;
        let mut client = RawClient::connect(server.addr).await;
        client.send(EXPECT).await;
        client.read_until("100 Continue").await;
        client.send("12345").await;
        client.read_until("world").await;
        assert_eq!(recorder.account().await, completed(evidence, 10));
    }
}

#[tokio::test]
async fn expect_continue_that_is_ignored() {
    for (hint, evidence) in [(false, EndOfBody), (true, EndHint)] {
        let recorder = Recorder::new();
        let service =
            handler(
                move |_: http::Request<Incoming>| async move { Ok(Response::new(boxed(two().hint(hint)))) },
            );
        let server = serve(Options::h1(), recorder.around(service)).await;
        let mut client = RawClient::connect(server.addr).await;
        client.send(EXPECT).await;
        client.read_until("world").await;
        assert!(!client.text().contains("100 Continue"));
        assert_eq!(recorder.account().await, completed(evidence, 10));
    }
}

#[tokio::test]
async fn body_that_claims_its_end_at_hand_over() {
    for proto in [H10, H11, H2] {
        let reply =
            exchange(proto, two().claims_end_after(0)).delivers("", completed(NothingToSend, 0)).await;
        assert!(proto != H11 || reply.text().contains("content-length: 0"), "{}", reply.text());
    }
}
