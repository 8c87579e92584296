//! What the protocol's own end, and errors inside the stream, make of a stream's ending: on real servers.

use http::{Method, Response};
use streaming_accumulator::Evidence::{Dropped, EndOfBody, Error, Length, LogicalEnd, Stopped};
use streaming_accumulator::meter::{MeterSet, UsageBasis};
use streaming_accumulator::{Evidence, Outcome, Phase, StreamError};

use super::lines::{Made, is_cut, lines, metered, report, tokens};
use crate::support::exchange::{H2, H11};
use crate::support::*;

/// How a client leaves that has seen what it was waiting for.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    Fin,
    Rst,
    /// HTTP/2: resets the stream.
    Reset,
    /// HTTP/2: its connection is gone.
    Lost,
}

const WAYS: [Leaves; 4] = [Leaves::Fin, Leaves::Rst, Leaves::Reset, Leaves::Lost];

/// A client that leaves as soon as it sees `last`, while the body is still open.
async fn leaves_at(recorder: &Recorder, body: MockBody, last: &str, how: Leaves) {
    leaves_with(recorder, Response::new(body), last, how).await;
}

async fn leaves_with(recorder: &Recorder, response: Response<MockBody>, last: &str, how: Leaves) {
    let h2 = matches!(how, Leaves::Reset | Leaves::Lost);
    let options = Options { h2, ..Options::default() };
    let server = serve(options, recorder.around(answers([response]))).await;
    if !h2 {
        let mut client = RawClient::get(server.addr).await;
        client.read_until(last).await;
        return client.leave(matches!(how, Leaves::Rst)).await;
    }
    let mut client = H2Client::connect(server.addr).await;
    let (response, mut sending) = client.get();
    let mut body = within("the head", response).await.unwrap().into_body();
    let mut seen = String::new();
    while !seen.contains(last) {
        let data = within("data", body.data()).await.unwrap().unwrap();
        seen.push_str(str::from_utf8(&data).unwrap());
    }
    match how {
        Leaves::Lost => client.leave(),
        _ => {
            sending.send_reset(h2::Reason::CANCEL);
            recorder.only().await;
        }
    }
}

