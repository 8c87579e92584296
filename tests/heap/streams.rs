//! Ten thousand streams that are open at once: what the layer takes for each, and that all of it comes back
//! when all are cancelled in one moment.
//!
//! The figures are the process's, so there is one test. `-- --nocapture` shows them.

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use streaming_accumulator::{Capture, Handle, StreamingAccumulatorLayer};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

use crate::body::{Held, held};
use crate::heap;
use crate::support::*;

const STREAMS: usize = 10_000;

/// In which all records are delivered after all streams were cancelled.
const SOON: Duration = Duration::from_secs(2);

/// Bytes that the layer may take for each stream beside what it captures.
const MOST: i64 = 2048;

/// Bytes that the first streams of a layer may leave behind: most are the pool's.
const LEFT: i64 = 2 * 1024 * 1024;

/// Of HTTP/2, each with as many streams as hyper admits.
const CONNECTIONS: usize = 50;

/// A layer that counts the records it delivers: kept, they would be counted with the heap.
struct Counted {
    layer: StreamingAccumulatorLayer,
    records: Arc<AtomicUsize>,
}

/// A service that answers as a server of events does; the request's body is the response's.
macro_rules! service {
    () => {
        tower::service_fn(|request: Request<Held>| ready(Ok::<_, Infallible>(answer(request.into_body()))))
    };
}

fn answer<B>(body: B) -> Response<B> {
    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
}

/// One open stream of `service` that was polled until it waits.
async fn open<S, B>(service: S, chunk: Option<Bytes>) -> Pin<Box<B>>
where
    S: tower::Service<Request<Held>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let request = Request::post("/v1/chat/completions").body(held(chunk)).unwrap();
    let response = service.oneshot(request).await.unwrap();
    let mut body = Box::pin(response.into_body());
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(frame) = body.as_mut().poll_frame(&mut cx) {
        assert!(matches!(frame, Some(Ok(_))), "it waits for ever");
    }
    body
}

/// Opens all streams; they, and the bytes on the heap for each.
async fn open_all<S, B>(service: S, chunk: Option<&Bytes>) -> (Vec<Pin<Box<B>>>, i64)
where
    S: tower::Service<Request<Held>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes>,
{
    let mut bodies = Vec::with_capacity(STREAMS);
    let before = heap::live();
    for _ in 0..STREAMS {
        bodies.push(open(service.clone(), chunk.cloned()).await);
    }
    let each = (heap::live() - before) / STREAMS as i64;
    (bodies, each)
}

/// Bytes on the heap for each stream under the layer. Then all are cancelled: each has a record, and their
/// memory comes back.
async fn with_the_layer(name: &str, capture: Capture, chunk: Option<&Bytes>) -> i64 {
    let counted = Counted::new(capture);
    let service = counted.layer.layer(service!());
    let mut each = 0;
    for round in 1..=2 {
        let before = heap::live();
        let bodies;
        (bodies, each) = open_all(service.clone(), chunk).await;
        assert_eq!(counted.handle().audit().in_flight(), STREAMS as u64);

        let cancelled = Instant::now();
        drop(bodies);
        counted.delivered(round * STREAMS).await;
        let took = cancelled.elapsed();
        println!("{name}, round {round}: {each} B each; all {STREAMS} cancelled and delivered in {took:?}");
        back(round, before, cancelled).await;
    }
    drop((service, counted));
    // Its workers end, and with them its queue.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    each
}

/// Waits until what was taken since `before` is back. The first round leaves a queue that has grown and blocks
/// in the pool; the second one nothing more.
async fn back(round: usize, before: i64, cancelled: Instant) {
    let (peak, most) = (heap::live() - before, if round == 1 { LEFT } else { before / 20 });
    until("memory to come back", || heap::live() - before <= most).await;
    let (left, took) = (heap::live() - before, cancelled.elapsed());
    println!(
        "    {left} B over the {before} B of before {took:?} after the cancellation, {peak} B on delivery"
    );
    assert!(took < SOON, "{took:?}");
}

/// Streams over real connections: bytes on the heap for each, what server and client need included.
async fn over_http2(name: &str, counted: Option<&Counted>, server: Server) -> i64 {
    let streams = STREAMS / CONNECTIONS;
    let mut each = 0;
    for round in 1..=2 {
        let before = heap::live();
        let (mut clients, mut bodies) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            let mut client = H2Client::connect(server.addr).await;
            let responses: Vec<_> = (0..streams).map(|_| client.get()).collect();
            clients.push(client);
            for (response, _sending) in responses {
                bodies.push(within("a head", response).await.unwrap().into_body());
            }
        }
        each = (heap::live() - before) / STREAMS as i64;

        let cancelled = Instant::now();
        clients.into_iter().for_each(H2Client::leave);
        drop(bodies);
        match counted {
            Some(counted) => counted.delivered(round * STREAMS).await,
            None => server.all_closed().await,
        }
        let took = cancelled.elapsed();
        println!("{name}, round {round}: {each} B each; all {STREAMS} cancelled and gone in {took:?}");
        server.all_closed().await;
        back(round, before, cancelled).await;
    }
    each
}

// === impl Counted ===

impl Counted {
    fn new(capture: Capture) -> Self {
        let records = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&records);
        let layer = StreamingAccumulatorLayer::builder()
            .capture(capture)
            .on_cancel(move |_| {
                counted.fetch_add(1, SeqCst);
                ready(())
            })
            .build()
            .unwrap();
        Self { layer, records }
    }

    fn handle(&self) -> Handle {
        self.layer.handle()
    }

    /// Waits for `records` records, of which there must be no more.
    async fn delivered(&self, records: usize) {
        let handle = self.handle();
        until("the records", || handle.audit().hooks()[0].delivered() >= records as u64).await;
        assert_eq!(self.records.load(SeqCst), records);
        let audit = handle.audit();
        assert!(audit.is_balanced(), "{audit:?}");
        assert_eq!((audit.in_flight(), audit.cancelled(), audit.memory_used()), (0, records as u64, 0));
    }
}

pub(crate) fn measure() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_, bare) = open_all(service!(), None).await;
        println!("without the layer: {bare} B each");
        let chunk = Bytes::from_static(&[b'x'; 200]);
        let (all, tail) = (Capture::all(1 << 20), Capture::tail(1 << 14));
        for (name, capture, chunk, most) in [
            ("none, nothing yielded", Capture::none(), None, MOST),
            ("none, 200 B yielded", Capture::none(), Some(&chunk), MOST),
            ("all, nothing yielded", all, None, MOST),
            // The smallest block holds 1 KiB.
            ("all, 200 B yielded", all, Some(&chunk), MOST + 1024),
            ("tail, 200 B yielded", tail, Some(&chunk), MOST + 1024),
        ] {
            let more = with_the_layer(name, capture, chunk).await - bare;
            println!("    the layer: {more} B");
            assert!(more <= most, "{more}");
        }

        let holding = handler(async |_: Request<Incoming>| Ok(answer(boxed(held(None)))));
        let bare = over_http2("HTTP/2 without", None, serve(Options::h2(), holding.clone()).await).await;
        let counted = Counted::new(all);
        let server = serve(Options::h2(), counted.layer.layer(holding)).await;
        let more = over_http2("HTTP/2", Some(&counted), server).await - bare;
        println!("    the layer: {more} B");
        assert!(more <= MOST, "{more}");
    });
}
