//! Streams that are stopped from outside while a meter reads them: by hand, and by a time limit.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use streaming_accumulator::Evidence::{Finished, Limit, LogicalEnd, Stopped};
use streaming_accumulator::meter::UsageBasis;
use streaming_accumulator::{AccumulatorBody, Builder, EndedBy, Outcome, Phase, StreamError, StreamPipeline};
use tower::ServiceExt;

use super::lines::{is_cut, lines, metered, report, tokens};
use crate::support::exchange::{H2, H11};
use crate::support::*;

type Layered = Pin<Box<AccumulatorBody<MockBody>>>;

/// A body that was polled until it has nothing at the moment.
async fn running(recorder: &Recorder, body: MockBody) -> Layered {
    let service = recorder.around(answers([Response::new(body)]));
    let mut body = Box::pin(service.oneshot(Request::new(())).await.unwrap().into_body());
    while poll(&mut body).is_ready() {}
    body
}

/// What the next poll yields: a chunk, or an error's text.
fn poll(body: &mut Layered) -> Poll<Option<Result<String, String>>> {
    let polled = body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop()));
    polled.map(|frame| {
        frame.map(|frame| match frame {
            Ok(frame) => Ok(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()),
            Err(error) => Err(error.to_string()),
        })
    })
}

fn open<const N: usize>(frames: [&'static str; N]) -> MockBody {
    body(frames).wait(&Gate::new())
}

#[tokio::test]
async fn a_cancelled_stream_has_the_usage_so_far() {
    let recorder = metered();
    let mut body = running(&recorder, open(["one\n", "two\n"])).await;
    let id = recorder.handle().streams()[0].id();
    assert!(recorder.handle().cancel(id));
    // Settled though nobody polls.
    let record = recorder.only().await;
    assert_eq!(record.outcome(), &Outcome::Cancelled);
    assert_eq!((record.evidence(), record.ended_by()), (Stopped, EndedBy::Layer));
    assert_eq!(tokens(&record), (Some(2), UsageBasis::Partial));
    assert_eq!(poll(&mut body), Poll::Ready(Some(Err("stream stopped: cancelled".into()))));
    drop(body);
    recorder.only().await;
}

#[tokio::test]
async fn stop_after_the_protocols_end_is_clean() {
    let recorder = metered();
    let mut body = running(&recorder, open(["one\n", "end\n"])).await;
    let stream = recorder.handle().streams().remove(0);
    let token = stream.cancellation_token();
    assert!(!stream.cancel(), "it was complete");
    let record = recorder.only().await;
    assert_eq!(Account::of(&record), completed(LogicalEnd, 8));
    assert_eq!((record.stop_reason(), token.is_cancelled()), (None, false));
    assert_eq!(poll(&mut body), Poll::Ready(None));
    assert!(body.is_end_stream());
}

#[tokio::test]
async fn staying_client_sees_a_clean_end() {
    for (proto, h2) in [(H11, false), (H2, true)] {
        let recorder = metered();
        let options = Options { h2, ..Options::default() };
        let service = recorder.around(answers([Response::new(open(["one\n", "end\n"]))]));
        let server = serve(options, service).await;
        let reply = tokio::spawn(async move { exchange(proto, body([])).ask(&server).await });
        recorder.pulled(8).await;
        assert!(!recorder.handle().streams()[0].cancel());
        let reply = within("the reply", reply).await.unwrap();
        assert_eq!((&reply.body[..], is_cut(&reply)), (&b"one\nend\n"[..], false));
        assert_eq!(recorder.account().await, completed(LogicalEnd, 8));
    }
}

/// A layer with a meter and a time limit.
fn limited(limit: fn(Builder, Duration) -> Builder) -> Recorder {
    Recorder::with(|builder| limit(builder.meter(lines()), Duration::from_millis(320)))
}

const LIMITS: [fn(Builder, Duration) -> Builder; 2] =
    [|layer, limit| layer.idle_timeout(limit), |layer, limit| layer.total_timeout(limit)];

#[tokio::test(start_paused = true)]
async fn limited_stream_has_the_usage_so_far() {
    for limit in LIMITS {
        let recorder = limited(limit);
        let mut body = running(&recorder, open(["one\n", "two\nthr"])).await;
        let record = recorder.only().await;
        assert!(
            matches!(
                record.outcome(),
                Outcome::Failed(StreamError::IdleTimeout { .. } | StreamError::Timeout { .. })
            ),
            "{record:?}"
        );
        assert_eq!((record.evidence(), record.ended_by()), (Limit, EndedBy::Layer));
        assert_eq!(tokens(&record), (Some(3), UsageBasis::Partial), "what waited for more was read");
        assert!(matches!(poll(&mut body), Poll::Ready(Some(Err(_)))));
    }
}

#[tokio::test(start_paused = true)]
async fn limit_after_the_protocols_end_is_ignored() {
    for limit in LIMITS {
        let recorder = limited(limit);
        let mut body = running(&recorder, open(["one\n", "end\n"])).await;
        assert_eq!(recorder.account().await, completed(LogicalEnd, 8));
        assert_eq!(poll(&mut body), Poll::Ready(None));
    }
}

#[tokio::test(start_paused = true)]
async fn error_inside_comes_before_a_limit() {
    for limit in LIMITS {
        let recorder = limited(limit);
        let mut body = running(&recorder, open(["one\n", "error\n"])).await;
        assert_eq!(recorder.account().await, failed("in_band", Phase::Body, Limit, 10));
        let error = "in-band error overloaded: later";
        assert_eq!(poll(&mut body), Poll::Ready(Some(Err(error.into()))));
    }
}

#[tokio::test]
async fn stream_stopped_before_its_head_is_unmetered() {
    let made = super::lines::Made::default();
    let recorder = Recorder::with(|builder| builder.meter(made.set()));
    let gate = Gate::new();
    let opened = gate.clone();
    let service = handler(move |_: Request<()>| {
        let gate = opened.clone();
        async move {
            gate.passed().await;
            Ok(Response::new(boxed(body(["one\n"]))))
        }
    });
    let mut response = tokio_test::task::spawn(recorder.around(service).oneshot(Request::new(())));
    assert!(response.poll().is_pending());
    assert!(recorder.handle().streams()[0].cancel());
    gate.open();
    let _response = response.await.unwrap();
    let record = recorder.only().await;
    assert_eq!((record.phase(), made.times()), (Phase::BeforeHead, 0));
    assert_eq!((tokens(&record), record.llm()), ((None, UsageBasis::Absent), None));
}

#[tokio::test]
async fn pipelines_are_metered_and_finish_as_told() {
    for (frames, expected, has_error) in [
        (&["one\n", "two\nend\n"][..], (Some(2), UsageBasis::Reported), false),
        (&["one\nerror\n"][..], (Some(1), UsageBasis::Partial), true),
    ] {
        let recorder = metered();
        let pipeline = StreamPipeline::builder().open(&recorder.handle(), ()).await.unwrap();
        for frame in frames {
            pipeline.push((*frame).into()).await.unwrap();
        }
        assert!(pipeline.finish(Outcome::Completed));
        let record = recorder.only().await;
        // What its producer says counts, whatever the meter has seen.
        assert_eq!((record.outcome(), record.evidence()), (&Outcome::Completed, Finished));
        assert_eq!((tokens(&record), report(&record).error.is_some()), (expected, has_error));
    }
}

#[tokio::test]
async fn pipelines_of_no_layer_are_unmetered() {
    let pipeline = StreamPipeline::new(4);
    pipeline.push("one\n".into()).await.unwrap();
    assert_eq!(pipeline.handle().usage(), None);
}

#[tokio::test]
async fn times_are_those_of_the_chunks() {
    let gate = Gate::new();
    let recorder = metered();
    let mut body = running(&recorder, body(["one\n"]).wait(&gate).data("two\n").data("end\n")).await;
    gate.open();
    while poll(&mut body) != Poll::Ready(None) {}
    let record = recorder.only().await;
    let (metrics, report) = (record.metrics(), report(&record));
    assert_eq!(report.time_to_first_text, metrics.time_to_first_chunk());
    assert_eq!(report.text_chunks, Some(2));
    // Each time is rounded to a nanosecond.
    let gap = report.longest_text_gap.unwrap();
    assert!(Some(gap) <= metrics.longest_gap().map(|gap| gap + Duration::from_nanos(1)));
}
