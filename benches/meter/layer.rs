//! The same through the layer: in the body, or on the worker from what was captured.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use streaming_accumulator::meter::{MeterSet, TextPolicy};
use streaming_accumulator::{Builder, Capture, StreamingAccumulatorLayer};
use tokio::runtime;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

use crate::recordings::Recording;
use crate::rounds;

const ROUNDS: usize = 11;
const STREAMS: usize = 200;

/// A layer, and a permit for each record that it delivered.
struct Stack {
    name: &'static str,
    layer: StreamingAccumulatorLayer,
    records: Arc<Semaphore>,
}

/// Prints what a frame costs whoever waits for it, and what it costs in all, until a hook has the usage.
pub(crate) fn run(recording: &Recording) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _context = runtime.enter();
    let chunks: Vec<Bytes> = recording.chunks().map(Bytes::copy_from_slice).collect();
    let meters = || MeterSet::detect().text(TextPolicy::Count);
    let mut stacks = [
        stack("no meter, no capture", |layer| layer.capture(Capture::none())),
        stack("no meter, all captured", |layer| layer),
        stack("in the body, no text", |layer| {
            layer.capture(Capture::none()).meter(MeterSet::detect().text(TextPolicy::Skip))
        }),
        stack("in the body", move |layer| layer.capture(Capture::none()).meter(meters())),
        stack("on the worker", move |layer| layer.meter(meters().on_worker())),
    ];
    let best = rounds::best_of(ROUNDS, &mut stacks, |stack| {
        runtime.block_on(async {
            let mut total = [Duration::ZERO; 2];
            for _ in 0..STREAMS {
                let times = stack.stream(&chunks).await;
                total = [total[0] + times[0], total[1] + times[1]];
            }
            total.map(|total| total.as_nanos() as f64 / (STREAMS * chunks.len()) as f64)
        })
    });
    println!("\nthrough the layer, {} frames of {} a stream, ns per frame", chunks.len(), recording.protocol);
    println!("{:<24}{:>10}{:>18}", "", "polled", "until recorded");
    for (stack, [polled, whole]) in stacks.iter().zip(best) {
        println!("{:<24}{polled:>10.0}{whole:>18.0}", stack.name);
    }
}

fn stack(name: &'static str, settings: impl FnOnce(Builder) -> Builder) -> Stack {
    let records = Arc::new(Semaphore::new(0));
    let delivered = Arc::clone(&records);
    let builder = settings(StreamingAccumulatorLayer::builder());
    let layer = builder.on_end(move |record| {
        std::hint::black_box(record.usage());
        delivered.add_permits(1);
        std::future::ready(())
    });
    Stack { name, layer: layer.build().expect("a valid configuration"), records }
}

// === impl Stack ===

impl Stack {
    /// The time until the body has ended, and that until the hook has the usage.
    async fn stream(&self, chunks: &[Bytes]) -> [Duration; 2] {
        // Copies of handles: the bytes are shared.
        let frames = chunks.to_vec();
        let service = self.layer.layer(tower::service_fn(move |_: Request<()>| {
            let frames = frames.clone().into_iter().map(Frame::data).map(Ok::<_, Infallible>);
            let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            async move { Ok::<_, Infallible>(response) }
        }));
        let called = Instant::now();
        let body = service.oneshot(Request::new(())).await.expect("infallible").into_body();
        let opened = Instant::now();
        drain(body);
        let polled = opened.elapsed();
        self.records.acquire().await.expect("never closed").forget();
        [polled, called.elapsed()]
    }
}

fn drain(body: impl Body) {
    let mut body = pin!(body);
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
        drop(std::hint::black_box(frame));
    }
}
