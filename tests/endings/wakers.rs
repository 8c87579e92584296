//! Wakers that panic where others depend on it: whoever else waits is woken, and no panic leaves the layer.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use streaming_accumulator::{BackpressureStrategy, Outcome, StreamPipeline, StreamingAccumulatorLayer};
use tower::{Layer, Service};

use crate::contained::{Bomb, arm, arm_body, arm_stream, drop_unwinding};
use crate::support::*;

#[tokio::test]
async fn faulty_waker_of_a_tap_spares_other_taps() {
    let recorder = Recorder::new();
    let mut flow = recorder.open().await;
    let (mut bad, mut good) = (flow.handle.tap(), flow.handle.tap());
    arm_stream(&mut bad);
    let mut reading = tokio_test::task::spawn(good.recv());
    assert!(reading.poll().is_pending());
    flow.pass(&[Bytes::from_static(b"a")]).await;
    assert!(reading.is_woken(), "not woken, because another reader's waker panicked");
    assert_eq!(within("a chunk", reading).await.unwrap().bytes, "a");
    let mut waiting = tokio_test::task::spawn(good.recv());
    assert!(waiting.poll().is_pending());
    drop(flow);
    assert!(waiting.is_woken(), "not woken at the end");
    assert!(within("the end", waiting).await.is_none());
}

#[tokio::test]
async fn faulty_waker_of_a_shutdown_spares_another() {
    let recorder = Recorder::new();
    let flow = recorder.open().await;
    let handle = recorder.handle();
    let (mut bad, good) =
        (Box::pin(handle.shutdown(Duration::from_secs(10))), handle.shutdown(Duration::from_secs(10)));
    arm(bad.as_mut());
    let mut good = tokio_test::task::spawn(good);
    assert!(good.poll().is_pending());
    drop(flow);
    recorder.only().await;
    assert!(good.is_woken(), "not woken, because another caller's waker panicked");
    assert!(within("the shutdown", good).await.is_clean());
}

#[tokio::test]
async fn faulty_waker_of_an_admission_spares_the_others() {
    let layer = StreamingAccumulatorLayer::builder().max_in_flight(1).build().unwrap();
    let flow = open(&layer).await;
    let inner = tower::service_fn(|_: Request<()>| {
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    });
    let (mut bad, mut good) = (layer.layer(inner), layer.layer(inner));
    let bomb = Waker::from(Arc::new(Bomb));
    assert!(bad.poll_ready(&mut Context::from_waker(&bomb)).is_pending());
    let mut waiting =
        tokio_test::task::spawn(std::future::poll_fn(|cx| Service::<Request<()>>::poll_ready(&mut good, cx)));
    assert!(waiting.poll().is_pending());
    // Closes the slots, which wakes everybody who waits for one.
    let handle = layer.handle();
    let mut shutdown = Box::pin(handle.shutdown(Duration::from_secs(10)));
    assert!(tokio_test::task::spawn(shutdown.as_mut()).poll().is_pending());
    assert!(waiting.is_woken(), "not woken, because another caller's waker panicked");
    drop(flow);
    within("the shutdown", shutdown).await;
}

#[tokio::test]
async fn faulty_waker_of_a_body_does_not_reach_taps() {
    let recorder = Recorder::with(|builder| {
        builder.buffer_limit(1).backpressure(BackpressureStrategy::Block(Duration::MAX))
    });
    for drops in [false, true] {
        let mut flow = recorder.open().await;
        let mut tap = flow.handle.tap().lossless();
        flow.pass(&[Bytes::from_static(b"a")]).await;
        flow.feed.push("b");
        arm_body(&mut flow);
        if drops {
            drop(tap);
        } else {
            assert_eq!(within("a chunk", tap.recv()).await.unwrap().bytes, "a");
        }
        assert_eq!(within("a chunk", flow.pull()).await.unwrap().unwrap(), "b");
    }
    recorder.all(2).await;
}

#[tokio::test]
async fn faulty_waker_of_a_shutdown_costs_no_record() {
    for unwinding in [false, true] {
        let recorder = Recorder::new();
        let flow = recorder.open().await;
        let handle = recorder.handle();
        let mut shutdown = Box::pin(handle.shutdown(Duration::from_secs(10)));
        arm(shutdown.as_mut());
        if unwinding {
            drop_unwinding(flow)
        } else {
            drop(flow)
        }
        recorder.only().await;
        drop(shutdown);
        assert!(handle.shutdown(Duration::from_secs(10)).await.is_clean());
    }
}

#[tokio::test]
async fn faulty_waker_of_an_admission_costs_no_record() {
    let with_hook = StreamingAccumulatorLayer::builder().max_in_flight(1).on_end(|_| ready(()));
    let without = StreamingAccumulatorLayer::builder().max_in_flight(1);
    for layer in [with_hook.build().unwrap(), without.build().unwrap()] {
        let flow = open(&layer).await;
        let inner = tower::service_fn(|_: Request<()>| {
            ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
        });
        let mut waiting = layer.layer(inner);
        let bomb = Waker::from(Arc::new(Bomb));
        assert!(waiting.poll_ready(&mut Context::from_waker(&bomb)).is_pending());
        drop_unwinding(flow);
        within("the record", settled(&layer.handle())).await;
        let audit = layer.handle().audit();
        assert_eq!((audit.in_flight(), audit.failed()), (0, 1));
        // Whoever asks again has the slot.
        let polled = waiting.poll_ready(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(()))));
    }
}

#[tokio::test]
async fn faulty_waker_of_a_producer_spares_the_others() {
    let recorder = Recorder::with(|builder| {
        builder.buffer_limit(1).backpressure(BackpressureStrategy::Block(Duration::MAX))
    });
    let pipeline = StreamPipeline::builder().open(&recorder.handle(), ()).await.unwrap();
    let tap = pipeline.tap().lossless();
    pipeline.push(Bytes::from_static(b"a")).await.unwrap();
    let mut bad = Box::pin(pipeline.push(Bytes::from_static(b"b")));
    arm(bad.as_mut());
    let mut good = tokio_test::task::spawn(pipeline.push(Bytes::from_static(b"c")));
    assert!(good.poll().is_pending());
    drop(tap);
    assert!(good.is_woken(), "not woken, because another producer's waker panicked");
    assert_eq!(within("a push", good).await, Ok(()));
    drop(bad);
    assert!(pipeline.finish(Outcome::Completed));
    assert_eq!(recorder.only().await.outcome(), &Outcome::Completed);
}
