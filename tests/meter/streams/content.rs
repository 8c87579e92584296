//! Meters on the worker, over what was captured.

use std::time::Duration;

use http::{Method, Response};
use streaming_accumulator::Evidence::EndOfBody;
use streaming_accumulator::meter::{Incomplete, LlmReport, UsageBasis};
use streaming_accumulator::{Capture, Outcome, Phase, StreamRecord};

use super::lines::{Made, lines, metered, report, tokens};
use crate::support::exchange::{H2, H11};
use crate::support::*;

fn on_worker() -> Recorder {
    Recorder::with(|builder| builder.meter(lines().on_worker()))
}

/// A report but for its times, which are rounded in a capture.
fn timeless(record: &StreamRecord) -> LlmReport {
    let mut report = report(record).clone();
    (report.time_to_first_event, report.time_to_first_text, report.longest_text_gap) = (None, None, None);
    report
}

#[tokio::test]
async fn worker_finds_what_the_body_meter_finds() {
    for proto in [H11, H2] {
        for frames in [["one\n", "two\n", "end\n"], ["on", "e\ntwo", "\nend\n"], ["one\n", "", "tw"]] {
            let exchange = exchange(proto, body(frames));
            let (_, inside) = exchange.run_through(metered()).await;
            let (_, outside) = exchange.run_through(on_worker()).await;
            assert_eq!(outside.usage(), inside.usage());
            assert_eq!(timeless(&outside), timeless(&inside));
            // Rounded down, and not before the first chunk or after the last one.
            let first = report(&outside).time_to_first_text.unwrap();
            let metrics = outside.metrics();
            assert!(Some(first + Duration::from_nanos(1_024)) > metrics.time_to_first_chunk());
            assert!(Some(first) <= metrics.time_to_last_chunk());
        }
    }
}

#[tokio::test]
async fn content_is_read_once_and_only_on_demand() {
    let made = Made::default();
    let recorder = Recorder::with(|builder| builder.meter(made.set().on_worker()));
    let (_, record) = exchange(H11, body(["one\n", "end\n"])).run_through(recorder).await;
    assert_eq!(made.times(), 0);
    assert_eq!(tokens(&record), (Some(1), UsageBasis::Reported));
    assert!(record.llm().is_some() && record.usage().output_tokens == Some(1));
    assert_eq!(made.times(), 1);
}

#[tokio::test]
async fn the_outcome_rests_on_http_alone() {
    let (_, record) = exchange(H11, body(["one\n", "error\n"])).run_through(on_worker()).await;
    assert_eq!(Account::of(&record), completed(EndOfBody, 10));
    assert!(report(&record).error.is_some());

    let recorder = on_worker();
    let open = body(["one\n", "end\n"]).wait(&Gate::new());
    let server = serve(Options::h1(), recorder.around(answers([Response::new(open)]))).await;
    let mut client = RawClient::get(server.addr).await;
    client.read_until("end").await;
    client.fin().await;
    let record = recorder.only().await;
    assert_eq!(Account::of(&record), cancelled(Phase::Body, 8));
    assert_eq!(report(&record).terminated, Some(true));
    assert_eq!(tokens(&record), (Some(1), UsageBasis::Reported));
}

#[tokio::test]
async fn what_was_not_captured_makes_the_report_incomplete() {
    let frames = ["one\n", "two\n", "three\n", "end\n"];
    let cases = [
        (Capture::all(1024), (Some(3), UsageBasis::Reported), None),
        (Capture::head(8), (Some(2), UsageBasis::Partial), Some(Incomplete::NotCaptured)),
        (Capture::tail(10), (Some(1), UsageBasis::Reported), Some(Incomplete::NotCaptured)),
        (Capture::none(), (None, UsageBasis::Absent), Some(Incomplete::NotCaptured)),
    ];
    for (capture, expected, incomplete) in cases {
        let recorder = Recorder::with(|builder| builder.meter(lines().on_worker()).capture(capture));
        // Dropped, so that nothing but the protocol's end makes a report final.
        let open = body(frames).wait(&Gate::new());
        let server = serve(Options::h1(), recorder.around(answers([Response::new(open)]))).await;
        let mut client = RawClient::get(server.addr).await;
        client.read_until("end\n").await;
        client.fin().await;
        let record = recorder.only().await;
        assert_eq!(tokens(&record), expected, "{capture:?}");
        assert_eq!(report(&record).incomplete, incomplete, "{capture:?}");
    }
}

#[tokio::test]
async fn spilled_content_is_read_back() {
    let recorder = Recorder::with(|builder| {
        builder.meter(lines().on_worker()).spill_after(1024).capture(Capture::all(1 << 20))
    });
    let body = (0..2_000).fold(body([]), |body, n| body.data(format!("token {n}\n"))).data("end\n");
    let (_, record) = exchange(H11, body).run_through(recorder).await;
    until("the content to be spilled", || record.content().is_spilled()).await;
    let usage = tokio::task::spawn_blocking(move || tokens(&record)).await.unwrap();
    assert_eq!(usage, (Some(2_000), UsageBasis::Reported));
}

#[tokio::test]
async fn what_is_no_answer_is_not_metered() {
    let cases = [
        exchange(H2, body(["one\n"])).method(Method::HEAD),
        exchange(H11, body(["one\n"])).status(304),
        exchange(H11, body(["one\n"])).status(404),
    ];
    for case in cases {
        let (_, record) = case.run_through(on_worker()).await;
        assert_eq!(record.outcome(), &Outcome::Completed);
        assert_eq!((tokens(&record), record.llm()), ((None, UsageBasis::Absent), None), "{case:?}");
    }
}
