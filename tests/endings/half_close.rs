//! Clients that close their sending side and stay to read.

use http::Response;
use streaming_accumulator::Evidence::{EndHint, EndOfBody};
use streaming_accumulator::Phase;

use crate::support::*;

async fn serving(half_close: bool, body: MockBody) -> (Recorder, Script, Server) {
    let (recorder, script) = (Recorder::new(), answers([Response::new(body)]));
    let options = Options { half_close, ..Options::h1() };
    let server = serve(options, recorder.around(script.clone())).await;
    (recorder, script, server)
}

#[tokio::test]
async fn half_close_while_the_body_is_pending() {
    for hint in [false, true] {
        let gate = Gate::new();
        let (recorder, _, server) =
            serving(false, body(["hello"]).wait(&gate).data("world").hint(hint)).await;
        let mut client = RawClient::get(server.addr).await;
        client.read_until("hello").await;
        client.half_close().await;
        client.read_to_end().await;
        assert!(client.text().ends_with("5\r\nhello\r\n"), "cut: {}", client.text());
        assert_eq!(recorder.account().await, cancelled(Phase::Body, 5));
    }
}

#[tokio::test]
async fn half_close_while_the_handler_runs() {
    let (gate, recorder) = (Gate::new(), Recorder::new());
    let waiting = gate.clone();
    let service = handler(move |_: http::Request<hyper::body::Incoming>| {
        let gate = waiting.clone();
        async move {
            gate.passed().await;
            Ok(Response::new(boxed(body(["hello"]))))
        }
    });
    let server = serve(Options::h1(), recorder.around(service)).await;
    let mut client = RawClient::get(server.addr).await;
    gate.reached().await;
    client.half_close().await;
    client.read_to_end().await;
    assert_eq!(client.text(), "");
    assert_eq!(recorder.account().await, cancelled(Phase::BeforeHead, 0));
}

/// A race between never being called, being cut, and completing: as many records as calls.
#[tokio::test]
async fn half_close_right_after_the_request() {
    for hint in [false, true] {
        let evidence = if hint { EndHint } else { EndOfBody };
        let (recorder, script, server) =
            serving(false, body(["hello"]).yields().data("world").hint(hint)).await;
        let mut client = RawClient::get(server.addr).await;
        client.half_close().await;
        client.read_to_end().await;
        server.all_closed().await;
        for record in recorder.all(script.calls()).await {
            let account = Account::of(&record);
            let allowed = account == completed(evidence, 10) || account.what == What::Cancelled;
            assert!(allowed, "{account:?}");
        }
    }
}

#[tokio::test]
async fn half_close_that_the_server_allows() {
    for (hint, evidence) in [(false, EndOfBody), (true, EndHint)] {
        let gate = Gate::new();
        let (recorder, _, server) = serving(true, body(["hello"]).wait(&gate).data("world").hint(hint)).await;
        let mut client = RawClient::get(server.addr).await;
        client.read_until("hello").await;
        gate.reached().await;
        client.half_close().await;
        gate.open();
        client.read_to_end().await;
        assert!(client.text().ends_with("5\r\nworld\r\n0\r\n\r\n"), "{}", client.text());
        assert_eq!(recorder.account().await, completed(evidence, 10));
    }
}

#[tokio::test]
async fn allowed_half_close_of_a_client_that_left() {
    let gate = Gate::new();
    let (recorder, _, server) = serving(true, body(["hello"]).wait(&gate).endless(1024)).await;
    let mut client = RawClient::get(server.addr).await;
    client.read_until("hello").await;
    gate.reached().await;
    client.fin().await;
    recorder.assert_open(1);
    gate.open();
    // Counted too high, but cancelled: writes fail in the end.
    let account = recorder.account().await;
    assert!(account.bytes > 5, "{account:?}");
    assert_eq!(account, cancelled(Phase::Body, account.bytes));
}
