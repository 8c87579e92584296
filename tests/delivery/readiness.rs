//! Admission in `poll_ready`: layers outside see that there is no slot, and a reserved slot is never lost.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use streaming_accumulator::{MemoryBudget, Rejected, StreamingAccumulatorLayer, WhenFull};
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::load_shed::LoadShed;
use tower::load_shed::error::Overloaded;
use tower::{Layer, Service, ServiceExt};

use crate::support::{open, settled};

/// Answers at once. It is not `Clone`.
#[derive(Debug, Default)]
struct Hello {
    calls: u32,
}

impl Service<Request<()>> for Hello {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        self.calls += 1;
        ready(Ok(Response::new(Full::from("hello"))))
    }
}

#[expect(clippy::type_complexity, reason = "a function pointer, so that the service has a name")]
fn hello() -> tower::util::ServiceFn<fn(Request<()>) -> Ready<Result<Response<Full<Bytes>>, Infallible>>> {
    tower::service_fn(|_| ready(Ok(Response::new(Full::from("hello")))))
}

fn slots(slots: usize) -> StreamingAccumulatorLayer {
    StreamingAccumulatorLayer::builder().max_in_flight(slots).build().unwrap()
}

fn request() -> Request<()> {
    Request::new(())
}

#[tokio::test(start_paused = true)]
async fn service_need_not_be_clone() {
    let layer = slots(1);
    let mut service = layer.layer(Hello::default());
    for calls in 1..4 {
        let response = service.ready().await.unwrap().call(request()).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
        assert_eq!(service.get_ref().calls, calls);
    }
    let response = layer.layer(Hello::default()).oneshot(request()).await.unwrap();
    drop(response);
    settled(&layer.handle()).await;
    assert_eq!(layer.handle().audit().settled(), 4);
}

#[tokio::test(start_paused = true)]
async fn outer_load_shed_sees_saturation() {
    let layer = slots(1);
    let mut shedding = LoadShed::new(layer.layer(hello()));
    let held = open(&layer).await;
    for _ in 0..3 {
        let error = shedding.ready().await.unwrap().call(request()).await.unwrap_err();
        assert!(error.is::<Overloaded>(), "{error}");
    }
    drop(held);
    let response = shedding.ready().await.unwrap().call(request()).await.unwrap();
    assert_eq!(response.status(), 200);
    drop(response);
    settled(&layer.handle()).await;
    let audit = layer.handle().audit();
    assert_eq!((audit.opened(), audit.rejected(), audit.settled()), (2, 0, 2), "shed calls are not counted");
}

#[tokio::test(start_paused = true)]
async fn rejecting_layer_is_always_ready() {
    let layer =
        StreamingAccumulatorLayer::builder().max_in_flight(1).when_full(WhenFull::Reject).build().unwrap();
    let mut shedding = LoadShed::new(layer.layer(hello()));
    let _held = open(&layer).await;
    let response = shedding.ready().await.unwrap().call(request()).await.unwrap();
    assert!(response.status() == 503 && response.extensions().get::<Rejected>().is_some());
}

#[tokio::test(start_paused = true)]
async fn dropped_waiter_leaves_nothing_behind() {
    let layer = slots(1);
    let held = open(&layer).await;
    let before = layer.handle().audit();
    for _ in 0..3 {
        let mut waiter = layer.layer(hello());
        let mut waiting = task::spawn(waiter.ready());
        assert_pending!(waiting.poll());
        drop(waiting);
        // The service may be polled again, or dropped, while its wait goes on.
        let mut again = task::spawn(waiter.ready());
        assert_pending!(again.poll());
    }
    assert_eq!(layer.handle().audit(), before);
    drop(held);
    settled(&layer.handle()).await;
    let mut service = layer.layer(hello());
    assert_ready_ok!(task::spawn(service.ready()).poll());
}

#[tokio::test(start_paused = true)]
async fn slot_given_to_a_dropped_waiter_goes_on() {
    let layer = slots(1);
    let held = open(&layer).await;
    let (mut first, mut second) = (layer.layer(hello()), layer.layer(hello()));
    let mut noop = task::spawn(());
    noop.enter(|cx, _| assert!(first.poll_ready(cx).is_pending()));
    let mut waiting = task::spawn(second.ready());
    assert_pending!(waiting.poll());
    drop(held);
    // The slot is the first one's, which is gone.
    drop(first);
    assert!(waiting.is_woken());
    assert_ready_ok!(waiting.poll());
}

