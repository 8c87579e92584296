//! How fast a response of 1 GiB goes through a budget of 4 MiB: `cargo bench --bench spill`.
//!
//! hyper servers on loopback, HTTP/1.1, one client that reads as fast as it can: without the layer, with it
//! but without capture, and with all of it captured, spilled to the directory `SPILL` (default: the
//! system's temporary one). Interleaved rounds, each with a connection of its own.

#[path = "support/body.rs"]
mod body;
#[path = "support/rounds.rs"]
mod rounds;

use std::convert::Infallible;
use std::env;
use std::sync::{Arc, Mutex, PoisonError};

use body::Frames;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use streaming_accumulator::{BoxError, Capture, MemoryBudget, StreamRecord, StreamingAccumulatorLayer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::time::Instant;
use tower::{Layer, Service};

const SIZE: usize = 64 << 10;
const FRAMES: usize = (1 << 30) / SIZE;
const BUDGET: usize = 4 << 20;
const ROUNDS: usize = 5;

/// At least this part of the speed without capture.
const WANTED: f64 = 0.5;

type Round = fn() -> [f64; 1];

const CONTESTANTS: [(&str, Round); 3] = [
    ("no layer", || [mebibytes_per_second(plain)]),
    ("capture none", || [mebibytes_per_second(|| layer(Capture::none()).0.layer(plain()))]),
    ("all, spilled", spilled),
];

fn main() {
    println!("1 GiB in frames of {} KiB, budget {} MiB, best of {ROUNDS} rounds\n", SIZE >> 10, BUDGET >> 20);
    // The least is the best: of the negative of a speed.
    let best = rounds::best_of(ROUNDS, &mut { CONTESTANTS }, |(_, round)| round().map(|speed| -speed));
    for ((name, _), [speed]) in CONTESTANTS.iter().zip(&best) {
        println!("{name:<14}{:>8.0} MiB/s", -speed);
    }
    let ratio = best[2][0] / best[1][0];
    let met = if ratio >= WANTED { "met" } else { "MISSED" };
    println!("\nwanted of the last: at least {WANTED} of the one before. It has {ratio:.2}: {met}");
}

type Records = Arc<Mutex<Vec<Arc<StreamRecord>>>>;

fn layer(capture: Capture) -> (StreamingAccumulatorLayer, MemoryBudget, Records) {
    let (budget, records) = (MemoryBudget::new(BUDGET), Records::default());
    let kept = Arc::clone(&records);
    let layer = StreamingAccumulatorLayer::builder()
        .capture(capture)
        .memory_budget(&budget)
        .spill_after(1 << 20)
        .spill_directory(env::var_os("SPILL").unwrap_or_else(|| env::temp_dir().into()))
        .on_end(move |record| {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(record);
            std::future::ready(())
        })
        .build()
        .expect("a valid configuration");
    (layer, budget, records)
}

fn plain()
-> impl Service<Request<Incoming>, Response = Response<Frames>, Error = Infallible, Future: Send> + Clone + Send
{
    tower::service_fn(async |_: Request<Incoming>| {
        Ok::<_, Infallible>(Response::new(Frames::new(FRAMES, SIZE)))
    })
}

fn spilled() -> [f64; 1] {
    let (layer, budget, records) = layer(Capture::all(2 << 30));
    let speed = mebibytes_per_second(|| layer.layer(plain()));
    let records = records.lock().unwrap_or_else(PoisonError::into_inner);
    let content = records[0].content();
    assert_eq!(content.len(), FRAMES * SIZE, "{:?}", content.spill_error());
    assert!(!content.is_truncated() && content.is_spilled() && budget.peak() <= BUDGET as u64);
    [speed]
}

/// One response, from the request to its last byte.
fn mebibytes_per_second<S, B>(service: impl FnOnce() -> S) -> f64
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let service = TowerToHyperService::new(service());
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("it can be accepted");
            let server = hyper::server::conn::http1::Builder::new();
            // Ends with the client.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
        let stream = TcpStream::connect(address).await.expect("it listens");
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.expect("it speaks HTTP");
        tokio::spawn(connection);
        let request = Request::get("/").header("host", "localhost").body(Empty::<Bytes>::new());
        let started = Instant::now();
        let mut body = sender.send_request(request.expect("valid")).await.expect("an answer").into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame.expect("whole").into_data().map_or(0, |data| data.len());
        }
        let elapsed = started.elapsed();
        assert_eq!(bytes, FRAMES * SIZE);
        drop((body, sender));
        server.await.expect("it ends");
        // What follows the last byte: the record.
        tokio::task::yield_now().await;
        (bytes >> 20) as f64 / elapsed.as_secs_f64()
    })
}
