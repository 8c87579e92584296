//! The client cannot tell that a meter is there, nor the inner service that its request is read.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body, Frame};
use streaming_accumulator::http::RequestBody;
use streaming_accumulator::{BoxError, CaptureRequestLayer};
use tower::{Layer, ServiceExt};

use super::lines::metered;
use crate::support::exchange::{H2, H10, H11};
use crate::support::*;

/// Bodies that a meter of lines has something to do with, and some that it has not.
fn bodies() -> Vec<MockBody> {
    let all_bytes: Vec<u8> = (0..=255).collect();
    vec![
        body([]),
        body(["one\n", "two\n", "end\n"]),
        body(["one\n", "", "two\nend\n", ""]).hint(true),
        body(["one\ntw", "o\n", "end"]).exact(),
        body(["error\n", "one\n"]),
        body(["error\n", "end\n"]).hint(true),
        body(["end\n", "one\n", "end\n"]).yields().data("two"),
        body(["one\n", "end\n"]).trailers(),
        body(["error\n"]).trailers(),
        body(["one\n"]).fails(),
        body(["error\n"]).yields().fails(),
        body(["end\n"]).yields().fails(),
        body([]).data(all_bytes).data(vec![b'x'; 20_000]),
    ]
}

#[tokio::test]
async fn responses_are_the_same_byte_for_byte() {
    for proto in [H10, H11, H2] {
        for body in bodies() {
            let exchanges = [
                exchange(proto, body.clone()),
                exchange(proto, body.clone()).method(Method::HEAD),
                exchange(proto, body.clone()).status(404),
                exchange(proto, body).header("content-length", "8"),
            ];
            for exchange in exchanges {
                let (with, record) = exchange.run_capturing(metered(), 1024).await;
                assert_eq!(with, exchange.run_bare().await, "{exchange:?} {record:?}");
            }
        }
    }
}

/// What one poll gave, in a form that can be compared.
fn seen<E: Into<BoxError>>(poll: Poll<Option<Result<Frame<Bytes>, E>>>) -> String {
    match poll {
        Poll::Ready(Some(Err(error))) => format!("error {}", error.into()),
        poll => format!("{:?}", poll.map(|frame| frame.and_then(Result::ok))),
    }
}

/// Takes a request's body as the inner service gets it. The response is held, so that the stream is open and the
/// request is read.
async fn as_the_service_gets_it(body: MockBody) -> (RequestBody<MockBody>, impl Sized) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let service = tower::service_fn(move |request: Request<RequestBody<MockBody>>| {
        sender.send(request.into_body()).unwrap();
        std::future::ready(Ok::<_, BoxError>(Response::new(crate::support::body([]))))
    });
    let service = CaptureRequestLayer::new(1024).layer(service);
    let response = metered().around(service).oneshot(Request::new(body)).await.unwrap();
    (receiver.recv().unwrap(), response)
}

#[tokio::test]
async fn requests_are_the_same_at_every_step() {
    for bare in bodies() {
        let (read, _response) = as_the_service_gets_it(bare.clone()).await;
        let (mut bare, mut read) = (pin!(bare), pin!(read));
        let mut cx = Context::from_waker(Waker::noop());
        for step in 0.. {
            assert_eq!(bare.is_end_stream(), read.is_end_stream(), "step {step}");
            let (hint, through) = (bare.size_hint(), read.size_hint());
            assert_eq!((hint.lower(), hint.upper()), (through.lower(), through.upper()), "step {step}");
            let frame = bare.as_mut().poll_frame(&mut cx);
            let over = match &frame {
                Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
                Poll::Ready(_) => true,
                Poll::Pending => false,
            };
            assert_eq!(seen(frame), seen(read.as_mut().poll_frame(&mut cx)), "step {step}");
            if over {
                break;
            }
        }
    }
}
