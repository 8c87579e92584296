//! The client leaves in the middle of the body.

use http::Response;
use streaming_accumulator::Evidence::{EndHint, EndOfBody, Length};
use streaming_accumulator::Phase;

use crate::support::exchange::{H2, H11};
use crate::support::*;

const FRAME: usize = 16 * 1024;

/// A server whose one answer has this body.
async fn serving(h2: bool, body: MockBody) -> (Recorder, Server) {
    let recorder = Recorder::new();
    let options = Options { h2, ..Options::default() };
    let server = serve(options, recorder.around(answers([Response::new(body)]))).await;
    (recorder, server)
}

/// Five bytes, then nothing until the gate opens.
fn pending(gate: &Gate, hint: bool) -> MockBody {
    body(["hello"]).wait(gate).data("world").hint(hint)
}

/// What is known of a stream that was dropped while it ran freely: not how far it came.
async fn cancelled_beyond(recorder: &Recorder, bytes: u64) {
    let account = recorder.account().await;
    assert!(account.bytes >= bytes, "{account:?}");
    assert_eq!(account, cancelled(Phase::Body, account.bytes));
}

#[tokio::test]
async fn client_leaves_while_the_body_is_pending() {
    for rst in [false, true] {
        for hint in [false, true] {
            let gate = Gate::new();
            let (recorder, server) = serving(false, pending(&gate, hint)).await;
            let mut client = RawClient::get(server.addr).await;
            client.read_until("hello").await;
            gate.reached().await;
            client.leave(rst).await;
            assert_eq!(recorder.account().await, cancelled(Phase::Body, 5));
        }
    }
}

#[tokio::test]
async fn client_leaves_while_the_body_is_ready() {
    for rst in [false, true] {
        let (recorder, server) = serving(false, body([]).endless(FRAME)).await;
        let mut client = RawClient::get(server.addr).await;
        client.read_bytes(200_000).await;
        client.leave(rst).await;
        cancelled_beyond(&recorder, 190_000).await;
    }
}

/// Not knowable: the buffers take the whole body before the client leaves.
#[tokio::test]
async fn body_that_fits_the_buffers_completes() {
    for (hint, evidence) in [(false, EndOfBody), (true, EndHint)] {
        let quarter = || vec![b'x'; FRAME];
        let body = body([]).data(quarter()).data(quarter()).data(quarter()).data(quarter()).hint(hint);
        let (recorder, server) = serving(false, body).await;
        let mut client = RawClient::get(server.addr).await;
        client.read_until("200 OK").await;
        assert_eq!(recorder.account().await, completed(evidence, 65_536));
        client.rst();
        server.all_closed().await;
        recorder.only().await;
    }
}

const LARGE: usize = 8_000_000;

/// Not knowable: hyper takes the one frame whole, whatever the client reads.
#[tokio::test]
async fn one_large_frame_known_to_be_the_last() {
    for (hint, length, evidence) in [(false, true, Length), (true, false, EndHint), (true, true, EndHint)] {
        let mut exchange = exchange(H11, body([]).data(vec![b'x'; LARGE]).hint(hint));
        if length {
            exchange = exchange.header("content-length", "8000000");
        }
        let recorder = Recorder::new();
        let server = serve(Options::h1(), recorder.around(answers([exchange.response()]))).await;
        let mut client = RawClient::connect_small(server.addr).await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        client.read_until("200 OK").await;
        if hint {
            assert_eq!(recorder.account().await, completed(evidence, LARGE as u64));
        }
        // At the declared length hyper holds the body until it has flushed, and drops it when it cannot.
        recorder.pulled(if hint { 0 } else { LARGE as u64 }).await;
        client.rst();
        server.all_closed().await;
        assert_eq!(recorder.account().await, completed(evidence, LARGE as u64));
    }
}

#[tokio::test]
async fn one_large_frame_perhaps_not_the_last() {
    let (recorder, server) = serving(false, body([]).data(vec![b'x'; LARGE])).await;
    let mut client = RawClient::connect_small(server.addr).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.read_until("200 OK").await;
    recorder.pulled(LARGE as u64).await;
    client.rst();
    assert_eq!(recorder.account().await, cancelled(Phase::Body, LARGE as u64));
}

