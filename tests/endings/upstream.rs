//! Upstream bodies inside ours: a gateway.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyStream, Empty, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use streaming_accumulator::Evidence::{EndHint, EndOfBody, Error, Length, Trailers};
use streaming_accumulator::{BoxError, Phase};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_http::timeout::TimeoutBody;

use crate::support::*;

/// How the gateway hands the upstream's body on.
#[derive(Clone, Copy, Debug)]
enum Hands {
    /// As it is.
    On,
    /// As a stream that has lost its hints, under the upstream's content-length.
    Rewrapped,
    /// With a time limit.
    Timed,
}

/// A gateway with our layer, and its one client, which has the head and the first frame.
struct Gateway {
    recorder: Recorder,
    client: RawClient,
    server: Server,
}

async fn gateway(upstream: SocketAddr, h2: bool, hands: Hands) -> Gateway {
    let recorder = Recorder::new();
    let service = handler(move |_: Request<Incoming>| async move { forward(upstream, h2, hands).await });
    let server = serve(Options::h1(), recorder.around(service)).await;
    let mut client = RawClient::get(server.addr).await;
    client.read_until("hello").await;
    Gateway { recorder, client, server }
}

async fn forward(upstream: SocketAddr, h2: bool, hands: Hands) -> Result<Response<TestBody>, BoxError> {
    let io = TokioIo::new(TcpStream::connect(upstream).await?);
    let request = Request::get("http://u/").header("host", "u").body(Empty::<Bytes>::new())?;
    let response = if h2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    };
    let (head, body) = response.into_parts();
    Ok(match hands {
        Hands::On => Response::new(boxed(body)),
        Hands::Timed => Response::new(boxed(TimeoutBody::new(Duration::from_millis(50), body))),
        Hands::Rewrapped => {
            let mut response = Response::new(boxed(StreamBody::new(BodyStream::new(body))));
            if let Some(length) = head.headers.get("content-length") {
                response.headers_mut().insert("content-length", length.clone());
            }
            response
        }
    })
}

/// An HTTP/1 upstream: sends `first`, waits at the gate, sends `rest`, and closes with FIN or RST.
async fn upstream(first: &'static str, gate: &Gate, rest: &'static str, rst: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let gate = gate.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut request).await.unwrap();
        }
        stream.write_all(first.as_bytes()).await.unwrap();
        gate.passed().await;
        stream.write_all(rest.as_bytes()).await.unwrap();
        if rst {
            stream.set_zero_linger().unwrap();
        }
    });
    addr
}

/// What the record says of such an upstream's response.
async fn h1(first: &'static str, rest: &'static str, rst: bool, hands: Hands) -> (Account, Gateway) {
    let gate = Gate::new();
    let gateway = gateway(upstream(first, &gate, rest, rst).await, false, hands).await;
    gateway.recorder.assert_open(1);
    gate.open();
    (gateway.recorder.account().await, gateway)
}

const LENGTH: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n5\r\nhello\r\n";
const UNDELIMITED: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello";

fn cut() -> Account {
    failed("body", Phase::Body, Error, 5)
}

#[tokio::test]
async fn upstream_length_is_complete() {
    let (account, mut gateway) = h1(LENGTH, "world", false, Hands::On).await;
    assert_eq!(account, completed(EndHint, 10));
    gateway.client.read_until("helloworld").await;
}

#[tokio::test]
async fn upstream_is_cut_short() {
    for first in [LENGTH, CHUNKED] {
        for rst in [false, true] {
            assert_eq!(h1(first, "", rst, Hands::On).await.0, cut());
        }
    }
}

#[tokio::test]
async fn upstream_delimited_by_its_close() {
    // Complete or cut: not knowable.
    assert_eq!(h1(UNDELIMITED, "world", false, Hands::On).await.0, completed(EndOfBody, 10));
    assert_eq!(h1(UNDELIMITED, "", true, Hands::On).await.0, cut());
}

#[tokio::test]
async fn upstream_chunked_with_trailers() {
    let (account, _) = h1(CHUNKED, "5\r\nworld\r\n0\r\nx-sum: abc\r\n\r\n", false, Hands::On).await;
    assert_eq!(account, completed(Trailers, 10));
}

