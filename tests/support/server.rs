//! Real servers on loopback.

use std::collections::VecDeque;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tower::Service;

use super::body::MockBody;

pub(crate) use streaming_accumulator::BoxError;

/// Any body; boxing hides neither the size hint nor the end hint.
pub(crate) type TestBody = UnsyncBoxBody<Bytes, BoxError>;

/// How a server behaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    pub(crate) h2: bool,
    pub(crate) half_close: bool,
    /// Through hyper-util's tower adapter: it calls the service when the future is first polled.
    pub(crate) adapter: bool,
    /// HTTP/2 pings after so much silence, and gives up after as much again.
    pub(crate) pings: Option<Duration>,
}

/// A running server. Dropping it stops the listener; connections live on.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    graceful: watch::Sender<bool>,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    listener: AbortHandle,
}

/// A service that gives these answers in turn, and counts its calls.
#[derive(Clone)]
pub(crate) struct Script {
    answers: Arc<Mutex<VecDeque<Response<MockBody>>>>,
    calls: Arc<AtomicU64>,
}

pub(crate) fn answers(answers: impl IntoIterator<Item = Response<MockBody>>) -> Script {
    Script { answers: Arc::new(Mutex::new(answers.into_iter().collect())), calls: Arc::default() }
}

pub(crate) fn boxed<B>(body: B) -> TestBody
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

/// A service from a closure.
pub(crate) fn handler<T, F>(
    f: impl Fn(Request<T>) -> F + Clone,
) -> tower::util::ServiceFn<impl Fn(Request<T>) -> F + Clone>
where
    F: Future<Output = Result<Response<TestBody>, BoxError>>,
{
    tower::service_fn(f)
}

/// Serves `service` on loopback.
pub(crate) async fn serve<S, B>(options: Options, service: S) -> Server
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    serve_on(listener, options, service)
}

/// Serves `service` to clients that connect to `listener`, or did before.
pub(crate) fn serve_on<S, B>(listener: TcpListener, options: Options, service: S) -> Server
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let addr = listener.local_addr().unwrap();
    let (graceful, stop) = watch::channel(false);
    let connections = Arc::new(Mutex::new(Vec::<AbortHandle>::new()));
    let accepted = Arc::clone(&connections);
    let accept = async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let connection =
                tokio::spawn(connection(options, TokioIo::new(stream), service.clone(), stop.clone()));
            let mut accepted = accepted.lock().unwrap();
            // A handle keeps the memory of its task.
            accepted.retain(|connection| !connection.is_finished());
            accepted.push(connection.abort_handle());
        }
    };
    Server { addr, graceful, connections, listener: tokio::spawn(accept).abort_handle() }
}

async fn connection<S, B>(
    options: Options,
    io: TokioIo<tokio::net::TcpStream>,
    service: S,
    mut stop: watch::Receiver<bool>,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let mut h1 = http1::Builder::new();
    // A date would differ between two runs that are compared.
    h1.half_close(options.half_close).auto_date_header(false).timer(TokioTimer::new());
    let mut h2 = http2::Builder::new(TokioExecutor::new());
    h2.auto_date_header(false).timer(TokioTimer::new());
    if let Some(pings) = options.pings {
        h2.keep_alive_interval(pings).keep_alive_timeout(pings);
    }
    macro_rules! run {
        ($builder:ident, $service:expr) => {{
            let mut connection = pin!($builder.serve_connection(io, $service));
            // How it ends is the client's to see; the tests look at the records.
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        }};
    }
    // Calls the service at once, as a hyper server without an adapter does.
    let direct = hyper::service::service_fn({
        let service = service.clone();
        move |request| service.clone().call(request)
    });
    let adapted = hyper_util::service::TowerToHyperService::new(service);
    match (options.h2, options.adapter) {
        (false, false) => run!(h1, direct),
        (false, true) => run!(h1, adapted),
        (true, false) => run!(h2, direct),
        (true, true) => run!(h2, adapted),
    }
}

// === impl Options ===

impl Options {
    pub(crate) fn h1() -> Self {
        Self::default()
    }

    pub(crate) fn h2() -> Self {
        Self { h2: true, ..Self::default() }
    }
}

// === impl Server ===

impl Server {
    /// Lets every connection finish what it does.
    pub(crate) fn shut_down_gracefully(&self) {
        self.graceful.send_replace(true);
    }

    /// Waits until there were connections, and all are over.
    pub(crate) async fn all_closed(&self) {
        let closed = || {
            let connections = self.connections.lock().unwrap();
            !connections.is_empty() && connections.iter().all(AbortHandle::is_finished)
        };
        super::until("the connections to close", closed).await;
    }

    pub(crate) fn abort_connections(&self) {
        for connection in self.connections.lock().unwrap().iter() {
            connection.abort();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

// === impl Script ===

impl Script {
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(SeqCst)
    }
}

impl<B> Service<Request<B>> for Script {
    type Response = Response<MockBody>;
    type Error = BoxError;
    type Future = Ready<Result<Response<MockBody>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        self.calls.fetch_add(1, SeqCst);
        ready(self.answers.lock().unwrap().pop_front().ok_or_else(|| "no answer left".into()))
    }
}
