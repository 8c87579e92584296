//! Foreign code that panics where the layer has to call it: the tracing subscriber, and wakers.

use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::{Request, Response};
use http_body::Body;
use streaming_accumulator::{
    Outcome, RetryPolicy, StreamError, StreamPipeline, StreamingAccumulatorLayer, WhenFull,
};
use tower::{Layer, Service};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

use crate::support::*;

/// A call of the subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Enabled,
    NewSpan,
    Enter,
    Exit,
    Event,
    CloneSpan,
    TryClose,
}

const CALLS: [Call; 7] =
    [Call::Enabled, Call::NewSpan, Call::Enter, Call::Exit, Call::Event, Call::CloneSpan, Call::TryClose];

/// A subscriber that panics in each call of one kind.
struct Faulty {
    faulty: Call,
    spans: AtomicU64,
    panics: Arc<AtomicU64>,
}

impl Faulty {
    fn call(&self, call: Call) {
        if call == self.faulty {
            self.panics.fetch_add(1, SeqCst);
            panic!("scripted panic of a subscriber");
        }
    }
}

impl Subscriber for Faulty {
    /// Never cached: tracing holds a lock here, which a panic would poison for all tests.
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_ours = metadata.target().starts_with("streaming_accumulator");
        if is_ours {
            self.call(Call::Enabled);
        }
        is_ours
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        self.call(Call::NewSpan);
        Id::from_u64(self.spans.fetch_add(1, SeqCst) + 1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.call(Call::Event);
    }

    fn enter(&self, _: &Id) {
        self.call(Call::Enter);
    }

    fn exit(&self, _: &Id) {
        self.call(Call::Exit);
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.call(Call::CloneSpan);
        id.clone()
    }

    fn try_close(&self, _: Id) -> bool {
        self.call(Call::TryClose);
        true
    }
}

/// Drops `value` while the thread unwinds.
pub(crate) fn drop_unwinding<T>(value: T) {
    let unwinding = catch_unwind(AssertUnwindSafe(move || {
        let _value = value;
        panic!("scripted panic");
    }));
    assert!(unwinding.is_err());
}

type Unanswered = std::future::Pending<Result<Response<MockBody>, Infallible>>;

fn unanswered(_: Request<()>) -> Unanswered {
    pending()
}

#[tokio::test]
async fn faulty_subscriber_costs_no_record() {
    for faulty in CALLS {
        let panics = Arc::new(AtomicU64::new(0));
        let subscriber = Faulty { faulty, spans: AtomicU64::new(0), panics: Arc::clone(&panics) };
        let default = tracing::subscriber::set_default(subscriber);
        let recorder = Recorder::new();
        let layer = recorder.layer();
        complete(&layer).await;
        drop(recorder.open().await);
        drop_unwinding(recorder.open().await);
        drop(layer.layer(tower::service_fn(unanswered)).call(Request::new(())));
        drop_unwinding(layer.layer(tower::service_fn(unanswered)).call(Request::new(())));
        let mut flow = recorder.open().await;
        flow.feed.fail();
        assert_eq!(flow.pull().await.unwrap().unwrap_err().to_string(), "scripted error", "{faulty:?}");
        drop(flow);
        let mut flow = recorder.open().await;
        assert!(flow.handle.cancel(), "{faulty:?}");
        assert!(matches!(flow.error().await, StreamError::Stopped { .. }), "{faulty:?}");
        drop(flow);
        let pipeline = StreamPipeline::builder().open(&layer.handle(), ()).await.unwrap();
        pipeline.push(Bytes::from_static(b"x")).await.unwrap();
        assert!(pipeline.finish(Outcome::Completed));
        drop(pipeline);

        let records = recorder.all(8).await;
        let outcomes = |what| records.iter().filter(|record| What::of(record.outcome()) == what).count();
        assert_eq!(outcomes(What::Completed), 2, "{faulty:?}");
        assert_eq!(outcomes(What::Cancelled), 3, "{faulty:?}");
        assert_eq!(outcomes(What::Failed("panicked")), 2, "{faulty:?}");
        assert_eq!(outcomes(What::Failed("body")), 1, "{faulty:?}");
        drop(records);
        assert!(recorder.handle().shutdown(Duration::from_secs(1)).await.is_clean());
        drop((recorder, layer));
        drop(default);
        assert!(panics.load(SeqCst) > 0, "{faulty:?} was called");
    }
}

