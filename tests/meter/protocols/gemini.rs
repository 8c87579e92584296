//! Written from Google's documents: *Generating content* (`streamGenerateContent`, `alt=sse`, `GenerateContentResponse`,
//! `UsageMetadata`, `PromptFeedback`, `FinishReason`), *Thinking*, *Tool use*, and Vertex AI's error bodies.

use streaming_accumulator::meter::UsageBasis;

use super::{Answer, counts, error, events, json, protocol, reasons};

const ARRAY: &str = "/v1beta/models/gemini-2.5-pro:streamGenerateContent?key=x";
const EVENTS: &str = "/v1beta/models/gemini-2.5-pro:streamGenerateContent?key=x&alt=sse";

fn chunk(parts: &str, reason: &str, usage: &str) -> String {
    let reason = if reason.is_empty() { String::new() } else { format!(r#","finishReason":"{reason}""#) };
    format!(
        r#"{{"candidates":[{{"content":{{"parts":[{parts}],"role":"model"}}{reason},"index":0}}],"usageMetadata":{{{usage}}},"modelVersion":"gemini-2.5-pro"}}"#
    )
}

fn text(text: &str, reason: &str, usage: &str) -> String {
    chunk(&format!(r#"{{"text":"{text}"}}"#), reason, usage)
}

fn read<S: AsRef<str>>(data: &[S]) -> Answer {
    events(data.iter().map(|data| format!("{}\r", data.as_ref())))
}

#[test]
fn the_last_report_counts_though_totals_fall_back() {
    let chunks = [
        text(
            "a",
            "",
            r#""promptTokenCount":8,"totalTokenCount":400,"thoughtsTokenCount":372,"candidatesTokenCount":20"#,
        ),
        text("b", "", r#""promptTokenCount":8,"totalTokenCount":8"#),
        text(
            "c",
            "STOP",
            r#""promptTokenCount":8,"totalTokenCount":52,"thoughtsTokenCount":28,"candidatesTokenCount":16"#,
        ),
    ];
    let (report, usage) = read(&chunks).completed().read();
    assert_eq!(counts(&usage), [Some(8), Some(44), None, None, Some(28), Some(52)]);
    assert_eq!((report.text.as_deref(), report.terminated), (Some("abc"), None));
    // A count of zero is left out, so a report stands alone: with the first one's thoughts, the second would add up
    // to another total than its own.
    let (_, usage) = read(&chunks[..2]).read();
    assert_eq!(counts(&usage), [Some(8), None, None, None, None, Some(8)]);
    assert_eq!(usage.basis, UsageBasis::Partial);
}

#[test]
fn text_may_follow_a_stop() {
    let chunks = [
        text("a", "STOP", r#""promptTokenCount":3,"candidatesTokenCount":1,"totalTokenCount":4"#),
        text("b", "STOP", r#""promptTokenCount":3,"candidatesTokenCount":2,"totalTokenCount":5"#),
        text("c", "", r#""promptTokenCount":3,"candidatesTokenCount":3,"totalTokenCount":6"#),
    ];
    let (report, usage) = read(&chunks).completed().read();
    assert_eq!((report.text.as_deref(), reasons(&report)), (Some("abc"), vec!["STOP"]));
    assert_eq!((counts(&usage)[1], usage.basis), (Some(3), UsageBasis::Reported));
}

#[test]
fn thoughts_calls_and_code_are_no_text() {
    let parts = [
        r#"{"text":"thinking","thought":true,"thoughtSignature":"x"}"#,
        r#"{"functionCall":{"name":"f","args":{"text":"no, [}]"}}}"#,
        r#"{"executableCode":{"language":"PYTHON","code":"print('text')"}}"#,
        r#"{"codeExecutionResult":{"outcome":"OUTCOME_OK","output":"text"}}"#,
        r#"{"inlineData":{"mimeType":"image/png","data":"AAAA"}}"#,
        r#"{"text":"said","thought":false}"#,
        r#"{"thoughtSignature":"only"}"#,
    ];
    let chunks = parts.map(|part| chunk(part, "", r#""promptTokenCount":1"#));
    let (report, _) = read(&chunks).read();
    assert_eq!(report.text.as_deref(), Some("said"));
    assert!(report.time_to_first_reasoning.is_some() && report.time_to_first_tool_call.is_some());
}

#[test]
fn prompts_of_tools_are_input_and_thoughts_output() {
    let usage = r#""promptTokenCount":10,"toolUsePromptTokenCount":100,"candidatesTokenCount":20,"thoughtsTokenCount":30,"cachedContentTokenCount":4,"totalTokenCount":160,"promptTokensDetails":[{"modality":"TEXT","tokenCount":10}],"trafficType":"ON_DEMAND""#;
    let (_, usage) = read(&[text("a", "STOP", usage)]).read();
    assert_eq!(counts(&usage), [Some(110), Some(50), Some(4), None, Some(30), Some(160)]);
    assert_eq!(usage.basis, UsageBasis::Reported);
}

#[test]
fn prompt_without_a_count_is_unknown() {
    let (_, usage) = read(&[text("a", "STOP", r#""candidatesTokenCount":20,"totalTokenCount":20"#)]).read();
    assert_eq!(counts(&usage), [None, Some(20), None, None, None, Some(20)]);
}

#[test]
fn a_blocked_prompt_has_no_candidates() {
    let blocked = r#"{"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"},"usageMetadata":{"promptTokenCount":7,"totalTokenCount":7},"modelVersion":"gemini-2.5-pro"}"#;
    let (report, usage) = read(&[blocked]).read();
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some(""), None));
    assert_eq!((protocol(&report), error(&report)), (Some("gemini_sse"), None));
    assert_eq!((counts(&usage)[0], usage.basis), (Some(7), UsageBasis::Reported));
}

#[test]
fn content_and_parts_may_be_missing() {
    let chunks = [
        r#"{"candidates":[{"finishReason":"MALFORMED_FUNCTION_CALL","index":0}],"usageMetadata":{"promptTokenCount":7}}"#,
        r#"{"candidates":[{"content":{"role":"model"},"finishReason":"SAFETY","safetyRatings":[]}]}"#,
        r#"{"candidates":[{"content":null,"finishReason":null}]}"#,
    ];
    assert_eq!(read(&chunks).read().0.finish_reason(), Some("SAFETY"));
}

#[test]
fn an_error_event_midway_is_kept() {
    let failed = r#"{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}"#;
    let (report, usage) =
        read(&[&text("a", "", r#""promptTokenCount":3,"totalTokenCount":3"#), failed]).read();
    assert_eq!(error(&report), Some((Some("UNAVAILABLE"), "The model is overloaded.")));
    assert_eq!((report.text.as_deref(), usage.basis), (Some("a"), UsageBasis::Partial));
    let (report, _) = read(&[failed]).at(EVENTS).read();
    assert_eq!(error(&report), Some((Some("UNAVAILABLE"), "The model is overloaded.")));
    assert_eq!(protocol(&report), Some("gemini_sse"));
}

const BARE: &str = "{\r\n  \"error\": {\r\n    \"code\": 499,\r\n    \"message\": \"data: cancelled, [{\\\"\",\r\n    \"status\": \"CANCELLED\",\r\n    \"details\": [\r\n      {}\r\n    ]\r\n  }\r\n}";

/// Vertex ends a failing stream with JSON that is not an event.
#[test]
fn bare_json_behind_the_events_is_an_error() {
    let first = text("a", "", r#""promptTokenCount":3,"totalTokenCount":3"#);
    for body in [BARE.to_owned(), format!("{BARE}\r\n"), format!("[{BARE}\r\n]\r\n"), format!("[{BARE}]")] {
        for body in [body.clone(), body.replace("\r\n", "\n"), body.replace("\r\n", "")] {
            let (report, usage) = read(&[&first]).then(&body).read();
            let found = error(&report);
            assert_eq!(found, Some((Some("CANCELLED"), "data: cancelled, [{\"")), "{body}");
            assert_eq!((report.text.as_deref(), counts(&usage)[0]), (Some("a"), Some(3)), "{body}");
        }
    }
}

#[test]
fn bare_json_that_is_no_error_is_none() {
    let first = text("a", "", r#""promptTokenCount":3,"totalTokenCount":3"#);
    let (report, _) = read(&[&first]).then("{\"note\": \"no error\"}\n").read();
    assert_eq!((error(&report), report.text.as_deref()), (None, Some("a")));
}

#[test]
fn an_array_with_an_error_alone_is_one() {
    let (report, usage) = json(&format!("[{BARE}\r\n]\r\n")).at(ARRAY).completed().read();
    assert_eq!(error(&report), Some((Some("CANCELLED"), "data: cancelled, [{\"")));
    assert_eq!((protocol(&report), report.terminated), (Some("gemini_json_array"), Some(true)));
    assert_eq!(usage.basis, UsageBasis::Absent);
}

#[test]
fn an_error_in_an_array_is_one() {
    let first = text("a", "", r#""promptTokenCount":3,"totalTokenCount":3"#);
    for end in ["", "\r\n]"] {
        let (report, usage) = json(&format!("[{first}\n,\r\n{BARE}{end}")).read();
        assert_eq!(error(&report), Some((Some("CANCELLED"), "data: cancelled, [{\"")), "{end:?}");
        assert_eq!((report.text.as_deref(), usage.basis), (Some("a"), UsageBasis::Partial), "{end:?}");
        assert_eq!(report.terminated, Some(!end.is_empty()));
    }
}

#[test]
fn a_wrapper_is_taken_off() {
    let inner = [
        text("a", "", r#""promptTokenCount":3,"totalTokenCount":3"#),
        text("b", "STOP", r#""promptTokenCount":3,"candidatesTokenCount":2,"totalTokenCount":5"#),
    ];
    let (plain, usage) = read(&inner).read();
    let wrapped = inner.map(|chunk| format!(r#"{{"response":{chunk},"traceId":"t"}}"#));
    let (mut report, other) = read(&wrapped).read();
    (report.event_bytes, report.longest_event) = (plain.event_bytes, plain.longest_event);
    assert_eq!((report, other), (plain, usage));
}

fn array() -> Vec<String> {
    [
        text(r#"[{\"a\": \"},\\\"]"#, "", r#""promptTokenCount":3,"totalTokenCount":3"#),
        text(r#"\\"#, "", r#""promptTokenCount":3,"totalTokenCount":3"#),
        text("]", "STOP", r#""promptTokenCount":3,"candidatesTokenCount":9,"totalTokenCount":12"#),
    ]
    .into()
}

#[test]
fn brackets_and_commas_in_strings_split_nothing() {
    for between in ["\n,\r\n", ",", " , "] {
        let body = format!("[{}\n]\n", array().join(between));
        let (report, usage) = json(&body).completed().read();
        assert_eq!(report.text.as_deref(), Some(r#"[{"a": "},\"]\]"#));
        assert_eq!((report.terminated, protocol(&report)), (Some(true), Some("gemini_json_array")));
        assert_eq!((counts(&usage)[5], usage.basis), (Some(12), UsageBasis::Reported));
    }
}

#[test]
fn a_cut_array_keeps_what_was_whole() {
    let body = format!("[{}\n]", array().join("\n,\r\n"));
    let (report, usage) = json(&body).cut_by(1).read();
    assert_eq!((report.terminated, counts(&usage)[5]), (Some(false), Some(12)));
    let (report, usage) = json(&body).cut_by(10).read();
    assert_eq!(report.text.as_deref(), Some(r#"[{"a": "},\"]\"#));
    assert_eq!((counts(&usage)[5], usage.basis), (Some(3), UsageBasis::Partial));
    assert_eq!(report.incomplete.as_ref(), None);
    // Nothing of it.
    let (report, _) = json("[").at(ARRAY).read();
    assert_eq!(report.terminated, Some(false));
}

#[test]
fn whole_answer_is_read_with_all_candidates() {
    let body = r#"{
      "candidates": [
        {"content": {"parts": [{"text": "zero"}, {"text": "!"}], "role": "model"}, "finishReason": "STOP"},
        {"content": {"parts": [{"text": "one"}], "role": "model"}, "finishReason": "MAX_TOKENS", "index": 1}
      ],
      "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 6, "totalTokenCount": 10},
      "modelVersion": "gemini-2.5-flash", "responseId": "r"
    }"#;
    let uri = "/v1beta/models/gemini-flash-latest:generateContent";
    let (report, usage) = json(body).at(uri).completed().read();
    assert_eq!((report.text.as_deref(), reasons(&report)), (Some("zero!"), vec!["STOP", "MAX_TOKENS"]));
    assert_eq!(report.choices[1].text.as_deref(), Some("one"));
    assert_eq!((counts(&usage)[5], usage.basis), (Some(10), UsageBasis::Reported));
    assert_eq!(
        (report.model(), report.request_model.as_deref()),
        (Some("gemini-2.5-flash"), Some("gemini-flash-latest"))
    );
}

#[test]
fn the_last_model_stands() {
    let first = text("a", "", "").replace("gemini-2.5-pro", "gemini-preview");
    assert_eq!(read(&[first, text("b", "STOP", "")]).read().0.model(), Some("gemini-2.5-pro"));
}

#[test]
fn chunk_without_usage_changes_none() {
    let chunks = [
        text("a", "STOP", r#""promptTokenCount":3,"candidatesTokenCount":2,"totalTokenCount":5"#),
        text("b", "", ""),
    ];
    assert_eq!(counts(&read(&chunks).read().1)[5], Some(5));
}
