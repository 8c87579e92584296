//! Streams that are stopped on purpose, and the handle by which that is done.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use bytes::Bytes;
use http_body::Body;
use streaming_accumulator::{
    Capture, EndedBy, Evidence, Outcome, Phase, StopReason, StreamError, StreamingAccumulatorLayer,
};
use tokio_test::{assert_pending, assert_ready, task};

use crate::support::{Flow, Records, next, open, settled};

#[tokio::test(start_paused = true)]
async fn cancel_wakes_a_pending_body_with_an_error() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder().on_end(seen.hook()).build().unwrap();
    let handle = layer.handle();
    let Flow { mut body, handle: stream, .. } = open(&layer).await;
    assert_eq!(handle.streams().iter().map(|s| s.id()).collect::<Vec<_>>(), [stream.id()]);

    let mut reading = task::spawn(next(&mut body));
    assert_pending!(reading.poll());
    assert!(handle.cancel(stream.id()));
    assert!(reading.is_woken());
    let error = assert_ready!(reading.poll()).unwrap().unwrap_err();
    let stopped = error.downcast_ref::<StreamError>();
    assert!(matches!(stopped, Some(StreamError::Stopped { reason: StopReason::Cancelled, .. })));
    drop(reading);
    assert!(next(&mut body).await.is_none());
    assert!(body.is_end_stream());

    assert!(!handle.cancel(stream.id()), "it is not in flight any more");
    assert!(!stream.cancel());
    assert!(handle.streams().is_empty());
    settled(&handle).await;
    let record = seen.only();
    assert_eq!(
        (record.outcome(), record.phase(), record.evidence(), record.ended_by(), record.stop_reason()),
        (&Outcome::Cancelled, Phase::Body, Evidence::Stopped, EndedBy::Layer, Some(&StopReason::Cancelled))
    );
}

#[tokio::test(start_paused = true)]
async fn upstream_is_dropped_with_the_error() {
    let layer = StreamingAccumulatorLayer::builder().build().unwrap();
    let Flow { feed, mut body, handle: stream } = open(&layer).await;
    stream.cancel();
    assert!(next(&mut body).await.unwrap().is_err());
    assert!(feed.is_abandoned(), "the body is gone");
}

#[tokio::test(start_paused = true)]
async fn stop_after_completion_changes_nothing() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder().on_end(seen.hook()).build().unwrap();
    let Flow { feed, mut body, handle: stream } = open(&layer).await;
    feed.push("all");
    feed.end();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "all");
    assert!(next(&mut body).await.is_none());
    assert!(!stream.cancel());
    drop(body);
    settled(&layer.handle()).await;
    assert_eq!(seen.only().outcome(), &Outcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn tokens_fire_on_leaving_not_on_completion() {
    let layer = StreamingAccumulatorLayer::builder().build().unwrap();
    let Flow { body, handle, .. } = open(&layer).await;
    let token = handle.cancellation_token();
    assert!(!token.is_cancelled());
    drop(body);
    assert!(token.is_cancelled());
    assert!(handle.cancellation_token().is_cancelled(), "also one that is asked for later");

    let Flow { feed, mut body, handle } = open(&layer).await;
    let token = handle.cancellation_token();
    feed.end();
    assert!(next(&mut body).await.is_none());
    drop(body);
    assert!(!token.is_cancelled());

    let Flow { body: _body, handle, .. } = open(&layer).await;
    handle.cancellation_token().cancel();
    assert_eq!(layer.handle().audit().in_flight(), 1, "a token stops its listeners, not the stream");
}

#[tokio::test(start_paused = true)]
async fn on_chunk_can_withhold_a_chunk_and_stop() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(seen.hook())
        .on_chunk(|chunk, stream| {
            if stream.metrics().bytes() + chunk.len() as u64 > 10 {
                ControlFlow::Break(StopReason::from("budget"))
            } else {
                ControlFlow::Continue(())
            }
        })
        .build()
        .unwrap();
    let Flow { feed, mut body, .. } = open(&layer).await;
    for chunk in ["12345", "67890", "over"] {
        feed.push(Bytes::from(chunk));
    }
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "12345");
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "67890");
    let error = next(&mut body).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "stream stopped: budget");
    assert!(next(&mut body).await.is_none());
    settled(&layer.handle()).await;
    let record = seen.only();
    assert_eq!((record.outcome(), record.ended_by()), (&Outcome::Cancelled, EndedBy::Layer));
    assert_eq!(record.stop_reason(), Some(&StopReason::from("budget")));
    assert_eq!((record.metrics().bytes(), record.metrics().bytes_produced()), (10, 14));
    assert_eq!(record.content().to_bytes().unwrap(), "1234567890");
}

