//! What records say of usage: the same to every hook and in every attempt, worked out once.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use streaming_accumulator::meter::{MeterSet, UsageBasis};
use streaming_accumulator::{RetryPolicy, StreamHandle, StreamRecord, StreamingAccumulatorLayer};
use tower::{Layer, ServiceExt};

use super::lines::{Made, lines, metered, tokens};
use crate::support::exchange::H11;
use crate::support::*;

/// A layer with two hooks of which each fails twice and looks at the usage each time.
fn retried(set: MeterSet, seen: &Records) -> StreamingAccumulatorLayer {
    let hook = || {
        let seen = seen.clone();
        move |record: Arc<StreamRecord>| {
            let attempt = record.attempt();
            let _ = (record.usage(), record.llm());
            seen.push(record);
            ready(if attempt < 3 { Err("scripted error") } else { Ok(()) })
        }
    };
    let retry = RetryPolicy::default().initial_delay(Duration::from_millis(1));
    StreamingAccumulatorLayer::builder()
        .meter(set)
        .retry(retry)
        .on_end(hook())
        .on_end(hook())
        .build()
        .unwrap()
}

#[tokio::test]
async fn every_hook_and_attempt_sees_the_same() {
    for on_worker in [false, true] {
        let made = Made::default();
        let set = if on_worker { made.set().on_worker() } else { made.set() };
        let seen = Records::default();
        let layer = retried(set, &seen);
        let service = layer.layer(answers([Response::new(body(["one\n", "two\n", "end\n"]))]));
        let server = serve(Options::h1(), service).await;
        exchange(H11, body([])).ask(&server).await;
        until("both hooks", || layer.handle().audit().hooks().iter().all(|hook| hook.delivered() == 1)).await;

        let records = seen.all();
        assert_eq!(records.len(), 6);
        for record in &records {
            assert_eq!(tokens(record), (Some(2), UsageBasis::Reported));
            // The very same, not an equal one: it was worked out once.
            assert!(std::ptr::eq(record.usage(), records[0].usage()));
            assert!(std::ptr::eq(record.llm().unwrap(), records[0].llm().unwrap()));
        }
        assert_eq!(made.times(), 1);
        assert!(layer.handle().audit().is_balanced());
    }
}

#[tokio::test]
async fn meter_memory_is_charged_until_record_drops() {
    let recorder =
        Recorder::with(|builder| builder.meter(lines()).capture(streaming_accumulator::Capture::none()));
    exchange(H11, body(["one\n", "end\n"])).run_through(recorder.clone()).await;
    let used = || recorder.audit().memory_used();
    assert!(used() > 0);
    drop(recorder.records().take());
    until("the memory to come back", || used() == 0).await;
}

#[tokio::test]
async fn live_usage_is_that_so_far() {
    let recorder = metered();
    let gate = Gate::new();
    let body = body(["one\n"]).wait(&gate).data("two\nthr").wait(&Gate::new());
    let service = recorder.around(answers([Response::new(body)]));
    let response = service.oneshot(Request::new(())).await.unwrap();
    let stream = response.extensions().get::<StreamHandle>().unwrap().clone();
    let live = || stream.usage().map(|usage| (usage.output_tokens, usage.basis));
    assert_eq!(live(), Some((None, UsageBasis::Absent)), "the meter is there, and has read nothing");
    let mut body = response.into_body();
    next(&mut body).await.unwrap().unwrap();
    assert_eq!(live(), Some((Some(1), UsageBasis::Partial)));
    gate.open();
    next(&mut body).await.unwrap().unwrap();
    assert_eq!(live(), Some((Some(2), UsageBasis::Partial)));
    drop(body);
    assert_eq!(tokens(&*recorder.only().await), (Some(3), UsageBasis::Partial));
    assert_eq!(live(), None, "the record has it");
}

#[tokio::test]
async fn live_usage_is_unknown_without_a_meter() {
    let on_worker = Recorder::with(|builder| builder.meter(lines().on_worker()));
    for recorder in [Recorder::new(), on_worker] {
        let mut flow = recorder.open().await;
        flow.pass(&["one\n".into()]).await;
        assert_eq!(flow.handle.usage(), None);
    }
}