/// Open for ever after these frames.
fn open<const N: usize>(frames: [&'static str; N]) -> MockBody {
    body(frames).wait(&Gate::new())
}

#[tokio::test]
async fn client_closes_on_the_protocols_end() {
    for how in WAYS {
        let recorder = metered();
        leaves_at(&recorder, open(["one\n", "two\ne", "nd\n"]), "two", how).await;
        let record = recorder.only().await;
        // HTTP/2 may have split it there: then the end had not come yet.
        let account = Account::of(&record);
        assert!(account == completed(LogicalEnd, 12) || account.what == What::Cancelled, "{account:?}");

        let recorder = metered();
        leaves_at(&recorder, open(["one\n", "two\nend\n"]), "end\n", how).await;
        let record = recorder.only().await;
        assert_eq!(Account::of(&record), completed(LogicalEnd, 12), "{how:?}");
        assert_eq!(tokens(&record), (Some(2), UsageBasis::Reported));
        assert_eq!(report(&record).terminated, Some(true));
        assert_eq!(report(&record).text.as_deref(), Some("onetwo"));
    }
}

#[tokio::test]
async fn client_closes_under_the_built_in_meters() {
    let event = |json: &str| format!("data: {json}\n\n");
    let usage = r#"{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}"#;
    let events = body([])
        .data(event(
            r#"{"id":"1","object":"chat.completion.chunk","model":"gpt-4o","choices":[{"index":0,"delta":{"content":"hi"}}]}"#,
        ))
        .data(event(&format!(
            r#"{{"id":"1","object":"chat.completion.chunk","model":"gpt-4o","choices":[],"usage":{usage}}}"#
        )))
        .data(event("[DONE]"))
        .wait(&Gate::new());
    for how in WAYS {
        let recorder = Recorder::with(|builder| builder.meter(MeterSet::detect()));
        let mut response = Response::new(events.clone());
        response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
        leaves_with(&recorder, response, "[DONE]\n\n", how).await;
        let record = recorder.only().await;
        assert_eq!((record.outcome(), record.evidence()), (&Outcome::Completed, LogicalEnd), "{how:?}");
        assert_eq!(tokens(&record), (Some(1), UsageBasis::Reported));
        assert_eq!(report(&record).model(), Some("gpt-4o"));
    }
}

#[tokio::test]
async fn leaving_at_the_end_without_a_meter_cancels() {
    for how in WAYS {
        let recorder = Recorder::new();
        leaves_at(&recorder, open(["one\n", "two\nend\n"]), "end\n", how).await;
        let record = recorder.only().await;
        assert_eq!(Account::of(&record), cancelled(Phase::Body, 12), "{how:?}");
        assert_eq!(tokens(&record), (None, UsageBasis::Absent));
        assert_eq!(record.llm(), None);
    }
}

#[tokio::test]
async fn early_leaver_has_partial_usage() {
    for how in WAYS {
        let recorder = metered();
        leaves_at(&recorder, open(["one\n", "two\n"]), "two\n", how).await;
        let record = recorder.only().await;
        assert_eq!(Account::of(&record), cancelled(Phase::Body, 8), "{how:?}");
        assert_eq!(tokens(&record), (Some(2), UsageBasis::Partial));
        assert_eq!(report(&record).terminated, Some(false));
    }
}

#[tokio::test]
async fn http_evidence_outweighs_the_protocols_end() {
    let cases = [
        (body(["one\n", "end\n"]), EndOfBody),
        (body(["one\n", "end\n"]).trailers(), Evidence::Trailers),
        (body(["one\n", "end\n"]).hint(true), Evidence::EndHint),
    ];
    for proto in [H11, H2] {
        for (body, evidence) in cases.clone() {
            let (reply, record) = exchange(proto, body).run_through(metered()).await;
            assert_eq!(Account::of(&record), completed(evidence, 8));
            assert_eq!(reply.body, "one\nend\n");
            assert_eq!(tokens(&record), (Some(1), UsageBasis::Reported));
        }
    }
    let at_length = exchange(H11, body(["one\n", "end\n"])).header("content-length", "8");
    let (_, record) = at_length.run_through(metered()).await;
    assert_eq!(Account::of(&record), completed(Length, 8));
}

#[tokio::test]
async fn protocols_end_mends_no_broken_body() {
    for proto in [H11, H2] {
        let broken = exchange(proto, body(["one\nend\n"]).yields().fails());
        let (reply, record) = broken.run_through(metered()).await;
        assert_eq!(Account::of(&record), failed("body", Phase::Body, Error, 8));
        assert!(is_cut(&reply));
        assert_eq!(tokens(&record), (Some(1), UsageBasis::Reported), "and yet it was reported");

        let short = exchange(proto, body(["one\nend\n"])).header("content-length", "10");
        let (_, record) = short.run_through(metered()).await;
        assert_eq!(Account::of(&record), failed("short_body", Phase::Body, EndOfBody, 8));
    }
}

fn in_band(evidence: Evidence) -> Account {
    failed("in_band", Phase::Body, evidence, 10)
}

#[tokio::test]
async fn error_inside_fails_the_stream_unnoticed_downstream() {
    for proto in [H11, H2] {
        let ends = exchange(proto, body(["one\n", "error\n"]));
        let (reply, record) = ends.run_through(metered()).await;
        assert_eq!(Account::of(&record), in_band(EndOfBody));
        assert_eq!(reply, ends.run_bare().await);
        assert!(!is_cut(&reply));
        assert_eq!(record.stop_reason(), None);
        let Outcome::Failed(error @ StreamError::InBand { code, message, .. }) = record.outcome() else {
            panic!("{:?}", record.outcome());
        };
        assert_eq!((code.as_deref(), &**message), (Some("overloaded"), "later"));
        assert_eq!(error.to_string(), "in-band error overloaded: later");
        assert_eq!(
            report(&record).error.as_ref().map(ToString::to_string).as_deref(),
            Some("overloaded: later")
        );
        assert_eq!(tokens(&record), (Some(1), UsageBasis::Partial));

        let breaks = exchange(proto, body(["one\n", "error\n"]).yields().fails());
        let (reply, record) = breaks.run_through(metered()).await;
        assert_eq!(Account::of(&record), in_band(Error));
        assert!(is_cut(&reply));
    }
}

#[tokio::test]
async fn error_inside_comes_before_drop_and_cancel() {
    for how in WAYS {
        let recorder = metered();
        leaves_at(&recorder, open(["one\n", "error\n"]), "error\n", how).await;
        assert_eq!(recorder.account().await, in_band(Dropped), "{how:?}");
        // With the end marker behind it, too.
        let recorder = metered();
        leaves_at(&recorder, open(["error\n", "end\n"]), "end\n", how).await;
        assert_eq!(recorder.account().await, in_band(LogicalEnd), "{how:?}");
    }
    for h2 in [false, true] {
        let recorder = metered();
        let options = Options { h2, ..Options::default() };
        let service = recorder.around(answers([Response::new(open(["one\n", "error\n"]))]));
        let server = serve(options, service).await;
        let reply =
            tokio::spawn(async move { exchange(if h2 { H2 } else { H11 }, body([])).ask(&server).await });
        recorder.pulled(10).await;
        assert!(recorder.handle().streams()[0].cancel());
        assert_eq!(recorder.account().await, in_band(Stopped));
        assert!(is_cut(&within("the reply", reply).await.unwrap()));
        assert_eq!(recorder.only().await.stop_reason(), None);
    }
}

#[tokio::test]
async fn what_is_no_answer_is_not_metered() {
    let cases = [
        exchange(H11, body(["one\n"]).exact()).method(Method::HEAD),
        exchange(H2, body(["one\n"])).method(Method::HEAD),
        exchange(H11, body(["one\n"])).status(204),
        exchange(H11, body(["one\n"])).status(304),
        exchange(H11, body(["error\n"])).status(404),
        exchange(H2, body(["error\n"])).status(500),
    ];
    for case in cases {
        let made = Made::default();
        let (_, record) = case.run_through(Recorder::with(|builder| builder.meter(made.set()))).await;
        assert_eq!(record.outcome(), &Outcome::Completed, "{case:?}");
        assert_eq!((tokens(&record), record.llm()), ((None, UsageBasis::Absent), None), "{case:?}");
        assert_eq!(made.times(), 0, "{case:?}");
    }
}

#[tokio::test]
async fn a_withheld_chunk_is_not_metered() {
    let recorder = Recorder::with(|builder| {
        builder.meter(lines()).on_chunk(|chunk, _| match &chunk[..] {
            b"two\n" => std::ops::ControlFlow::Break("quota".into()),
            _ => std::ops::ControlFlow::Continue(()),
        })
    });
    let (_, record) = exchange(H11, body(["one\n", "two\n"])).run_through(recorder.clone()).await;
    assert_eq!(record.outcome(), &Outcome::Cancelled);
    assert_eq!(tokens(&record), (Some(1), UsageBasis::Partial));
}

#[tokio::test]
async fn error_inside_comes_before_a_withheld_chunk() {
    let recorder = Recorder::with(|builder| {
        builder.meter(lines()).on_chunk(|chunk, _| match &chunk[..] {
            b"two\n" => std::ops::ControlFlow::Break("quota".into()),
            _ => std::ops::ControlFlow::Continue(()),
        })
    });
    let (reply, record) = exchange(H11, body(["error\n"]).yields().data("two\n")).run_through(recorder).await;
    assert_eq!(Account::of(&record), failed("in_band", Phase::Body, Stopped, 6));
    assert!(is_cut(&reply), "and yet the chunk is withheld");
    assert_eq!(reply.body, "error\n");
}