#[tokio::test(start_paused = true)]
async fn stream_goes_on_after_on_chunk_panics() {
    let calls = Arc::new(AtomicU32::new(0));
    let chunk_calls = Arc::clone(&calls);
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(seen.hook())
        .on_chunk(move |_, _| {
            chunk_calls.fetch_add(1, SeqCst);
            panic!("a bug in a counter");
        })
        .build()
        .unwrap();
    let Flow { feed, mut body, .. } = open(&layer).await;
    for _ in 0..2 {
        feed.push("x");
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "x");
    }
    feed.end();
    assert!(next(&mut body).await.is_none());
    settled(&layer.handle()).await;
    assert_eq!(calls.load(SeqCst), 1);
    assert_eq!(seen.only().outcome(), &Outcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn overflowing_capture_truncates_and_spares_the_client() {
    let seen = Records::default();
    let layer =
        StreamingAccumulatorLayer::builder().on_end(seen.hook()).capture(Capture::all(4)).build().unwrap();
    let Flow { feed, mut body, .. } = open(&layer).await;
    feed.push("123");
    feed.push("456");
    feed.end();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "123");
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "456");
    assert!(next(&mut body).await.is_none());
    settled(&layer.handle()).await;
    let record = seen.only();
    assert_eq!(record.outcome(), &Outcome::Completed);
    assert_eq!(record.content().to_bytes().unwrap(), "1234");
    assert!(record.content().is_truncated());
}

#[tokio::test(start_paused = true)]
async fn strict_capture_fails_an_overflowing_stream() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(seen.hook())
        .capture(Capture::all(4).or_fail())
        .build()
        .unwrap();
    let Flow { feed, mut body, .. } = open(&layer).await;
    feed.push("1234");
    feed.push("5");
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "1234");
    let error = next(&mut body).await.unwrap().unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(StreamError::ContentTooLarge { limit: 4, .. })));
    settled(&layer.handle()).await;
    let record = seen.only();
    assert!(matches!(record.outcome(), Outcome::Failed(StreamError::ContentTooLarge { .. })));
    assert_eq!(record.ended_by(), EndedBy::Layer);
    assert_eq!(record.metrics().bytes(), 4);
}

#[tokio::test(start_paused = true)]
async fn bytes_pass_through_without_a_copy() {
    let layer = StreamingAccumulatorLayer::builder().build().unwrap();
    let Flow { feed, mut body, handle } = open(&layer).await;
    let chunk = Bytes::from(vec![7; 100]);
    feed.push(chunk.clone());
    assert_eq!(next(&mut body).await.unwrap().unwrap().as_ptr(), chunk.as_ptr());
    assert_eq!(handle.snapshot().to_bytes().unwrap(), chunk);
}

#[tokio::test(start_paused = true)]
async fn outliving_handle_does_not_keep_the_task() {
    let layer = StreamingAccumulatorLayer::builder().build().unwrap();
    let Flow { feed, mut body, handle } = open(&layer).await;
    let mut task = task::spawn(());
    let polled = task.enter(|cx, _| Pin::new(&mut body).poll_frame(cx).map(drop));
    assert!(polled.is_pending());
    assert!(task.waker_ref_count() > 1);
    drop((feed, body));
    assert_eq!(task.waker_ref_count(), 1);
    assert_eq!(handle.metrics().bytes(), 0);
}