#[tokio::test(start_paused = true)]
async fn call_without_poll_ready_takes_a_slot() {
    let layer = slots(1);
    let mut service = layer.layer(hello());
    let response = service.call(request()).await.unwrap();
    assert_eq!(response.status(), 200);
    let rejected = service.call(request()).await.unwrap();
    assert_eq!(rejected.status(), 503);
    assert!(rejected.extensions().get::<Rejected>().is_some());
    drop(response);
    settled(&layer.handle()).await;
    assert_eq!(service.call(request()).await.unwrap().status(), 200);
    settled(&layer.handle()).await;
    let audit = layer.handle().audit();
    assert_eq!((audit.opened(), audit.rejected(), audit.settled()), (2, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn call_beside_a_waiting_poll_is_rejected() {
    let layer = slots(1);
    let held = open(&layer).await;
    let mut service = layer.layer(hello());
    let mut noop = task::spawn(());
    noop.enter(|cx, _| assert!(service.poll_ready(cx).is_pending()));
    assert_eq!(service.call(request()).await.unwrap().status(), 503);
    drop(held);
    noop.enter(|cx, _| assert!(service.poll_ready(cx).is_ready()));
    assert_eq!(service.call(request()).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn polling_twice_reserves_one_slot() {
    let layer = slots(2);
    let (mut first, mut second) = (layer.layer(hello()), layer.layer(hello()));
    for _ in 0..5 {
        assert_ready_ok!(task::spawn(first.ready()).poll());
    }
    assert_ready_ok!(task::spawn(second.ready()).poll());
    let mut third = layer.layer(hello());
    assert_pending!(task::spawn(third.ready()).poll());
}

#[tokio::test(start_paused = true)]
async fn unused_slot_is_given_back() {
    let layer = slots(1);
    let original = layer.layer(hello());
    let mut clone = original.clone();
    assert_ready_ok!(task::spawn(clone.ready()).poll());
    let mut other = original.clone();
    let mut waiting = task::spawn(other.ready());
    assert_pending!(waiting.poll());
    drop(clone);
    assert!(waiting.is_woken());
    assert_ready_ok!(waiting.poll());
    drop(waiting);
    // A clone of a service that has a slot has none.
    let mut without = other.clone();
    assert_pending!(task::spawn(without.ready()).poll());
    drop((other, without));
    let audit = layer.handle().audit();
    assert_eq!((audit.opened(), audit.in_flight(), audit.rejected()), (0, 0, 0));
    assert_eq!(layer.layer(hello()).oneshot(request()).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn filtered_call_gives_its_slot_back() {
    let layer = StreamingAccumulatorLayer::builder().filter(|_| false).max_in_flight(1).build().unwrap();
    let mut service = layer.layer(hello());
    let response = service.ready().await.unwrap().call(request()).await.unwrap();
    let mut other = layer.layer(hello());
    assert_ready_ok!(task::spawn(other.ready()).poll());
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
}

#[tokio::test(start_paused = true)]
async fn reserved_slot_does_not_outlive_the_shutdown() {
    let layer = slots(1);
    let mut service = layer.layer(hello());
    assert_ready_ok!(task::spawn(service.ready()).poll());
    assert!(layer.handle().shutdown(Duration::from_secs(1)).await.is_clean());
    assert_eq!(service.call(request()).await.unwrap().status(), 503);
    assert_ready_ok!(task::spawn(service.ready()).poll(), "the answer is a 503, not a wait");
    assert_eq!(service.call(request()).await.unwrap().status(), 503);
    let audit = layer.handle().audit();
    assert_eq!((audit.opened(), audit.rejected()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn inner_service_that_fails_to_get_ready() {
    #[derive(Clone)]
    struct Broken;
    impl Service<Request<()>> for Broken {
        type Response = Response<Full<Bytes>>;
        type Error = &'static str;
        type Future = Ready<Result<Self::Response, &'static str>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
            Poll::Ready(Err("not ready"))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            ready(Err("called"))
        }
    }
    let layer = slots(1);
    for _ in 0..3 {
        assert_eq!(layer.layer(Broken).oneshot(request()).await.unwrap_err(), "not ready");
    }
    let audit = layer.handle().audit();
    assert_eq!((audit.opened(), audit.in_flight()), (0, 0));
    let mut service = layer.layer(hello());
    assert!(assert_ready!(task::spawn(service.ready()).poll()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn budget_that_is_used_up_is_seen_outside() {
    let budget = MemoryBudget::new(1024 * 1024);
    let layer = StreamingAccumulatorLayer::builder().memory_budget(&budget).build().unwrap();
    let mut flow = open(&layer).await;
    // Captures stop growing before; what a tap has not read yet does not.
    let unread = flow.handle.tap();
    let mut shedding = LoadShed::new(layer.layer(hello()));
    let mut chunks = 0;
    while shedding.ready().await.unwrap().call(request()).await.is_ok() {
        flow.pass(&[Bytes::from(vec![b'x'; 8 * 1024])]).await;
        chunks += 1;
        assert!(chunks < 200, "the budget is never used up: {budget:?}");
    }
    drop((flow, unread));
    settled(&layer.handle()).await;
    assert_eq!(shedding.ready().await.unwrap().call(request()).await.unwrap().status(), 200);
}