/// How an HTTP/2 upstream ends its response after the first frame.
#[derive(Clone, Copy, Debug)]
enum Ends {
    Data(&'static str),
    Trailers,
    Reset(h2::Reason),
    Lost,
}

async fn h2(length: bool, ends: Ends) -> (Account, Gateway) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let gate = Gate::new();
    let opened = gate.clone();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let driver = tokio::spawn(async move { while connection.accept().await.is_some() {} });
        let mut head = Response::new(());
        if length {
            head.headers_mut().insert("content-length", "10".parse().unwrap());
        }
        let mut stream = respond.send_response(head, false).unwrap();
        stream.send_data(Bytes::from("hello"), false).unwrap();
        opened.passed().await;
        match ends {
            Ends::Data(data) => stream.send_data(data.into(), true).unwrap(),
            Ends::Trailers => stream.send_trailers(trailers(&[("x-sum", "abc")])).unwrap(),
            Ends::Reset(reason) => stream.send_reset(reason),
            Ends::Lost => driver.abort(),
        }
        let _ = driver.await;
    });
    let gateway = gateway(addr, true, Hands::On).await;
    gateway.recorder.assert_open(1);
    gate.open();
    (gateway.recorder.account().await, gateway)
}

#[tokio::test]
async fn http2_upstream_ended_by_an_empty_frame() {
    let (account, gateway) = h2(false, Ends::Data("")).await;
    assert_eq!(account, completed(EndHint, 5));
    assert_eq!(gateway.recorder.only().await.metrics().frames(), 2);
}

#[tokio::test]
async fn http2_upstream_ended_on_data_or_trailers() {
    assert_eq!(h2(false, Ends::Data("world")).await.0, completed(EndHint, 10));
    assert_eq!(h2(true, Ends::Data("world")).await.0, completed(EndHint, 10));
    assert_eq!(h2(false, Ends::Trailers).await.0, completed(Trailers, 5));
}

#[tokio::test]
async fn http2_upstream_is_cut_short() {
    let resets = [h2::Reason::CANCEL, h2::Reason::INTERNAL_ERROR, h2::Reason::REFUSED_STREAM];
    for ends in resets.map(Ends::Reset).into_iter().chain([Ends::Lost]) {
        for length in [false, true] {
            assert_eq!(h2(length, ends).await.0, cut(), "{ends:?}");
        }
    }
    assert_eq!(h2(true, Ends::Data("")).await.0, cut());
}

#[tokio::test]
async fn http2_upstream_reset_without_an_error() {
    let ends = Ends::Reset(h2::Reason::NO_ERROR);
    assert_eq!(h2(true, ends).await.0, failed("short_body", Phase::Body, EndOfBody, 5));
    // Nothing was declared: not knowable.
    assert_eq!(h2(false, ends).await.0, completed(EndOfBody, 5));
}

#[tokio::test]
async fn time_limit_on_the_upstream() {
    let never = Gate::new();
    let gateway = gateway(upstream(LENGTH, &never, "", false).await, false, Hands::Timed).await;
    assert_eq!(gateway.recorder.account().await, cut());
}

#[tokio::test]
async fn upstream_rewrapped_as_a_stream() {
    assert_eq!(h1(LENGTH, "world", false, Hands::Rewrapped).await.0, completed(Length, 10));
    let chunks = h1(CHUNKED, "5\r\nworld\r\n0\r\n\r\n", false, Hands::Rewrapped).await.0;
    assert_eq!(chunks, completed(EndOfBody, 10));
    assert_eq!(h1(LENGTH, "", false, Hands::Rewrapped).await.0, cut());
}

#[tokio::test]
async fn proxy_reports_its_upstreams_endings() {
    assert_eq!(h1(LENGTH, "world", false, Hands::On).await.0, completed(EndHint, 10));
    let chunks = h1(CHUNKED, "5\r\nworld\r\n0\r\n\r\n", false, Hands::On).await.0;
    assert_eq!(chunks, completed(EndOfBody, 10));

    for rst in [false, true] {
        let never = Gate::new();
        let gateway = gateway(upstream(CHUNKED, &never, "", false).await, false, Hands::On).await;
        gateway.client.leave(rst).await;
        assert_eq!(gateway.recorder.account().await, cancelled(Phase::Body, 5));
    }

    let (account, mut gateway) = h1(CHUNKED, "", false, Hands::On).await;
    assert_eq!(account, cut());
    gateway.client.read_to_end().await;
    assert!(gateway.client.text().ends_with("5\r\nhello\r\n"), "the client sees a cut response");
    gateway.server.all_closed().await;
}
