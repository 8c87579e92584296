//! What the layer costs a whole server: `cargo bench --bench end_to_end`.
//!
//! Two hyper servers on loopback, HTTP/1.1, on one worker of a multi-thread runtime, which is what servers
//! run on: one with the layer (default capture, a hook that does nothing), one without. A client on another
//! thread keeps 64 connections busy with one of the two at a time, in short interleaved rounds. Beside
//! requests per second it prints how much CPU time the server's thread took per request, where the kernel
//! tells: other work on the machine bends that less.

#[path = "support/body.rs"]
mod body;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use body::Frames;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use streaming_accumulator::{BoxError, StreamingAccumulatorLayer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::{Layer, Service};

const CONNECTIONS: usize = 64;
const FRAMES: usize = 64;
const SIZE: usize = 256;
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(700);
const WARM_UP: Duration = Duration::from_millis(300);

/// Requests per second with the layer are to be at least this part of those without.
const WANTED: f64 = 0.97;

type Connection = SendRequest<Empty<Bytes>>;

/// Where the two servers listen, and the file in which the kernel keeps their thread's CPU time.
struct Servers {
    without: SocketAddr,
    with: SocketAddr,
    schedstat: Option<String>,
}

/// What one round measured.
#[derive(Clone, Copy)]
struct Round {
    per_second: f64,
    cpu_per_request: Option<Duration>,
}

fn main() {
    let (up, servers) = oneshot::channel();
    let server = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    server.spawn(serve_both(up));
    let client = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let [without, with] = client.block_on(async {
        let servers = servers.await.expect("the servers start");
        drive_both(&servers).await.expect("no request fails")
    });
    print(&without, &with);
}

// === the servers ===

async fn serve_both(up: oneshot::Sender<Servers>) {
    let handler = tower::service_fn(async |_: Request<hyper::body::Incoming>| {
        Ok::<_, Infallible>(Response::new(Frames::new(FRAMES, SIZE)))
    });
    let layer = StreamingAccumulatorLayer::builder().on_end(async |_| ()).build();
    let layered = layer.expect("a valid configuration").layer(handler);
    let listeners = [listener().await, listener().await];
    let [without, with] = listeners.each_ref().map(|l| l.local_addr().expect("it is bound"));
    // Of this thread: the runtime has no other worker.
    let link = std::fs::read_link("/proc/thread-self").ok();
    let schedstat = link.map(|link| format!("/proc/{}/schedstat", link.display()));
    up.send(Servers { without, with, schedstat }).unwrap_or_else(|_| panic!("the client is gone"));
    let [plain_listener, layered_listener] = listeners;
    tokio::join!(serve(plain_listener, handler), serve(layered_listener, layered));
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a free port")
}

async fn serve<S, B>(listener: TcpListener, service: S)
where
    S: Service<Request<hyper::body::Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await.expect("connections can be accepted");
        stream.set_nodelay(true).expect("it is open");
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            // Fails when the client's end goes away, at the end of the bench.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

// === the client ===

/// All rounds: without and with the layer in pairs, each time the other one first.
async fn drive_both(servers: &Servers) -> Result<[Vec<Round>; 2], BoxError> {
    let mut connections = [connect(servers.without).await?, connect(servers.with).await?];
    let mut rounds = [const { Vec::new() }; 2];
    for connections in &mut connections {
        drive(connections, WARM_UP).await?;
    }
    for turn in 0..2 * ROUNDS {
        // 0, 1, 1, 0, 0, 1, 1, 0: drift hits both alike.
        let which = turn.div_ceil(2) % 2;
        let before = cpu_time(servers);
        let started = Instant::now();
        let requests = drive(&mut connections[which], ROUND).await?;
        let elapsed = started.elapsed();
        let cpu = before.zip(cpu_time(servers)).map(|(before, after)| after.saturating_sub(before));
        rounds[which].push(Round {
            per_second: f64::from(requests) / elapsed.as_secs_f64(),
            cpu_per_request: cpu.map(|cpu| cpu / requests.max(1)),
        });
    }
    Ok(rounds)
}

async fn connect(address: SocketAddr) -> Result<Vec<Connection>, BoxError> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        connections.push(sender);
    }
    Ok(connections)
}

/// Keeps all `connections` busy for so long, and says how many requests were answered in full.
async fn drive(connections: &mut Vec<Connection>, duration: Duration) -> Result<u32, BoxError> {
    let deadline = Instant::now() + duration;
    let mut tasks = JoinSet::new();
    for mut connection in connections.drain(..) {
        tasks.spawn(async move {
            let mut requests = 0;
            while Instant::now() < deadline {
                request(&mut connection).await?;
                requests += 1;
            }
            Ok::<_, BoxError>((connection, requests))
        });
    }
    let mut total = 0;
    while let Some(done) = tasks.join_next().await {
        let (connection, requests) = done??;
        connections.push(connection);
        total += requests;
    }
    Ok(total)
}

async fn request(connection: &mut Connection) -> Result<(), BoxError> {
    connection.ready().await?;
    let request = Request::get("/").header("host", "localhost").body(Empty::new())?;
    let mut body = connection.send_request(request).await?.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.into_data().map_or(0, |data| data.len());
    }
    assert_eq!(bytes, FRAMES * SIZE);
    Ok(())
}

/// CPU time that the servers' thread has had: the first number, in nanoseconds.
fn cpu_time(servers: &Servers) -> Option<Duration> {
    let text = std::fs::read_to_string(servers.schedstat.as_ref()?).ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

// === the result ===

fn print(without: &[Round], with: &[Round]) {
    println!(
        "{CONNECTIONS} connections, {FRAMES} frames of {SIZE} bytes, {ROUNDS} interleaved rounds of {ROUND:?}"
    );
    let rate = |round: &Round| round.per_second;
    let (median, best) = row("requests per second", without, with, rate, f64::max);
    let cpu = |round: &Round| round.cpu_per_request.map_or(f64::NAN, |cpu| cpu.as_nanos() as f64 / 1000.0);
    row("server CPU, us/request", without, with, cpu, f64::min);
    let met = if median >= WANTED { "met" } else { "MISSED" };
    println!(
        "wanted of requests per second: ratio at least {WANTED}. Median {median:.3}, best {best:.3}: {met}"
    );
}

/// Prints one measure, and returns the median of the rounds' ratios and the ratio of the best rounds.
fn row(
    name: &str,
    without: &[Round],
    with: &[Round],
    measure: impl Fn(&Round) -> f64,
    better: fn(f64, f64) -> f64,
) -> (f64, f64) {
    let best = |rounds: &[Round]| rounds.iter().map(&measure).reduce(better).unwrap_or(f64::NAN);
    let mut ratios: Vec<f64> =
        with.iter().zip(without).map(|(with, without)| measure(with) / measure(without)).collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    let (without, with) = (best(without), best(with));
    println!(
        "{name:<24} best without {without:>9.1}, with {with:>9.1}: ratio {:.3}; median ratio of the rounds {median:.3} ({:.3} to {:.3})",
        with / without,
        ratios[0],
        ratios[ratios.len() - 1]
    );
    (median, with / without)
}