#[tokio::test(start_paused = true)]
async fn faulty_subscriber_stops_no_retry() {
    for faulty in CALLS {
        let panics = Arc::new(AtomicU64::new(0));
        let subscriber = Faulty { faulty, spans: AtomicU64::new(0), panics: Arc::clone(&panics) };
        let _default = tracing::subscriber::set_default(subscriber);
        let layer = StreamingAccumulatorLayer::builder()
            .on_end(|_| ready(Err::<(), _>("down")))
            .retry(RetryPolicy::default().max_attempts(3))
            .dead_letters(1)
            .build()
            .unwrap();
        for _ in 0..2 {
            complete(&layer).await;
            settled(&layer.handle()).await;
        }
        let audit = layer.handle().audit();
        let hook = &audit.hooks()[0];
        assert_eq!((hook.retried(), hook.dead_lettered()), (4, 2), "{faulty:?}");
        assert_eq!(layer.handle().dead_letters()[0].error(), "down", "{faulty:?}");
    }
}

/// A waker that panics.
pub(crate) struct Bomb;

impl Wake for Bomb {
    fn wake(self: Arc<Self>) {
        panic!("scripted panic of a waker");
    }
}

/// Polls once; whoever wakes the future then meets a panic.
pub(crate) fn arm<F: Future>(future: Pin<&mut F>) {
    let polled = future.poll(&mut Context::from_waker(&Waker::from(Arc::new(Bomb))));
    assert!(polled.is_pending());
}

pub(crate) fn arm_stream<S: Stream + Unpin>(stream: &mut S) {
    let polled = Pin::new(stream).poll_next(&mut Context::from_waker(&Waker::from(Arc::new(Bomb))));
    assert!(polled.is_pending());
}

pub(crate) fn arm_body(flow: &mut Flow) {
    let bomb = Waker::from(Arc::new(Bomb));
    let polled = Pin::new(&mut flow.body).poll_frame(&mut Context::from_waker(&bomb));
    assert!(polled.is_pending());
}

#[tokio::test]
async fn faulty_wakers_cost_no_record() {
    for unwinding in [false, true] {
        let recorder = Recorder::new();
        let flow = recorder.open().await;
        let token = flow.handle.cancellation_token();
        let mut cancelled = pin!(token.cancelled());
        arm(cancelled.as_mut());
        let stream = flow.handle.clone();
        let mut ended = pin!(stream.ended());
        arm(ended.as_mut());
        let mut tap = flow.handle.tap();
        arm_stream(&mut tap);
        if unwinding {
            drop_unwinding(flow)
        } else {
            drop(flow)
        }
        let record = recorder.only().await;
        assert_ne!(record.outcome(), &Outcome::Completed);
        assert!(token.is_cancelled());
        assert_eq!(&within("the end", stream.ended()).await, record.outcome());
        assert!(within("the end", tap.recv()).await.is_none());
    }
}

#[tokio::test]
async fn faulty_waker_of_a_tap_spares_the_client() {
    let recorder = Recorder::new();
    let mut flow = recorder.open().await;
    let mut tap = flow.handle.tap();
    arm_stream(&mut tap);
    flow.pass(&[Bytes::from_static(b"a"), Bytes::from_static(b"b")]).await;
    flow.end().await;
    assert_eq!(recorder.account().await, completed(streaming_accumulator::Evidence::EndOfBody, 2));
    assert_eq!(within("a chunk", tap.recv()).await.unwrap().bytes, "a");
}

#[tokio::test]
async fn faulty_waker_of_a_body_does_not_reach_cancel() {
    let recorder = Recorder::new();
    let mut flow = recorder.open().await;
    // The body's own waker is the mock's to wake; the layer registers it, too.
    arm_body(&mut flow);
    assert!(flow.handle.cancel());
    assert_eq!(recorder.only().await.outcome(), &Outcome::Cancelled);
    assert!(matches!(flow.error().await, StreamError::Stopped { .. }));
}

#[tokio::test]
async fn rejecting_layer_survives_a_faulty_subscriber() {
    let panics = Arc::new(AtomicU64::new(0));
    let subscriber = Faulty { faulty: Call::NewSpan, spans: AtomicU64::new(0), panics: Arc::clone(&panics) };
    let _default = tracing::subscriber::set_default(subscriber);
    let recorder = Recorder::with(|builder| builder.max_in_flight(1).when_full(WhenFull::Reject));
    let held = recorder.open().await;
    let mut service = recorder.around(answers([Response::new(body(["x"]))]));
    assert_eq!(service.call(Request::new(())).await.unwrap().status(), 503);
    drop(held);
    recorder.only().await;
}
