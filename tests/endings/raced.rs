//! Stops that come while the body is inside its own poll, or while a producer pushes.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::Poll;
use std::thread;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use streaming_accumulator::meter::MeterSet;
use streaming_accumulator::{
    BodyError, BoxError, Evidence, Outcome, PushError, StreamError, StreamHandle, StreamPipeline,
    StreamRecord,
};
use tower::ServiceExt;

use crate::support::*;

/// A chat that has reached `last`, and is stopped inside the poll in which it then fails.
async fn stopped_while_it_fails(last: &'static str) -> (Result<Bytes, BoxError>, Arc<StreamRecord>) {
    let recorder = Recorder::with(|builder| builder.meter(MeterSet::detect()));
    let inner = tower::service_fn(move |request: Request<()>| {
        let handle = request.extensions().get::<StreamHandle>().unwrap().clone();
        let fails = stream::poll_fn(move |_| {
            handle.cancel();
            Poll::Ready(Some(Err::<Frame<Bytes>, BoxError>("reset".into())))
        });
        let chunks = stream::iter([Ok(Frame::data(Bytes::from_static(last.as_bytes())))]).chain(fails);
        let response = Response::builder().header("content-type", "text/event-stream");
        std::future::ready(Ok::<_, Infallible>(response.body(StreamBody::new(chunks)).unwrap()))
    });
    let response = recorder.around(inner).oneshot(Request::new(())).await.unwrap();
    let got = response.into_body().collect().await;
    (got.map(|body| body.to_bytes()).map_err(Into::into), recorder.only().await)
}

#[tokio::test]
async fn error_behind_a_completed_end_is_not_forwarded() {
    let done = "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\ndata: [DONE]\n\n";
    let (got, record) = stopped_while_it_fails(done).await;
    assert_eq!((record.outcome(), record.evidence()), (&Outcome::Completed, Evidence::LogicalEnd));
    assert_eq!(got.unwrap(), done, "a client that is told of an error, and billed as complete");
}

#[tokio::test]
async fn error_of_a_stopped_body_is_that_of_its_record() {
    let (got, record) = stopped_while_it_fails("data: {\"object\":\"chat.completion.chunk\"}\n\n").await;
    assert_eq!(record.outcome(), &Outcome::Cancelled);
    let error = got.unwrap_err();
    let error = error.downcast_ref::<BodyError>().unwrap();
    assert!(matches!(error.stream_error(), Some(StreamError::Stopped { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_name_the_stop_that_ended_them() {
    for _ in 0..500 {
        let pipeline = StreamPipeline::new(4);
        let handle = pipeline.handle().clone();
        let stop = thread::spawn(move || {
            while handle.metrics().chunks() < 3 {
                std::hint::spin_loop();
            }
            assert!(handle.cancel());
        });
        let mut pushed = 0;
        let error = loop {
            match pipeline.push(Bytes::from_static(b"x")).await {
                Ok(()) => pushed += 1,
                Err(error) => break error,
            }
        };
        stop.join().unwrap();
        assert!(matches!(error, PushError::Failed(StreamError::Stopped { .. })), "{error:?}");
        assert_eq!(pipeline.metrics().chunks(), pushed, "chunks whose push returned are counted");
    }
}
