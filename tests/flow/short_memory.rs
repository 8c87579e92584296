//! What captures and taps do when the memory budget runs short, and what taps are told of it.

use std::future::ready;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures_util::StreamExt;
use http::{Request, Response};
use http_body::Body;
use streaming_accumulator::{AccumulatorBody, Capture, MemoryBudget, StreamingAccumulatorLayer};
use tower::{Layer, ServiceExt};

use crate::support::*;

type Stream = Pin<Box<AccumulatorBody<MockBody>>>;

const KIB: usize = 1024;

/// A stream that yields these chunks and stays open.
async fn open(layer: &StreamingAccumulatorLayer, chunks: usize, size: usize) -> Stream {
    let body = (0..chunks).fold(body([]), |body, _| body.data(vec![b'x'; size])).wait(&Gate::new());
    let echo =
        |request: Request<MockBody>| ready(Ok::<_, server::BoxError>(Response::new(request.into_body())));
    let response = layer.layer(tower::service_fn(echo)).oneshot(Request::new(body)).await;
    Box::pin(response.unwrap().into_body())
}

fn pull(stream: &mut Stream) {
    while let Poll::Ready(frame) = stream.as_mut().poll_frame(&mut Context::from_waker(Waker::noop())) {
        assert!(matches!(frame, Some(Ok(_))), "it stays open");
    }
}

fn layer(capture: Capture, budget: &MemoryBudget) -> StreamingAccumulatorLayer {
    StreamingAccumulatorLayer::builder()
        .capture(capture)
        .buffer_limit(64)
        .memory_budget(budget)
        .build()
        .unwrap()
}

/// Uses the budget of 1 MiB up to between 3/4, where heads stop, and 9/10.
async fn press(budget: &MemoryBudget) -> Vec<Stream> {
    let greedy = layer(Capture::all(KIB * KIB), budget);
    let mut streams = Vec::new();
    while budget.used() < 800 * KIB as u64 {
        let mut stream = open(&greedy, 10_000, 200).await;
        pull(&mut stream);
        streams.push(stream);
    }
    assert!(budget.used() < 900 * KIB as u64);
    streams
}

#[tokio::test]
async fn short_tail_stays_within_the_limit() {
    let budget = MemoryBudget::new(KIB * KIB);
    let _pressure = press(&budget).await;
    for capture in [Capture::all(2000), Capture::head(2000), Capture::head_tail(1000, 1000)] {
        let layer = layer(capture, &budget);
        let mut stream = open(&layer, 1000, 100).await;
        pull(&mut stream);
        let content = layer.handle().streams()[0].snapshot();
        assert!(content.len() <= 2000, "{content:?} for {capture:?}");
    }
}

#[tokio::test]
async fn tap_reads_the_chunk_that_ended_a_head() {
    let budget = MemoryBudget::new(KIB * KIB);
    let _pressure = press(&budget).await;
    let layer = layer(Capture::all(2000), &budget);
    let mut stream = open(&layer, 3, 3000).await;
    let mut tap = layer.handle().streams()[0].tap();
    pull(&mut stream);
    drop(stream);
    let mut bytes = 0;
    while let Some(chunk) = tap.next().await {
        bytes += chunk.len();
    }
    assert_eq!((bytes, tap.lagged()), (9000, 0));
}

#[tokio::test]
async fn late_tap_counts_all_that_it_missed() {
    let layer = layer(Capture::none(), &MemoryBudget::new(KIB * KIB));
    let mut stream = open(&layer, 5000, 100).await;
    let mut tap = layer.handle().streams()[0].tap();
    pull(&mut stream);
    drop(stream);
    let mut read = 0;
    while tap.next().await.is_some() {
        read += 1;
    }
    assert_eq!(read + tap.lagged(), 5000, "{read} were read");
}

#[tokio::test]
async fn record_of_a_tapped_stream_keeps_its_tail() {
    let recorder = Recorder::with(|builder| builder.capture(Capture::tail(16 * KIB)));
    let layer = recorder.layer();
    let mut stream = open(&layer, 3000, 4096).await;
    let tap = layer.handle().streams()[0].tap();
    pull(&mut stream);
    drop((stream, tap));
    recorder.only().await;
    let held = layer.handle().audit().memory_used();
    assert!(held <= 2 * 16 * KIB as u64, "{held} bytes for 16 KiB");
}
