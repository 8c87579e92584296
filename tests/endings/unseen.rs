//! Blind spots: over HTTP/1 hyper sees a client leave only while it reads the socket.

use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use streaming_accumulator::Evidence::{EndHint, EndOfBody};
use streaming_accumulator::Phase;

use crate::support::*;

/// What a handler does with the request body before it answers.
#[derive(Clone, Copy)]
enum Takes {
    Drops,
    Holds,
    Reads,
}

/// Serves `stream` to a client that sends `request`, waits for the first five bytes and leaves; then, if
/// asked to, lets the stream go on. Returns the records, one for each call.
async fn leaves(
    request: &[u8],
    takes: Takes,
    stream: MockBody,
    gate: &Gate,
    rst: bool,
    on: bool,
) -> Vec<Account> {
    let recorder = Recorder::new();
    let service = handler(move |request: Request<Incoming>| {
        let stream = stream.clone();
        async move {
            let mut held = None;
            match takes {
                Takes::Drops => drop(request),
                Takes::Holds => held = Some(request.into_body()),
                Takes::Reads => drop(request.into_body().collect().await?),
            }
            // Lives as long as the response.
            let stream = stream.map_frame(move |frame| {
                let _ = &held;
                frame
            });
            Ok(Response::new(boxed(stream)))
        }
    });
    let server = serve(Options::h1(), recorder.around(service)).await;
    let mut client = RawClient::connect(server.addr).await;
    client.send(request).await;
    client.read_until("hello").await;
    gate.reached().await;
    recorder.assert_open(1);
    client.leave(rst).await;
    if on {
        gate.open();
    }
    server.all_closed().await;
    let calls = recorder.handle().audit().opened();
    recorder.all(calls).await.iter().map(|record| Account::of(record)).collect()
}

/// Whatever is behind the request: a stream that goes on is cancelled when a write fails. One that ends
/// with its next frame may be over by then, and is `Completed`: not knowable.
async fn blind(request: &[u8], takes: Takes) {
    for rst in [false, true] {
        let gate = Gate::new();
        let endless = body(["hello"]).wait(&gate).endless(1024);
        let accounts = leaves(request, takes, endless, &gate, rst, true).await;
        assert_eq!(accounts.len(), 1, "{accounts:?}");
        assert_eq!(accounts[0], cancelled(Phase::Body, accounts[0].bytes));
        for (hint, evidence) in [(false, EndOfBody), (true, EndHint)] {
            let gate = Gate::new();
            let short = body(["hello"]).wait(&gate).data("world").hint(hint);
            let accounts = leaves(request, takes, short, &gate, rst, true).await;
            // A pipelined request may have become a call too, or not.
            assert!((1..=2).contains(&accounts.len()), "{accounts:?}");
            let allowed = |account: &Account| {
                *account == completed(evidence, 10)
                    || *account == cancelled(Phase::Body, account.bytes)
                    || *account == cancelled(Phase::BeforeHead, 0)
                    || *account == cancelled(Phase::BeforeBody, 0)
            };
            assert!(accounts.iter().all(allowed), "{accounts:?}");
        }
    }
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn pipelined_request_hides_that_the_client_left() {
    blind(&[GET, GET].concat(), Takes::Drops).await;
}

#[tokio::test]
async fn stray_bytes_hide_that_the_client_left() {
    blind(&[GET, b"\r\n"].concat(), Takes::Drops).await;
    blind(&[GET, b"x"].concat(), Takes::Drops).await;
}

/// More than hyper reads at once.
fn large_post() -> Vec<u8> {
    let mut request = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n".to_vec();
    request.resize(request.len() + 500_000, b'x');
    request
}

#[tokio::test]
async fn request_body_dropped_unread() {
    blind(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n", Takes::Drops)
        .await;
}

#[tokio::test]
async fn request_body_held_unread() {
    blind(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n", Takes::Holds).await;
    blind(&large_post(), Takes::Holds).await;
}

#[tokio::test]
async fn request_body_read_or_small() {
    const POST: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n12345";
    for takes in [Takes::Reads, Takes::Drops, Takes::Holds] {
        for rst in [false, true] {
            // The gate stays shut: the leaving itself is seen.
            let gate = Gate::new();
            let stream = body(["hello"]).wait(&gate).hint(rst);
            let accounts = leaves(POST, takes, stream, &gate, rst, false).await;
            assert_eq!(accounts, [cancelled(Phase::Body, 5)]);
        }
    }
}

#[tokio::test]
async fn request_body_unread_on_http2() {
    let (gate, recorder) = (Gate::new(), Recorder::new());
    let stream = body(["hello"]).wait(&gate);
    let server = serve(Options::h2(), recorder.around(answers([Response::new(stream)]))).await;
    let mut client = H2Client::connect(server.addr).await;
    let request = Request::post("http://a/").body(()).unwrap();
    let (response, mut sending) = client.requests.send_request(request, false).unwrap();
    sending.send_data("unread".into(), false).unwrap();
    let _response = within("the head", response).await.unwrap();
    gate.reached().await;
    client.leave();
    assert_eq!(recorder.account().await, cancelled(Phase::Body, 5));
}

#[tokio::test]
async fn silent_peer_is_found_by_pings() {
    let (gate, recorder) = (Gate::new(), Recorder::new());
    let stream = body(["hello"]).wait(&gate);
    let options = Options { pings: Some(Duration::from_millis(100)), ..Options::h2() };
    let server = serve(options, recorder.around(answers([Response::new(stream)]))).await;
    let socket = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let (mut requests, mut connection) = h2::client::handshake(socket).await.unwrap();
    let (response, _sending) = requests.send_request(Request::new(()), true).unwrap();
    let response = async {
        // Only here is the client alive: afterwards it holds the socket and answers no ping.
        tokio::select! {
            response = response => response.unwrap(),
            _ = &mut connection => panic!("the connection has ended"),
        }
    };
    let _response = within("the head", response).await;
    gate.reached().await;
    // No record before the socket dies: nothing is known yet.
    recorder.assert_open(1);
    assert_eq!(recorder.account().await, cancelled(Phase::Body, 5));
}

#[tokio::test]
async fn client_that_stops_reading_stalls_its_stream() {
    for rst in [false, true] {
        let recorder = Recorder::new();
        let endless = body([]).endless(16 * 1024);
        let server = serve(Options::h1(), recorder.around(answers([Response::new(endless.clone())]))).await;
        let mut client = RawClient::get(server.addr).await;
        client.read_until("200 OK").await;
        let stalled = recorder.stalled().await;
        recorder.assert_open(1);
        client.leave(rst).await;
        let account = recorder.account().await;
        assert!(account.bytes >= stalled);
        assert_eq!(account, cancelled(Phase::Body, account.bytes));

        let recorder = Recorder::new();
        let server = serve(Options::h2(), recorder.around(answers([Response::new(endless)]))).await;
        let mut client = H2Client::connect(server.addr).await;
        let (response, _sending) = client.get();
        let _response = within("the head", response).await.unwrap();
        let stalled = recorder.stalled().await;
        recorder.assert_open(1);
        client.leave();
        assert_eq!(recorder.account().await, cancelled(Phase::Body, stalled));
    }
}
