//! Slots: what happens when there is none.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use streaming_accumulator::{StreamingAccumulatorLayer, WhenFull};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt};

use crate::support::{Records, complete, open, settled};

/// A service that counts its calls and answers at once.
fn counting(
    calls: &Arc<AtomicU32>,
) -> impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send> + Clone + use<>
{
    let calls = Arc::clone(calls);
    tower::service_fn(move |_| {
        calls.fetch_add(1, SeqCst);
        ready(Ok(Response::new(Full::from("late"))))
    })
}

#[tokio::test(start_paused = true)]
async fn without_a_slot_a_call_can_be_rejected() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(seen.hook())
        .max_in_flight(1)
        .when_full(WhenFull::Reject)
        .build()
        .unwrap();
    let held = open(&layer).await;
    let calls = Arc::default();
    let response = layer.layer(counting(&calls)).call(Request::new(())).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
    assert_eq!(calls.load(SeqCst), 0, "the inner service was not called");

    drop(held);
    settled(&layer.handle()).await;
    complete(&layer).await;
    settled(&layer.handle()).await;
    let audit = layer.handle().audit();
    assert_eq!((audit.opened(), audit.rejected(), seen.all().len()), (2, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn without_a_slot_a_call_waits_unopened() {
    let layer = StreamingAccumulatorLayer::builder().max_in_flight(1).build().unwrap();
    let held = open(&layer).await;
    let calls = Arc::default();
    let mut service = layer.layer(counting(&calls));
    let mut waiting = task::spawn(service.ready());
    assert!(waiting.poll().is_pending());
    assert_eq!(layer.handle().audit().opened(), 1);
    assert_eq!(calls.load(SeqCst), 0);

    drop(held);
    assert!(waiting.is_woken());
    let service = assert_ready!(waiting.poll()).unwrap();
    let response = service.call(Request::new(())).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "late");
    settled(&layer.handle()).await;
    assert_eq!(layer.handle().audit().completed(), 1);
}

#[tokio::test(start_paused = true)]
async fn abandoned_wait_leaves_no_record() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder().on_end(seen.hook()).max_in_flight(1).build().unwrap();
    let held = open(&layer).await;
    let mut service = layer.layer(counting(&Arc::default()));
    let mut waiting = task::spawn(service.ready());
    assert!(waiting.poll().is_pending());
    drop(waiting);
    let audit = layer.handle().audit();
    assert_eq!((audit.rejected(), audit.opened()), (0, 1));
    drop(held);
    settled(&layer.handle()).await;
    assert_eq!(seen.all().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn slot_is_held_until_every_hook_is_done() {
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(|_| ready(()))
        .on_end(|_| async { tokio::time::sleep(Duration::from_secs(5)).await })
        .max_in_flight(1)
        .when_full(WhenFull::Reject)
        .build()
        .unwrap();
    complete(&layer).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let calls = Arc::default();
    let mut service = layer.layer(counting(&calls));
    assert_eq!(service.call(Request::new(())).await.unwrap().status(), 503);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(service.call(Request::new(())).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn records_queue_while_all_workers_are_busy() {
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(|_| async { tokio::time::sleep(Duration::from_secs(1)).await })
        .workers(2)
        .max_in_flight(100)
        .build()
        .unwrap();
    for _ in 0..100 {
        complete(&layer).await;
    }
    assert_eq!(layer.handle().audit().hooks()[0].queued(), 100);
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    assert_eq!(layer.handle().audit().hooks()[0].delivered(), 20, "two at a time");
    settled(&layer.handle()).await;
    assert_eq!(layer.handle().audit().hooks()[0].delivered(), 100);
}

#[tokio::test(start_paused = true)]
async fn dropping_an_unanswered_call_cancels_it() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder().on_end(seen.hook()).build().unwrap();
    let mut service = layer
        .layer(tower::service_fn(|_: Request<()>| pending::<Result<Response<Full<Bytes>>, Infallible>>()));
    let mut call = task::spawn(service.call(Request::new(())));
    assert_pending!(call.poll());
    drop(call);
    settled(&layer.handle()).await;
    assert_eq!(seen.only().phase().as_str(), "before_head");
    assert_eq!(seen.only().status(), None);
}
