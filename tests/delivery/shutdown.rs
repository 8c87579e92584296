//! Ending a layer without losing a record.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use streaming_accumulator::{
    EndedBy, Outcome, RetryPolicy, StopReason, StreamError, StreamRecord, StreamingAccumulatorLayer,
};
use tokio::time::Instant;
use tokio_test::{assert_ready, task};
use tower::{Layer, Service, ServiceExt};

use crate::support::{Flow, Records, complete, next, open};

const GRACE: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn a_layer_without_streams_shuts_down_at_once() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder().on_end(seen.hook()).build().unwrap();
    complete(&layer).await;
    let start = Instant::now();
    let report = layer.handle().shutdown(GRACE).await;
    assert!(start.elapsed() < Duration::from_millis(1));
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.delivered(), seen.all().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn streams_that_end_in_time_are_completed() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder().on_end(seen.hook()).build().unwrap();
    let handle = layer.handle();
    let Flow { feed, mut body, .. } = open(&layer).await;
    let shutdown = tokio::spawn(async move { handle.shutdown(GRACE).await });
    tokio::time::sleep(Duration::from_secs(3)).await;
    feed.end();
    assert!(next(&mut body).await.is_none());
    let report = shutdown.await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(seen.only().outcome(), &Outcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn running_streams_are_cancelled_at_the_deadline() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder().on_end(seen.hook()).build().unwrap();
    // Nobody polls this body any more: it settles all the same.
    let Flow { feed, mut body, handle } = open(&layer).await;
    feed.push("so far");
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "so far");
    let token = handle.cancellation_token();
    let start = Instant::now();
    let report = layer.handle().shutdown(GRACE).await;
    assert!(start.elapsed() >= GRACE && start.elapsed() < GRACE + Duration::from_secs(1));
    assert_eq!((report.cancelled(), report.delivered(), report.left()), (1, 1, 0));
    assert!(token.is_cancelled());
    let record = seen.only();
    assert_eq!((record.outcome(), record.ended_by()), (&Outcome::Cancelled, EndedBy::Layer));
    assert_eq!(record.stop_reason(), Some(&StopReason::Shutdown));
    assert_eq!(record.content().to_bytes().unwrap(), "so far");

    let error = next(&mut body).await.unwrap().unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(StreamError::Stopped { .. })), "{error}");
    drop(body);
    assert_eq!(seen.all().len(), 1, "no second record");
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_one_hook_timeout_after_the_deadline() {
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(|_| pending::<()>())
        .hook_timeout(Duration::from_secs(5))
        .workers(1)
        .build()
        .unwrap();
    for _ in 0..20 {
        complete(&layer).await;
    }
    let start = Instant::now();
    let report = layer.handle().shutdown(GRACE).await;
    assert!(start.elapsed() <= GRACE + Duration::from_secs(5));
    assert!(report.left() > 0 && !report.is_clean(), "{report}");
    let audit = layer.handle().audit();
    assert!(audit.is_balanced(), "{audit:?}");
    assert_eq!(report.left() + report.dead_lettered(), 20);
}

#[tokio::test(start_paused = true)]
async fn no_retry_after_the_deadline() {
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(|_: Arc<StreamRecord>| async { Err::<(), _>("down") })
        .retry(RetryPolicy::default().max_attempts(1_000_000).max_delay(Duration::from_secs(60)))
        .build()
        .unwrap();
    complete(&layer).await;
    let report = layer.handle().shutdown(Duration::from_secs(100)).await;
    assert_eq!((report.dead_lettered(), report.left()), (1, 0), "{report}");
    assert_eq!(layer.handle().dead_letters().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn deadline_may_be_the_longest_duration() {
    let layer = StreamingAccumulatorLayer::builder().hook_timeout(Duration::MAX).build().unwrap();
    assert!(layer.handle().shutdown(Duration::MAX).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_admitted_any_more() {
    let layer = StreamingAccumulatorLayer::builder().max_in_flight(1).build().unwrap();
    let handle = layer.handle();
    let Flow { body, .. } = open(&layer).await;
    let inner = tower::service_fn(|_: Request<()>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(Full::<Bytes>::default()))
    });
    let mut service = layer.layer(inner);
    let mut waiting = task::spawn(service.ready());
    assert!(waiting.poll().is_pending());

    let shutdown = tokio::spawn(async move { handle.shutdown(GRACE).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(waiting.is_woken(), "a call that waits is answered");
    let ready = assert_ready!(waiting.poll()).unwrap();
    assert_eq!(ready.call(Request::new(())).await.unwrap().status(), 503);
    drop(waiting);
    assert_eq!(service.call(Request::new(())).await.unwrap().status(), 503);
    drop(body);
    assert!(shutdown.await.unwrap().is_clean());
    let audit = layer.handle().audit();
    assert_eq!((audit.opened(), audit.rejected()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn dropped_shutdown_can_be_called_again() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder().on_end(seen.hook()).build().unwrap();
    let Flow { body, .. } = open(&layer).await;
    let handle = layer.handle();
    let short = tokio::time::timeout(Duration::from_secs(1), handle.shutdown(GRACE));
    assert!(short.await.is_err());
    drop(body);
    assert!(handle.shutdown(GRACE).await.is_clean());
    assert_eq!(seen.all().len(), 1);
}
