//! One request, one scripted response, one record.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use streaming_accumulator::{CaptureRequestLayer, StreamRecord};
use tower::Layer;

use super::account::Account;
use super::body::MockBody;
use super::client::{H2Client, RawClient, Reply, read_h2};
use super::recorder::Recorder;
use super::server::{Options, Server, answers, serve};

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proto {
    /// HTTP/1.0 without keep-alive.
    H10,
    H11,
    H2,
}

pub(crate) use Proto::*;

/// One request and its scripted response.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    proto: Proto,
    method: Method,
    request: Vec<(&'static str, &'static str)>,
    status: StatusCode,
    response: Vec<(&'static str, &'static str)>,
    body: MockBody,
}

pub(crate) fn exchange(proto: Proto, body: MockBody) -> Exchange {
    Exchange { proto, method: Method::GET, request: vec![], status: StatusCode::OK, response: vec![], body }
}

// === impl Exchange ===

impl Exchange {
    pub(crate) fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    pub(crate) fn status(mut self, status: u16) -> Self {
        self.status = StatusCode::from_u16(status).unwrap();
        self
    }

    /// A header of the request.
    pub(crate) fn asks(mut self, name: &'static str, value: &'static str) -> Self {
        self.request.push((name, value));
        self
    }

    /// A header of the response.
    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.response.push((name, value));
        self
    }

    pub(crate) fn response(&self) -> Response<MockBody> {
        let mut response = Response::new(self.body.clone());
        *response.status_mut() = self.status;
        for (name, value) in &self.response {
            response.headers_mut().append(*name, value.parse().unwrap());
        }
        response
    }

    pub(crate) fn options(&self) -> Options {
        Options { h2: self.proto == H2, ..Options::default() }
    }

    /// Sends the request to a server that is there, and reads the reply.
    pub(crate) async fn ask(&self, server: &Server) -> Reply {
        match self.proto {
            H2 => {
                let mut client = H2Client::connect(server.addr).await;
                let uri = if self.method == Method::CONNECT { "a:80" } else { "http://a/" };
                let mut request = Request::builder().method(&self.method).uri(uri);
                for (name, value) in &self.request {
                    request = request.header(*name, *value);
                }
                // Only the end of the request body: a CONNECT request has none yet.
                let (response, _sending) = client.send(request.body(()).unwrap());
                read_h2(response).await
            }
            proto => {
                let target = if self.method == Method::CONNECT { "a:80" } else { "/" };
                let (version, close) =
                    if proto == H10 { ("1.0", "") } else { ("1.1", "connection: close\r\n") };
                let mut text = format!("{} {target} HTTP/{version}\r\nhost: a\r\n", self.method);
                // A header of the test's own, such as an upgrade, replaces ours.
                if !self.request.iter().any(|(name, _)| *name == "connection") {
                    text.push_str(close);
                }
                for (name, value) in &self.request {
                    text.push_str(&format!("{name}: {value}\r\n"));
                }
                let mut client = RawClient::connect(server.addr).await;
                client.send(text + "\r\n").await;
                let clean = client.read_to_end().await;
                Reply::of_h1(&client, clean)
            }
        }
    }

    /// The exchange through the layer: what the client saw, and the one record.
    pub(crate) async fn run(&self) -> (Reply, Arc<StreamRecord>) {
        self.run_through(Recorder::new()).await
    }

    /// As [`run`](Self::run), through a layer of the test's own.
    pub(crate) async fn run_through(&self, recorder: Recorder) -> (Reply, Arc<StreamRecord>) {
        let server = serve(self.options(), recorder.around(answers([self.response()]))).await;
        let reply = self.ask(&server).await;
        (reply, recorder.only().await)
    }

    /// As [`run_through`](Self::run_through), with at most `max` bytes of the request captured.
    pub(crate) async fn run_capturing(&self, recorder: Recorder, max: usize) -> (Reply, Arc<StreamRecord>) {
        let service = CaptureRequestLayer::new(max).layer(answers([self.response()]));
        let server = serve(self.options(), recorder.around(service)).await;
        let reply = self.ask(&server).await;
        (reply, recorder.only().await)
    }

    /// The exchange without the layer.
    pub(crate) async fn run_bare(&self) -> Reply {
        let server = serve(self.options(), answers([self.response()])).await;
        self.ask(&server).await
    }

    /// The exchange through the layer, whose record must say this.
    pub(crate) async fn expect(&self, account: Account) -> Reply {
        let (reply, record) = self.run().await;
        assert_eq!(Account::of(&record), account, "{self:?}");
        reply
    }

    /// As [`expect`](Self::expect), for a client that must have got exactly this body.
    pub(crate) async fn delivers(&self, body: &'static str, account: Account) -> Reply {
        let reply = self.expect(account).await;
        assert_eq!(reply.body, Bytes::from_static(body.as_bytes()), "{self:?}");
        reply
    }
}
