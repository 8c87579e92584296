//! The client must not be able to tell that the layer is there: raw bytes over HTTP/1, frames over
//! HTTP/2, and the hints of the body in process, are the same with and without it.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use http::{Method, Request, Response};
use http_body::Body;
use tower::ServiceExt;

use crate::support::exchange::{H2, H10, H11};
use crate::support::*;

type Shape = (&'static str, fn(Proto) -> Exchange);

fn long(frames: usize, size: usize) -> MockBody {
    (0..frames).fold(body([]), |body, n| body.data(vec![b'a' + (n % 26) as u8; size]))
}

/// Every shape fits one HTTP/2 window: beyond it the sizes of DATA frames follow the clock.
const SHAPES: &[Shape] = &[
    ("empty", |p| exchange(p, body([]))),
    ("empty with end hint", |p| exchange(p, body([]).hint(true))),
    ("empty with exact hint", |p| exchange(p, body([]).exact())),
    ("empty with a length of 0", |p| exchange(p, body([])).header("content-length", "0")),
    ("one frame", |p| exchange(p, body(["hello"]))),
    ("one frame with end hint", |p| exchange(p, body(["hello"]).hint(true))),
    ("one frame with exact hint", |p| exchange(p, body(["hello"]).exact())),
    ("one frame with both", |p| exchange(p, body(["hello"]).exact().hint(true))),
    ("two frames", |p| exchange(p, body(["hello", "world"]))),
    ("two frames under a length", |p| exchange(p, body(["hello", "world"])).header("content-length", "10")),
    ("frames with pauses", |p| {
        exchange(p, body(["a"]).yields().data("b").yields().yields().data("c").hint(true))
    }),
    ("zero-length frames", |p| exchange(p, body(["", "hello", "", "world", ""]))),
    ("zero-length frames with end hint", |p| exchange(p, body(["", "hello", ""]).hint(true))),
    ("many small frames", |p| exchange(p, long(200, 10))),
    ("large frames", |p| exchange(p, long(3, 20_000).hint(true))),
    ("trailers", |p| exchange(p, body(["hello"]).trailers())),
    ("trailers asked for", |p| {
        exchange(p, body(["hello"]).trailers()).asks("te", "trailers").header("trailer", "x-sum")
    }),
    ("trailers only", |p| exchange(p, body([]).trailers())),
    ("end hint before trailers", |p| exchange(p, body(["hello"]).trailers().claims_end_after(1))),
    ("end hint at hand-over", |p| exchange(p, body(["hello"]).claims_end_after(0))),
    ("error at once", |p| exchange(p, body([]).fails())),
    ("error after data", |p| exchange(p, body(["hello"]).fails())),
    ("error at the declared length", |p| {
        exchange(p, body(["hello"]).yields().fails()).header("content-length", "5")
    }),
    ("short", |p| exchange(p, body(["hello"])).header("content-length", "10")),
    ("short with end hint", |p| exchange(p, body(["hello"]).hint(true)).header("content-length", "10")),
    ("over-long", |p| exchange(p, body(["hello", "world"])).header("content-length", "7")),
    ("unusable length", |p| exchange(p, body(["hello"])).header("content-length", "ten")),
    ("chunked by hand", |p| exchange(p, body(["hello"]).exact()).header("transfer-encoding", "chunked")),
    ("to HEAD", |p| exchange(p, body(["hello"]).exact()).method(Method::HEAD)),
    ("204", |p| exchange(p, body(["hello"])).status(204)),
    ("304 with a length", |p| exchange(p, body(["hello"])).status(304).header("content-length", "5")),
    ("205", |p| exchange(p, body(["hello"])).status(205)),
    ("404 with headers", |p| {
        exchange(p, body(["no"]).hint(true))
            .status(404)
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
    }),
];

async fn same(proto: Proto) {
    assert!(SHAPES.len() >= 20);
    for (name, shape) in SHAPES {
        let exchange = shape(proto);
        let (with, record) = exchange.run().await;
        assert_eq!(with, exchange.run_bare().await, "{name}: {record:?}");
    }
}

#[tokio::test]
async fn http10_byte_for_byte() {
    same(H10).await;
}

#[tokio::test]
async fn http11_byte_for_byte() {
    same(H11).await;
}

#[tokio::test]
async fn http2_frame_for_frame() {
    same(H2).await;
}

#[tokio::test]
async fn http1_byte_for_byte_beyond_every_buffer() {
    for hint in [false, true] {
        let exchange = exchange(H11, long(100, 100_000).hint(hint));
        let (with, _) = exchange.run().await;
        assert!(with.raw.len() > 10_000_000);
        assert!(with == exchange.run_bare().await);
    }
}

/// What one poll gave, in a form that can be compared.
fn seen<B>(poll: Poll<Option<Result<http_body::Frame<bytes::Bytes>, B>>>) -> String
where
    B: Into<streaming_accumulator::BoxError>,
{
    match poll {
        Poll::Pending => "pending".into(),
        Poll::Ready(None) => "none".into(),
        Poll::Ready(Some(Err(error))) => format!("error {}", error.into()),
        Poll::Ready(Some(Ok(frame))) => format!("{frame:?}"),
    }
}

#[tokio::test]
async fn hints_are_the_same_at_every_step() {
    for (name, shape) in SHAPES {
        let bare = shape(H11).response().into_body();
        let recorder = Recorder::new();
        let service = recorder.around(answers([Response::new(bare.clone())]));
        let layered = service.oneshot(Request::new(())).await.unwrap().into_body();
        let (mut bare, mut layered) = (pin!(bare), pin!(layered));
        let mut cx = Context::from_waker(Waker::noop());
        for step in 0.. {
            assert_eq!(bare.is_end_stream(), layered.is_end_stream(), "{name}, step {step}");
            let (hint, through) = (bare.size_hint(), layered.size_hint());
            assert_eq!(
                (hint.lower(), hint.upper()),
                (through.lower(), through.upper()),
                "{name}, step {step}"
            );
            let frame = bare.as_mut().poll_frame(&mut cx);
            let over = match &frame {
                Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
                Poll::Ready(_) => true,
                Poll::Pending => false,
            };
            assert_eq!(seen(frame), seen(layered.as_mut().poll_frame(&mut cx)), "{name}, step {step}");
            if over {
                // From here on the layer answers by itself, and says that it is over.
                assert!(layered.is_end_stream(), "{name}");
                assert_eq!(seen(layered.as_mut().poll_frame(&mut cx)), "none", "{name}");
                break;
            }
        }
    }
}
