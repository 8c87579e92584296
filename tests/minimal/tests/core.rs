//! The core works without a feature.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use streaming_accumulator::{
    BackpressureStrategy, Capture, EndedBy, Evidence, Outcome, Phase, RetryPolicy, StopReason, StreamError,
    StreamHandle, StreamPipeline, StreamRecord, StreamingAccumulatorLayer, WhenFull,
};
use tower::{Layer, ServiceExt};

type Records = Arc<Mutex<Vec<Arc<StreamRecord<&'static str>>>>>;

fn recording(records: &Records) -> StreamingAccumulatorLayer<&'static str> {
    let records = Arc::clone(records);
    StreamingAccumulatorLayer::builder()
        .context(|_| "from a request")
        .capture(Capture::all(1024))
        .on_end(move |record| {
            records.lock().unwrap().push(record);
            ready(())
        })
        .build()
        .unwrap()
}

/// The records, once all are delivered.
async fn delivered<C: Send + Sync + 'static>(layer: &StreamingAccumulatorLayer<C>) {
    let report = layer.handle().shutdown(Duration::from_secs(5)).await;
    assert!(report.is_clean(), "{report}");
    assert!(layer.handle().audit().is_balanced());
}

fn body(frames: &[&'static str]) -> Full<Bytes> {
    Full::from(frames.concat())
}

#[tokio::test]
async fn stream_completes() {
    let records = Records::default();
    let layer = recording(&records);
    let service = layer.layer(tower::service_fn(|_: Request<()>| {
        ready(Ok::<_, Infallible>(Response::new(body(&["hello"]))))
    }));
    let request = Request::get("/path?query").body(()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    let stream = response.extensions().get::<StreamHandle>().unwrap().clone();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    assert_eq!(stream.ended().await, Outcome::Completed);
    delivered(&layer).await;
    let records = records.lock().unwrap();
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!((record.outcome(), record.context()), (&Outcome::Completed, Some(&"from a request")));
    assert_eq!((record.evidence(), record.metrics().bytes()), (Evidence::EndOfBody, 5));
    assert_eq!(record.content().to_bytes().unwrap(), "hello");
    assert!(record.is_success() && record.uri().path() == "/path");
}

#[tokio::test]
async fn stream_is_cancelled() {
    let records = Records::default();
    let layer = recording(&records);
    let service = layer.layer(tower::service_fn(|_: Request<()>| {
        let frames =
            stream::iter(["hel", "lo"]).map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from(text))));
        ready(Ok::<_, Infallible>(Response::new(StreamBody::new(frames.chain(stream::pending())))))
    }));
    let mut left = service.clone().oneshot(Request::new(())).await.unwrap().into_body();
    left.frame().await.unwrap().unwrap();
    drop(left);
    let response = service.oneshot(Request::new(())).await.unwrap();
    let stream = response.extensions().get::<StreamHandle>().unwrap().clone();
    let mut stopped = response.into_body();
    stopped.frame().await.unwrap().unwrap();
    assert!(stream.cancel());
    let error = stopped.frame().await.unwrap().unwrap_err();
    assert!(matches!(error.stream_error(), Some(StreamError::Stopped { .. })), "{error}");
    drop(stopped);
    delivered(&layer).await;
    let records = records.lock().unwrap();
    let by: Vec<_> =
        records.iter().map(|record| (record.ended_by(), record.stop_reason().cloned())).collect();
    assert_eq!(by, [(EndedBy::Downstream, None), (EndedBy::Layer, Some(StopReason::Cancelled))]);
    for record in &*records {
        assert_eq!((record.outcome(), record.phase()), (&Outcome::Cancelled, Phase::Body));
        assert_eq!(record.content().to_bytes().unwrap(), "hel");
    }
}

#[tokio::test]
async fn stream_fails() {
    let records = Records::default();
    let layer = recording(&records);
    let service = layer.layer(tower::service_fn(|_: Request<()>| {
        let frames = [Ok(Frame::data(Bytes::from("a"))), Err(io::Error::other("disk full"))];
        ready(Ok::<_, Infallible>(Response::new(StreamBody::new(stream::iter(frames)))))
    }));
    let body = service.oneshot(Request::new(())).await.unwrap().into_body();
    assert_eq!(body.collect().await.unwrap_err().to_string(), "disk full");
    let failing = layer.layer(tower::service_fn(|_: Request<()>| {
        ready(Err::<Response<Full<Bytes>>, _>(io::Error::other("no answer")))
    }));
    assert_eq!(failing.oneshot(Request::new(())).await.unwrap_err().to_string(), "no answer");
    delivered(&layer).await;
    let errors: Vec<_> =
        records.lock().unwrap().iter().map(|record| record.outcome().error().cloned()).collect();
    let expected = [StreamError::Body("disk full".into()), StreamError::Service("no answer".into())];
    assert_eq!(errors, expected.map(Some));
}

#[tokio::test(flavor = "current_thread")]
async fn hooks_are_tried_again() {
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&attempts);
    let layer = StreamingAccumulatorLayer::builder()
        .on_complete(move |record: Arc<StreamRecord>| {
            seen.lock().unwrap().push(record.attempt());
            ready(if record.attempt() < 3 { Err("down") } else { Ok(()) })
        })
        .on_cancel(|_| ready(()))
        .retry(RetryPolicy::default().initial_delay(Duration::from_millis(1)))
        .when_full(WhenFull::Reject)
        .idle_timeout(Duration::from_secs(60))
        .build()
        .unwrap();
    let service = layer
        .layer(tower::service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(Response::new(body(&["x"]))))));
    service.oneshot(Request::new(())).await.unwrap().into_body().collect().await.unwrap();
    delivered(&layer).await;
    assert_eq!(*attempts.lock().unwrap(), [1, 2, 3]);
}

#[tokio::test]
async fn tap_reads_a_pipeline() {
    let records = Records::default();
    let layer = recording(&records);
    let pipeline = StreamPipeline::builder()
        .buffer_limit(2)
        .backpressure(BackpressureStrategy::Block(Duration::MAX))
        .open(&layer.handle(), "from a queue")
        .await
        .unwrap();
    let tap = pipeline.tap().lossless();
    let produce = async {
        for text in ["a", "b", "c", "d", "e"] {
            pipeline.push(Bytes::from(text)).await.unwrap();
        }
        assert!(pipeline.finish(Outcome::Completed));
    };
    let ((), chunks) = tokio::join!(produce, tap.collect::<Vec<_>>());
    assert_eq!(chunks.concat(), b"abcde");
    drop(pipeline);
    delivered(&layer).await;
    let records = records.lock().unwrap();
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!((record.context(), record.evidence()), (Some(&"from a queue"), Evidence::Finished));
    assert_eq!(record.content().to_bytes().unwrap(), "abcde");
}
