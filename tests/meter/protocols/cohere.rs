//! Written from Cohere's documents: *Chat API* v2 (streamed events, finish reasons, `usage`), *Chat API* v1 (stream
//! events, `meta`), and *Errors*.

use streaming_accumulator::meter::UsageBasis;

use super::{counts, error, events, json, lines, protocol};

const START: &str = r#"{"type":"message-start","id":"x","delta":{"message":{"role":"assistant","content":[],"tool_plan":"","tool_calls":[],"citations":[]}}}"#;

fn text(text: &str) -> String {
    format!(r#"{{"type":"content-delta","index":0,"delta":{{"message":{{"content":{{"text":"{text}"}}}}}}}}"#)
}

const END: &str = r#"{"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"billed_units":{"input_tokens":265,"output_tokens":9},"tokens":{"input_tokens":502,"output_tokens":11,"reasoning_tokens":3},"cached_tokens":16}}}"#;

#[test]
fn tokens_are_counts_and_raw_has_the_billed() {
    let (report, usage) = events([START, &text("Hel"), &text("lo"), END, "[DONE]"]).read();
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("Hello"), Some("COMPLETE")));
    assert_eq!(counts(&usage), [Some(502), Some(11), Some(16), None, Some(3), Some(513)]);
    assert_eq!((report.terminated, usage.basis), (Some(true), UsageBasis::Reported));
    assert!(usage.raw.expect("raw").contains(r#""billed_units":{"input_tokens":265"#));
}

#[test]
fn billed_units_alone_are_the_counts() {
    let end = r#"{"type":"message-end","delta":{"finish_reason":"MAX_TOKENS","usage":{"billed_units":{"input_tokens":5,"output_tokens":9}}}}"#;
    let (_, usage) = events([START, &text("a"), end]).read();
    assert_eq!(counts(&usage)[..2], [Some(5), Some(9)]);
}

#[test]
fn an_error_ends_the_message() {
    let end = r#"{"type":"message-end","delta":{"error":"the server failed","finish_reason":"ERROR","usage":{"tokens":{"input_tokens":5,"output_tokens":1}}}}"#;
    let (report, usage) = events([START, &text("Hel"), end, "[DONE]"]).read();
    assert_eq!(error(&report), Some((None, "the server failed")));
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("Hel"), Some("ERROR")));
    assert_eq!((report.terminated, counts(&usage)[0]), (Some(true), Some(5)));
    let silent = r#"{"type":"message-end","delta":{"finish_reason":"ERROR"}}"#;
    assert_eq!(error(&events([START, silent]).read().0), Some((None, "ERROR")));
}

#[test]
fn plans_citations_thoughts_and_calls_are_no_text() {
    let all = [
        START,
        r#"{"type":"tool-plan-delta","delta":{"message":{"tool_plan":"I will look"}}}"#,
        r#"{"type":"tool-call-start","index":0,"delta":{"message":{"tool_calls":{"id":"t","type":"function","function":{"name":"f","arguments":""}}}}}"#,
        r#"{"type":"tool-call-delta","index":0,"delta":{"message":{"tool_calls":{"function":{"arguments":"{\"text\":"}}}}}"#,
        r#"{"type":"tool-call-end","index":0}"#,
        r#"{"type":"content-start","index":0,"delta":{"message":{"content":{"type":"thinking","thinking":""}}}}"#,
        r#"{"type":"content-delta","index":0,"delta":{"message":{"content":{"thinking":"hm"}}}}"#,
        r#"{"type":"content-start","index":1,"delta":{"message":{"content":{"type":"text","text":""}}}}"#,
        &text("said"),
        r#"{"type":"citation-start","index":0,"delta":{"message":{"citations":{"start":0,"end":2,"text":"no","sources":[{"document":{"text":"no"}}]}}}}"#,
        r#"{"type":"citation-end","index":0}"#,
        r#"{"type":"hologram-delta","delta":{"message":{"hologram":"?"}}}"#,
        r#"{"type":"message-end","delta":{"finish_reason":"TOOL_CALL"}}"#,
    ];
    let (report, usage) = events(all).read();
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("said"), Some("TOOL_CALL")));
    assert!(report.time_to_first_reasoning.is_some() && report.time_to_first_tool_call.is_some());
    assert_eq!(usage.basis, UsageBasis::Absent);
}