#[tokio::test]
async fn client_leaves_at_the_logical_end() {
    for hint in [false, true] {
        let gate = Gate::new();
        let events = body(["data: 1\n\n", "data: [DONE]\n\n"]).wait(&gate).data("").hint(hint);
        let (recorder, server) = serving(false, events).await;
        let mut client = RawClient::get(server.addr).await;
        client.read_until("[DONE]").await;
        gate.reached().await;
        client.fin().await;
        // Only something that reads the protocol can know better.
        assert_eq!(recorder.account().await, cancelled(Phase::Body, 23));
    }
}

#[tokio::test]
async fn reset_while_the_body_is_pending() {
    for hint in [false, true] {
        let gate = Gate::new();
        let (recorder, server) = serving(true, pending(&gate, hint)).await;
        let mut client = H2Client::connect(server.addr).await;
        let (response, mut sending) = client.get();
        let mut body = within("the head", response).await.unwrap().into_body();
        assert_eq!(within("data", body.data()).await.unwrap().unwrap(), "hello");
        gate.reached().await;
        sending.send_reset(h2::Reason::CANCEL);
        assert_eq!(recorder.account().await, cancelled(Phase::Body, 5));
    }
}

/// Reads and releases until it has that number of bytes.
async fn read_some(body: &mut h2::RecvStream, bytes: usize) {
    let mut read = 0;
    while read < bytes {
        let data = within("data", body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        read += data.len();
    }
}

#[tokio::test]
async fn reset_while_the_body_is_ready() {
    let (recorder, server) = serving(true, body([]).endless(FRAME)).await;
    let mut client = H2Client::connect(server.addr).await;
    let (response, mut sending) = client.get();
    let mut body = within("the head", response).await.unwrap().into_body();
    read_some(&mut body, 200_000).await;
    sending.send_reset(h2::Reason::CANCEL);
    cancelled_beyond(&recorder, 200_000).await;
}

#[tokio::test]
async fn http2_connection_is_lost() {
    for rst in [false, true] {
        for ready in [false, true] {
            let gate = Gate::new();
            let stream = || if ready { body([]).endless(FRAME) } else { pending(&gate, true) };
            let recorder = Recorder::new();
            let script = answers([Response::new(stream()), Response::new(stream())]);
            let server = serve(Options::h2(), recorder.around(script)).await;
            // Windows that one stream alone does not fill.
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
            let mut client = H2Client::build(&builder, server.addr, rst).await;
            let mut bodies = Vec::new();
            for _ in 0..2 {
                let (response, sending) = client.get();
                let mut body = within("the head", response).await.unwrap().into_body();
                within("data", body.data()).await.unwrap().unwrap();
                bodies.push((body, sending));
            }
            client.leave();
            for record in recorder.all(2).await {
                let account = Account::of(&record);
                assert!(if ready { account.bytes >= FRAME as u64 } else { account.bytes == 5 });
                assert_eq!(account, cancelled(Phase::Body, account.bytes));
            }
        }
    }
}

#[tokio::test]
async fn reset_at_the_declared_length() {
    for hint in [false, true] {
        let gate = Gate::new();
        let exchange =
            exchange(H2, body(["helloworld"]).wait(&gate).hint(hint)).header("content-length", "10");
        let recorder = Recorder::new();
        let server = serve(Options::h2(), recorder.around(answers([exchange.response()]))).await;
        let mut client = H2Client::connect(server.addr).await;
        let (response, mut sending) = client.get();
        let mut body = within("the head", response).await.unwrap().into_body();
        assert_eq!(within("data", body.data()).await.unwrap().unwrap(), "helloworld");
        gate.reached().await;
        recorder.assert_open(1);
        sending.send_reset(h2::Reason::CANCEL);
        assert_eq!(recorder.account().await, completed(Length, 10));
    }
}
