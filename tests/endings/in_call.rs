//! Streams that end inside the call of the service: a context that stops its own stream, and errors with causes.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::ready;
use std::io;

use http::{Request, Response};
use streaming_accumulator::{
    BoxError, EndedBy, Evidence, Outcome, Phase, StopReason, StreamError, StreamHandle,
    StreamingAccumulatorLayer,
};
use tower::{Layer, ServiceExt};

use crate::support::*;

#[tokio::test]
async fn context_that_cancels_settles_with_its_context() {
    for panics in [false, true] {
        let records = Records::default();
        let layer = StreamingAccumulatorLayer::builder()
            .context(move |request| {
                let stream = request.extensions.get::<StreamHandle>().unwrap();
                assert!(stream.cancel(), "the first one");
                assert!(!stream.cancel(), "and no other");
                assert!(!panics, "scripted panic of a context");
                "not paid"
            })
            .on_end(records.hook())
            .build()
            .unwrap();
        let service = layer.layer(tower::service_fn(|request: Request<()>| {
            let stream = request.extensions().get::<StreamHandle>().unwrap();
            assert!(stream.cancellation_token().is_cancelled(), "the service can see it");
            ready(Ok::<_, Infallible>(Response::new(body(["never"]))))
        }));
        let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();
        let error = next(&mut body).await.unwrap().unwrap_err();
        assert!(matches!(error.stream_error(), Some(StreamError::Stopped { .. })), "{error}");
        assert!(next(&mut body).await.is_none());
        drop(body);
        within("the record", settled(&layer.handle())).await;
        let record = records.only();
        assert_eq!(record.context(), (!panics).then_some(&"not paid"));
        assert_eq!((record.outcome(), record.phase()), (&Outcome::Cancelled, Phase::BeforeHead));
        assert_eq!((record.evidence(), record.ended_by()), (Evidence::Stopped, EndedBy::Layer));
        assert_eq!(record.stop_reason(), Some(&StopReason::Cancelled));
        assert_eq!((record.status(), record.metrics().bytes()), (None, 0));
        assert!(layer.handle().streams().is_empty());
    }
}

#[tokio::test]
async fn context_that_cancels_from_another_thread() {
    let records = Records::default();
    let layer = StreamingAccumulatorLayer::builder()
        .context(|request| {
            let stream = request.extensions.get::<StreamHandle>().unwrap().clone();
            std::thread::spawn(move || stream.cancel()).join().unwrap()
        })
        .on_end(records.hook())
        .build()
        .unwrap();
    let service = layer.layer(answers([Response::new(body(["never"]))]));
    drop(service.oneshot(Request::new(())).await.unwrap());
    within("the record", settled(&layer.handle())).await;
    assert_eq!((records.only().outcome(), records.only().context()), (&Outcome::Cancelled, Some(&true)));
}

#[derive(Debug)]
struct Layered(&'static str, Option<BoxError>);

impl fmt::Display for Layered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Layered {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.1.as_deref().map(|error| error as _)
    }
}

fn three_causes() -> BoxError {
    let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "refused");
    let connect = Layered("cannot connect", Some(refused.into()));
    Layered("no upstream", Some(connect.into())).into()
}

/// The text of the record for a service that fails so, and that the caller gets the error as it is.
async fn recorded<E: fmt::Display + 'static>(error: impl Fn() -> E) -> String {
    let recorder = Recorder::new();
    let failing = error();
    let mut answer = Some(Err(failing));
    let inner = tower::service_fn(move |_: Request<()>| ready(answer.take().unwrap()));
    let result: Result<Response<_>, E> = recorder.layer().layer(inner).oneshot(Request::new(())).await;
    let passed =
        result.map(|_: Response<streaming_accumulator::AccumulatorBody<MockBody>>| ()).err().unwrap();
    assert_eq!(passed.to_string(), error().to_string());
    let record = recorder.only().await;
    assert_eq!((record.phase(), record.evidence()), (Phase::BeforeHead, Evidence::Error));
    match record.outcome().error() {
        Some(StreamError::Service(text)) => text.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn boxed_error_of_a_service_names_its_causes() {
    assert_eq!(recorded(three_causes).await, "no upstream: cannot connect: refused");
    assert_eq!(recorded(|| BoxError::from("alone")).await, "alone");
}

#[tokio::test]
async fn repeated_cause_of_an_error_stands_once() {
    let repeating = || {
        let cause = Layered("refused", None);
        BoxError::from(Layered("cannot connect: refused", Some(cause.into())))
    };
    assert_eq!(recorded(repeating).await, "cannot connect: refused");
}

#[tokio::test]
async fn unboxed_error_of_a_service_names_itself() {
    assert_eq!(recorded(|| "plain text").await, "plain text");
    assert_eq!(recorded(|| Layered("typed", None)).await, "typed");
}

#[tokio::test]
async fn error_of_a_body_names_its_causes() {
    use http_body_util::{BodyExt, StreamBody};
    let recorder = Recorder::new();
    let failing = || {
        let frames = [Ok(http_body::Frame::data(bytes::Bytes::from_static(b"a"))), Err(three_causes())];
        boxed(StreamBody::new(futures_util::stream::iter(frames)))
    };
    let service = recorder.around(handler(move |_: Request<()>| ready(Ok(Response::new(failing())))));
    let error = service.oneshot(Request::new(())).await.unwrap().into_body().collect().await.unwrap_err();
    assert_eq!((error.to_string(), error.stream_error()), ("no upstream".into(), None));
    assert!(error.downcast_ref::<Layered>().is_some());
    let text = "no upstream: cannot connect: refused".into();
    assert_eq!(recorder.only().await.outcome(), &Outcome::Failed(StreamError::Body(text)));
}