#[test]
fn a_whole_answer_of_version_2_is_read() {
    let body = r#"{"id":"x","finish_reason":"TOOL_CALL","message":{"role":"assistant","tool_plan":"plan","tool_calls":[{"id":"t","type":"function","function":{"name":"f","arguments":"{}"}}],"content":[{"type":"thinking","thinking":"hm"},{"type":"text","text":"Hi"},{"type":"text","text":"!"}]},"usage":{"billed_units":{"input_tokens":1,"output_tokens":2},"tokens":{"input_tokens":10,"output_tokens":20}}}"#;
    let (report, usage) = json(body).completed().read();
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("Hi!"), Some("TOOL_CALL")));
    assert_eq!((protocol(&report), report.terminated), (Some("cohere_v2"), Some(true)));
    assert_eq!((counts(&usage)[5], usage.basis), (Some(30), UsageBasis::Reported));
    assert!(report.time_to_first_reasoning.is_some() && report.time_to_first_tool_call.is_some());
}

// === Version 1 ===

const V1_START: &str = r#"{"is_finished":false,"event_type":"stream-start","generation_id":"g"}"#;
const V1_TEXT: &str = r#"{"is_finished":false,"event_type":"text-generation","text":"Hello"}"#;

#[test]
fn version_1_repeats_its_text_at_the_end() {
    let end = r#"{"is_finished":true,"event_type":"stream-end","finish_reason":"COMPLETE","response":{"response_id":"r","text":"Hello","generation_id":"g","finish_reason":"COMPLETE","meta":{"api_version":{"version":"1"},"billed_units":{"input_tokens":4,"output_tokens":2},"tokens":{"input_tokens":70,"output_tokens":2}}}}"#;
    for answer in [lines(&[V1_START, V1_TEXT, end]), events([V1_START, V1_TEXT, end])] {
        let (report, usage) = answer.read();
        assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("Hello"), Some("COMPLETE")));
        assert_eq!((protocol(&report), report.terminated), (Some("cohere_v1"), Some(true)));
        assert_eq!((counts(&usage)[0], usage.basis), (Some(70), UsageBasis::Reported));
    }
    let (report, usage) = lines(&[V1_START, V1_TEXT]).read();
    assert_eq!((report.terminated, usage.basis), (Some(false), UsageBasis::Absent));
}

#[test]
fn version_1_fails_at_its_end() {
    for reason in ["ERROR", "ERROR_TOXIC", "ERROR_LIMIT"] {
        let end = format!(
            r#"{{"is_finished":true,"event_type":"stream-end","finish_reason":"{reason}","response":{{"text":"Hello"}}}}"#
        );
        let (report, _) = lines(&[V1_START, V1_TEXT, &end]).read();
        assert_eq!((error(&report), report.finish_reason()), (Some((None, reason)), Some(reason)));
        assert_eq!(report.text.as_deref(), Some("Hello"));
    }
    for reason in ["USER_CANCEL", "MAX_TOKENS", "TIMEOUT"] {
        let end = format!(r#"{{"event_type":"stream-end","finish_reason":"{reason}","response":{{}}}}"#);
        assert_eq!(lines(&[V1_START, &end]).read().0.error, None, "{reason}");
    }
}

#[test]
fn version_1_calls_and_searches_add_no_text() {
    let all = [
        V1_START,
        r#"{"is_finished":false,"event_type":"search-queries-generation","search_queries":[{"text":"no","generation_id":"g"}]}"#,
        r#"{"is_finished":false,"event_type":"citation-generation","citations":[{"start":1,"end":2,"text":"no"}]}"#,
        r#"{"is_finished":false,"event_type":"tool-calls-chunk","text":"no"}"#,
        r#"{"is_finished":false,"event_type":"tool-calls-generation","text":"no","tool_calls":[{"name":"f","parameters":{}}]}"#,
        V1_TEXT,
    ];
    let (report, _) = lines(&all).read();
    assert_eq!(report.text.as_deref(), Some("Hello"));
    assert!(report.time_to_first_tool_call.is_some());
    let whole_call = lines(&[V1_START, all[4]]).read().0;
    assert!(whole_call.time_to_first_tool_call.is_some());
}

#[test]
fn a_whole_answer_of_version_1_is_read() {
    let body = r#"{"response_id":"r","text":"Hello","generation_id":"g","chat_history":[{"role":"USER","message":"no"}],"finish_reason":"COMPLETE","meta":{"billed_units":{"input_tokens":4,"output_tokens":2},"tokens":{"input_tokens":70,"output_tokens":2}}}"#;
    let (report, usage) = json(body).completed().read();
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("Hello"), Some("COMPLETE")));
    assert_eq!((protocol(&report), report.terminated), (Some("cohere_v1"), Some(true)));
    assert_eq!((counts(&usage)[0], usage.basis), (Some(70), UsageBasis::Reported));
}
