//! Written from OpenAI's documents: *Responses*, its streaming events (`response.failed`, `response.incomplete`,
//! `error`, refusals, reasoning, items and parts), and *Background mode* (`response.cancelled`, queued answers).

use streaming_accumulator::meter::UsageBasis;

use super::{Answer, counts, error, events, json, protocol};

fn created() -> String {
    response("created", "in_progress", r#""usage":null,"error":null"#)
}

fn response(kind: &str, status: &str, rest: &str) -> String {
    format!(
        r#"{{"type":"response.{kind}","sequence_number":1,"response":{{"id":"resp_1","object":"response","status":"{status}","model":"gpt-4o-2024-08-06","output":[],{rest}}}}}"#
    )
}

fn text(delta: &str) -> String {
    format!(
        r#"{{"type":"response.output_text.delta","item_id":"i","output_index":0,"content_index":0,"delta":"{delta}","logprobs":[],"obfuscation":"xyz"}}"#
    )
}

fn read<S: AsRef<str>>(data: &[S]) -> Answer {
    let events = data.iter().map(|data| {
        let data = data.as_ref();
        let kind = data.split(r#""type":""#).nth(1).and_then(|rest| rest.split('"').next());
        format!("event: {}\ndata: {data}\n\n", kind.expect("a type"))
    });
    Answer::new("text/event-stream", events.collect::<String>())
}

const USAGE: &str = r#""usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":8,"cache_write_tokens":2},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":64},"total_tokens":123}"#;
const COUNTS: [Option<u64>; 6] = [Some(36), Some(87), Some(8), Some(2), Some(64), Some(123)];

#[test]
fn a_failure_keeps_the_text_before_it() {
    let failed = response(
        "failed",
        "failed",
        r#""usage":null,"error":{"code":"server_error","message":"The model failed."},"incomplete_details":null"#,
    );
    let (report, usage) = read(&[created(), text("Hel"), text("lo"), failed]).read();
    assert_eq!(error(&report), Some((Some("server_error"), "The model failed.")));
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("Hello"), Some("failed")));
    assert_eq!((report.terminated, usage.basis), (Some(true), UsageBasis::Absent));
    let failed = response("failed", "failed", &format!(r#""error":null,{USAGE}"#));
    let (report, usage) = read(&[created(), text("Hello"), failed]).read();
    assert_eq!(error(&report), Some((None, "response.failed")));
    assert_eq!((counts(&usage), usage.basis), (COUNTS, UsageBasis::Reported));
}

#[test]
fn an_incomplete_answer_says_why() {
    for reason in ["max_output_tokens", "content_filter"] {
        let details = format!(r#""error":null,"incomplete_details":{{"reason":"{reason}"}},{USAGE}"#);
        let (report, usage) =
            read(&[created(), text("Hi"), response("incomplete", "incomplete", &details)]).read();
        assert_eq!((report.finish_reason(), error(&report)), (Some(reason), None));
        assert_eq!((report.terminated, counts(&usage)), (Some(true), COUNTS));
    }
    let silent = response("incomplete", "incomplete", r#""incomplete_details":null,"usage":null"#);
    assert_eq!(read(&[created(), silent]).read().0.finish_reason(), Some("incomplete"));
}

#[test]
fn a_cancelled_answer_is_over_and_no_error() {
    let (report, usage) =
        read(&[created(), text("Hi"), response("cancelled", "cancelled", r#""usage":null"#)]).read();
    assert_eq!((report.finish_reason(), report.terminated), (Some("cancelled"), Some(true)));
    assert_eq!((error(&report), usage.basis), (None, UsageBasis::Absent));
}

#[test]
fn error_outweighs_the_failure_behind_it() {
    let flat = r#"{"type":"error","code":"rate_limit_exceeded","message":"Slow down","param":null,"sequence_number":3}"#;
    let nested = r#"{"type":"error","sequence_number":3,"error":{"type":"requests","code":"rate_limit_exceeded","message":"Slow down","param":null}}"#;
    let late = r#"{"sequence_number":3,"type":"error","code":null,"message":"Slow down","param":null}"#;
    let failed =
        response("failed", "failed", r#""usage":null,"error":{"code":"server_error","message":"later"}"#);
    for (sent, code) in
        [(flat, Some("rate_limit_exceeded")), (nested, Some("rate_limit_exceeded")), (late, None)]
    {
        let (report, _) = read(&[&created(), &text("Hi"), sent, &failed]).read();
        assert_eq!(error(&report), Some((code, "Slow down")), "{sent}");
        assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("Hi"), Some("failed")), "{sent}");
        let (report, _) = read(&[&created(), &text("Hi"), sent]).read();
        assert_eq!(error(&report), Some((code, "Slow down")), "{sent}");
        assert_eq!(report.terminated, Some(false), "{sent}");
    }
}

#[test]
fn refusals_reasoning_and_calls_are_no_text() {
    let data = [
        created().as_str(),
        r#"{"type":"response.output_item.added","output_index":0,"item":{"type":"reasoning","summary":[]}}"#,
        r#"{"type":"response.reasoning_summary_text.delta","delta":"thinking"}"#,
        r#"{"type":"response.reasoning_summary_text.done","text":"thinking"}"#,
        r#"{"type":"response.reasoning_text.delta","delta":"more"}"#,
        r#"{"type":"response.output_item.added","output_index":1,"item":{"type":"function_call","name":"f"}}"#,
        r#"{"type":"response.function_call_arguments.delta","delta":"{\"delta\":\"no\"}"}"#,
        r#"{"type":"response.function_call_arguments.done","arguments":"{}"}"#,
        r#"{"type":"response.refusal.delta","delta":"I cannot"}"#,
        r#"{"type":"response.refusal.done","refusal":"I cannot"}"#,
        r#"{"type":"response.output_text.annotation.added","annotation":{"text":"no"}}"#,
        r#"{"type":"response.hologram.delta","delta":"no"}"#,
        r#"{"type":"keepalive","sequence_number":3}"#,
        &response("completed", "completed", USAGE),
    ]
    .map(str::to_owned);
    let (report, _) = read(&data).read();
    assert_eq!((report.text.as_deref(), report.text_len), (Some(""), Some(0)));
    assert_eq!((report.finish_reason(), error(&report)), (Some("completed"), None));
    assert!(report.time_to_first_reasoning.is_some() && report.time_to_first_tool_call.is_some());
    assert_eq!(report.time_to_first_text, None);
}

#[test]
fn what_is_done_is_not_counted_again() {
    let output = r#"[{"type":"message","content":[{"type":"output_text","text":"Hello"}]},{"type":"message","content":[{"type":"output_text","text":" you"},{"type":"output_text","text":"!"}]}]"#;
    let other = text(" you").replace(r#""output_index":0"#, r#""output_index":1"#);
    let part = text("!").replace(r#""content_index":0"#, r#""content_index":1"#);
    let data = [
        created(),
        text("Hel"),
        text("lo"),
        r#"{"type":"response.output_text.done","text":"Hello"}"#.into(),
        r#"{"type":"response.content_part.done","part":{"type":"output_text","text":"Hello"}}"#.into(),
        r#"{"type":"response.output_item.done","item":{"type":"message","content":[{"type":"output_text","text":"Hello"}]}}"#.into(),
        other,
        part,
        response("completed", "completed", USAGE).replace(r#""output":[]"#, &format!(r#""output":{output}"#)),
    ];
    let (report, usage) = read(&data).read();
    assert_eq!((report.text.as_deref(), report.text_chunks), (Some("Hello you!"), Some(4)));
    assert_eq!((counts(&usage), usage.basis), (COUNTS, UsageBasis::Reported));
    // Neither is it where the deltas are missing: some servers send `output: []` at the end.
    let (report, _) = read(&[created(), text("Hi"), response("completed", "completed", USAGE)]).read();
    assert_eq!(report.text.as_deref(), Some("Hi"));
}

#[test]
fn the_type_may_stand_anywhere() {
    let data = [
        r#"{"response":{"model":"m","status":"in_progress","usage":null},"type":"response.created"}"#,
        r#"{"delta":"H\u0069","item_id":"i", "type" : "response.output_text.delta"}"#,
        r#"{"sequence_number":2,"response":{"output":[{"type":"message","text":"no"}],"model":"m","status":"completed","usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3}},"type":"response.completed"}"#,
    ];
    let (report, usage) = events(data).read();
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("Hi"), Some("completed")));
    assert_eq!((counts(&usage)[5], report.model()), (Some(3), Some("m")));
}

#[test]
fn a_huge_first_event_is_read() {
    let instructions = r#"\"usage\":{\"input_tokens\":1} "#.repeat(4_000);
    let created =
        response("created", "in_progress", &format!(r#""usage":null,"instructions":"{instructions}""#));
    assert!(created.len() > 100_000);
    let (report, usage) = read(&[created, text("Hi")]).read();
    assert_eq!((report.model(), usage.basis), (Some("gpt-4o-2024-08-06"), UsageBasis::Absent));
    assert_eq!((report.text.as_deref(), report.incomplete.as_ref()), (Some("Hi"), None));
}

#[test]
fn cut_stream_knows_its_model_without_counts() {
    let (report, usage) = read(&[created()]).read();
    assert_eq!((report.model(), protocol(&report)), (Some("gpt-4o-2024-08-06"), Some("openai_responses")));
    assert_eq!((report.terminated, usage.basis), (Some(false), UsageBasis::Absent));
    assert_eq!(report.finish_reason(), None);
}

#[test]
fn missing_status_is_taken_from_the_event() {
    let bare = r#"{"type":"response.completed","response":{"usage":{"input_tokens":1,"output_tokens":2}}}"#;
    let (report, usage) = read(&[&*created(), bare]).read();
    assert_eq!((report.finish_reason(), counts(&usage)[5]), (Some("completed"), Some(3)));
}

#[test]
fn a_whole_response_is_read() {
    let body = format!(
        r#"{{"id":"resp_1","object":"response","status":"completed","error":null,"incomplete_details":null,"model":"o3","output":[
        {{"type":"reasoning","summary":[{{"type":"summary_text","text":"hm"}}]}},
        {{"type":"message","role":"assistant","content":[{{"type":"output_text","text":"Hi","annotations":[]}},{{"type":"refusal","refusal":"no"}}]}},
        {{"type":"function_call","arguments":"{{}}"}},
        {{"type":"message","content":[{{"type":"output_text","text":" there"}}]}}],{USAGE}}}"#
    );
    let (report, usage) = json(&body).completed().read();
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("Hi there"), Some("completed")));
    assert_eq!((report.terminated, counts(&usage)), (Some(true), COUNTS));
    assert_eq!((usage.basis, report.model()), (UsageBasis::Reported, Some("o3")));
    assert!(report.time_to_first_reasoning.is_some() && report.time_to_first_tool_call.is_some());
}

/// Background mode: the answer to the request is a response that has not ended.
#[test]
fn queued_response_is_not_over() {
    for status in ["queued", "in_progress"] {
        let body = format!(
            r#"{{"id":"resp_1","object":"response","status":"{status}","error":null,"model":"o3","output":[],"usage":null}}"#
        );
        let (report, usage) = json(&body).completed().read();
        assert_eq!((report.finish_reason(), report.terminated), (None, Some(false)), "{status}");
        assert_eq!((usage.basis, report.model()), (UsageBasis::Absent, Some("o3")), "{status}");
    }
}

#[test]
fn a_done_that_does_not_belong_changes_nothing() {
    let (report, usage) = read(&[created(), text("Hi"), response("completed", "completed", USAGE)])
        .then("data: [DONE]\n\n")
        .read();
    assert_eq!((report.terminated, error(&report)), (Some(true), None));
    assert_eq!(counts(&usage), COUNTS);
}
