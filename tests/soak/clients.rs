//! Clients that read all of a stream, leave it, or lose their connection.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};

use crate::checks::Soak;
use crate::support::*;

/// Streams at once on an HTTP/2 connection, at the most.
pub(crate) const AT_ONCE: usize = 4;

/// How much of a stream a client wants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wants {
    All,
    /// It leaves after this number of bytes.
    Bytes(u64),
    /// Its connection goes at any moment.
    Cut,
}

/// How a client's request ended for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Seen {
    Whole,
    Left,
    Broken,
    Rejected,
}

/// Spawns a client's tasks, and can end them at once.
#[derive(Clone, Default)]
pub(crate) struct Tasks(Arc<Mutex<Vec<AbortHandle>>>);

pub(crate) fn request(n: u64) -> Request<Empty<Bytes>> {
    Request::get(format!("http://a/{n}")).body(Empty::new()).unwrap()
}

/// One request after the other, over as few connections as it can.
pub(crate) async fn h1_client(soak: Arc<Soak>, addr: SocketAddr, mut rng: Rng) {
    let mut connection = None;
    while !soak.is_over() {
        let (mut requests, driver) = match connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(addr).await.unwrap();
                let (requests, driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
                (requests, tokio::spawn(driver))
            }
        };
        if within("the connection", requests.ready()).await.is_err() {
            continue;
        }
        let n = soak.take(1)[0];
        let seen = soak.receive(n, Wants::some(&mut rng), requests.send_request(request(n))).await;
        soak.count(seen);
        match seen {
            Seen::Whole | Seen::Rejected => connection = Some((requests, driver)),
            Seen::Left | Seen::Broken => driver.abort(),
        }
    }
}

/// A few requests at once over one connection, which goes in the end: sometimes while they run.
pub(crate) async fn h2_client(soak: Arc<Soak>, addr: SocketAddr, mut rng: Rng) {
    while !soak.is_over() {
        let stream = TcpStream::connect(addr).await.unwrap();
        let tasks = Tasks::default();
        let (requests, driver) = http2::handshake(tasks.clone(), TokioIo::new(stream)).await.unwrap();
        tasks.execute(async { drop(driver.await) });
        let mut rounds = rng.usize(1..30);
        while rounds > 0 && !soak.is_over() {
            rounds -= 1;
            let cut = rounds == 0 && rng.bool();
            let mut streams = JoinSet::new();
            for n in soak.take(rng.usize(1..=AT_ONCE)) {
                let (soak, mut requests) = (Arc::clone(&soak), requests.clone());
                let wants = if cut { Wants::Cut } else { Wants::some(&mut rng) };
                streams.spawn(async move {
                    let seen = soak.receive(n, wants, requests.send_request(request(n))).await;
                    soak.count(seen);
                });
            }
            if cut {
                tokio::time::sleep(Duration::from_micros(rng.u64(0..5000))).await;
                tasks.abort();
            }
            streams.join_all().await;
        }
        tasks.abort();
    }
}

impl Wants {
    pub(crate) fn some(rng: &mut Rng) -> Self {
        let most = 1 << rng.u32(0..18);
        if rng.u8(..4) == 0 { Self::Bytes(rng.u64(0..most)) } else { Self::All }
    }
}

impl Tasks {
    pub(crate) fn abort(&self) {
        self.0.lock().unwrap().iter().for_each(AbortHandle::abort);
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.lock().unwrap().push(tokio::spawn(future).abort_handle());
    }
}
