//! Clients that can misbehave.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::within;

/// A TCP connection that speaks HTTP/1 by hand.
pub(crate) struct RawClient {
    stream: TcpStream,
    pub(crate) received: Vec<u8>,
}

/// An HTTP/2 connection, driven by a task of its own.
pub(crate) struct H2Client {
    pub(crate) requests: SendRequest<Bytes>,
    pub(crate) connection: JoinHandle<Result<(), h2::Error>>,
    pub(crate) pings: h2::PingPong,
}

/// All that a client saw of a response.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reply {
    /// HTTP/1: every byte.
    pub(crate) raw: Bytes,
    /// HTTP/2: the rest.
    pub(crate) status: Option<StatusCode>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The sizes of the DATA frames.
    pub(crate) frames: Vec<usize>,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) reset: Option<h2::Reason>,
    /// The connection or the stream did not end in order.
    pub(crate) broken: bool,
}

// === impl RawClient ===

impl RawClient {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(addr).await.unwrap(), received: Vec::new() }
    }

    /// With a small receive buffer.
    pub(crate) async fn connect_small(addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self { stream: socket.connect(addr).await.unwrap(), received: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    pub(crate) async fn get(addr: SocketAddr) -> Self {
        let mut client = Self::connect(addr).await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        client
    }

    /// Reads until `needle` was seen.
    pub(crate) async fn read_until(&mut self, needle: &str) {
        let read = async {
            let needle = needle.as_bytes();
            while !self.received.windows(needle.len()).any(|window| window == needle) {
                let read = self.stream.read_buf(&mut self.received).await;
                assert!(matches!(read, Ok(1..)), "{read:?} after {}", self.text());
            }
        };
        within(needle, read).await;
    }

    /// As [`read_until`](Self::read_until); false if the server closed before.
    pub(crate) async fn try_read_until(&mut self, needle: &str) -> bool {
        let read = async {
            while !self.text().contains(needle) {
                if !matches!(self.stream.read_buf(&mut self.received).await, Ok(1..)) {
                    return false;
                }
            }
            true
        };
        within(needle, read).await
    }

    /// Reads at least `bytes` bytes; false if the server closed before.
    pub(crate) async fn try_read_bytes(&mut self, bytes: usize) -> bool {
        let read = async {
            while self.received.len() < bytes {
                if !matches!(self.stream.read_buf(&mut self.received).await, Ok(1..)) {
                    return false;
                }
            }
            true
        };
        within("bytes", read).await
    }

    /// Reads at least `bytes` bytes.
    pub(crate) async fn read_bytes(&mut self, bytes: usize) {
        let read = async {
            while self.received.len() < bytes {
                assert!(self.stream.read_buf(&mut self.received).await.unwrap() > 0, "{}", self.text());
            }
        };
        within("bytes", read).await;
    }

    /// Reads until the server closes; true if it closed in order.
    pub(crate) async fn read_to_end(&mut self) -> bool {
        within("the end of the connection", self.stream.read_to_end(&mut self.received)).await.is_ok()
    }

    /// Closes the sending side and stays to read.
    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Sends FIN and is gone.
    pub(crate) async fn fin(mut self) {
        self.half_close().await;
    }

    /// Sends RST.
    pub(crate) fn rst(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// FIN or RST.
    pub(crate) async fn leave(self, rst: bool) {
        if rst { self.rst() } else { self.fin().await }
    }

    /// As [`leave`](Self::leave), from a connection that the server may have closed.
    pub(crate) async fn leave_if_it_can(mut self, rst: bool) {
        if rst {
            let _ = self.stream.set_zero_linger();
        } else {
            let _ = self.stream.shutdown().await;
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }
}

// === impl H2Client ===

impl H2Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::build(&h2::client::Builder::new(), addr, false).await
    }

    /// A client whose socket sends RST when the connection task is aborted.
    pub(crate) async fn connect_abrupt(addr: SocketAddr) -> Self {
        Self::build(&h2::client::Builder::new(), addr, true).await
    }

    pub(crate) async fn build(builder: &h2::client::Builder, addr: SocketAddr, rst: bool) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        if rst {
            stream.set_zero_linger().unwrap();
        }
        let (requests, mut connection) = within("a handshake", builder.handshake(stream)).await.unwrap();
        let pings = connection.ping_pong().unwrap();
        Self { requests, connection: tokio::spawn(connection), pings }
    }

    pub(crate) fn send(&mut self, request: Request<()>) -> (ResponseFuture, h2::SendStream<Bytes>) {
        self.requests.send_request(request, true).unwrap()
    }

    pub(crate) fn get(&mut self) -> (ResponseFuture, h2::SendStream<Bytes>) {
        self.send(Request::get("http://a/").body(()).unwrap())
    }

    /// The server has seen everything that was sent before.
    pub(crate) async fn round_trip(&mut self) {
        within("a pong", self.pings.ping(h2::Ping::opaque())).await.unwrap();
    }

    /// Takes the socket away: FIN, or RST if it was made so.
    pub(crate) fn leave(self) {
        self.connection.abort();
    }
}

/// Reads a whole response.
pub(crate) async fn read_h2(response: ResponseFuture) -> Reply {
    let mut reply = Reply::default();
    if let Err(error) = within("an HTTP/2 response", read_into(response, &mut reply)).await {
        reply.reset = error.reason();
        reply.broken = true;
    }
    reply
}

async fn read_into(response: ResponseFuture, reply: &mut Reply) -> Result<(), h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    reply.status = Some(head.status);
    reply.headers = head.headers;
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        reply.frames.push(data.len());
        bytes.extend_from_slice(&data);
        reply.body = bytes.clone().into();
    }
    reply.trailers = body.trailers().await?;
    Ok(())
}

// === impl Reply ===

impl Reply {
    pub(crate) fn of_h1(client: &RawClient, clean: bool) -> Self {
        let raw = Bytes::copy_from_slice(&client.received);
        let start = client.received.windows(4).position(|window| window == b"\r\n\r\n");
        let mut body = start.map_or(Bytes::new(), |start| raw.slice(start + 4..));
        if client.text().contains("transfer-encoding: chunked\r\n") {
            body = dechunked(&body);
        }
        Self { raw, body, broken: !clean, ..Self::default() }
    }

    /// HTTP/1: head and body, as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }
}

/// The content of a chunked body, as far as it came.
fn dechunked(mut body: &[u8]) -> Bytes {
    let mut content = Vec::new();
    while let Some(line) = body.windows(2).position(|window| window == b"\r\n") {
        let size =
            std::str::from_utf8(&body[..line]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(size @ 1..) = size else { break };
        let rest = &body[line + 2..];
        content.extend_from_slice(&rest[..size.min(rest.len())]);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    content.into()
}
