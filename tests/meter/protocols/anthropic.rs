//! Written from Anthropic's documents: *Streaming Messages* (event types, error events, `ping`, cumulative usage,
//! thinking and tool deltas), *Handling stop reasons*, *Errors*, *Prompt caching*, *Server tools*, *Compaction*, and
//! Google's *Claude on Vertex AI* (`streamRawPredict`).

use streaming_accumulator::meter::UsageBasis;

use super::{Answer, counts, error, events, json, protocol};

const START: &str = r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",
    "model":"claude-sonnet-4-5","content":[],"stop_reason":null,"stop_sequence":null,
    "usage":{"input_tokens":25,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":1}}}"#;
const BLOCK: &str = r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
const HELLO: &str =
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}"#;
const STOP: &str = r#"{"type":"message_stop"}"#;
const OVERLOADED: &str = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;

/// Named as the API names them, by the type in their data.
fn named(data: &[&str]) -> Answer {
    let name = |data: &str| {
        let kind = data.strip_prefix(r#"{"type":""#).expect("the type first");
        kind.split('"').next().expect("a type").to_owned()
    };
    // One line: a constant here may go over several.
    let event = |data: &&str| format!("event: {}\ndata: {}\n\n", name(data), data.replace('\n', " "));
    Answer::new("text/event-stream", data.iter().map(event).collect::<String>())
}

fn delta(reason: &str, usage: &str) -> String {
    format!(
        r#"{{"type":"message_delta","delta":{{"stop_reason":{reason},"stop_sequence":null}},"usage":{usage}}}"#
    )
}

#[test]
fn error_midway_keeps_what_was_reported() {
    let (report, usage) = named(&[START, BLOCK, HELLO, OVERLOADED]).completed().read();
    assert_eq!(error(&report), Some((Some("overloaded_error"), "Overloaded")));
    assert_eq!(report.text.as_deref(), Some("Hello"));
    assert_eq!((report.terminated, report.finish_reason()), (Some(false), None));
    assert_eq!(counts(&usage), [Some(25), Some(1), Some(0), Some(0), None, Some(26)]);
    assert_eq!(usage.basis, UsageBasis::Partial);
}

#[test]
fn early_error_takes_its_protocol_from_the_path() {
    let (report, usage) = named(&[OVERLOADED]).at("/v1/messages").completed().read();
    assert_eq!(error(&report), Some((Some("overloaded_error"), "Overloaded")));
    assert_eq!(protocol(&report), Some("anthropic_messages"));
    assert_eq!(usage.basis, UsageBasis::Absent);
    let (report, _) = named(&[OVERLOADED]).read();
    assert_eq!(error(&report), Some((Some("overloaded_error"), "Overloaded")));
    assert_eq!(protocol(&report), None);
}

/// Gateways put errors of their own into the stream, without a type around them.
#[test]
fn an_error_without_a_type_is_one() {
    let gateway = r#"data: {"error":{"message":"upstream is gone","code":"502"}}"#;
    let (report, _) = named(&[START, HELLO]).then(format!("{gateway}\n\n")).read();
    assert_eq!(error(&report), Some((Some("502"), "upstream is gone")));
    let plain = r#"{"type":"error","message":"no nesting"}"#;
    assert_eq!(error(&named(&[START, plain]).read().0), Some((None, "no nesting")));
}

#[test]
fn plain_error_replaces_the_stream() {
    for content_type in ["application/json", "text/event-stream"] {
        let answer = json(OVERLOADED).typed(Some(content_type)).at("/v1/messages");
        let (report, _) = answer.completed().read();
        assert_eq!(error(&report), Some((Some("overloaded_error"), "Overloaded")), "{content_type}");
        assert_eq!(protocol(&report), Some("anthropic_messages"), "{content_type}");
    }
}

#[test]
fn pings_and_what_is_new_are_passed_over() {
    let ping = r#"{"type":"ping"}"#;
    let new_event = r#"{"type":"content_block_pause","index":0,"text":"no text","usage":{"input_tokens":1}}"#;
    let new_delta =
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"hologram_delta","text":"none"}}"#;
    let new_block =
        r#"{"type":"content_block_start","index":1,"content_block":{"type":"hologram","text":"none"}}"#;
    let end = delta(
        r#""tired_of_it""#,
        r#"{"output_tokens":9,"novel":{"input_tokens":777},"service_tier":"standard"}"#,
    );
    let (report, usage) =
        named(&[ping, START, ping, BLOCK, HELLO, new_event, new_delta, new_block, ping, &end, STOP]).read();
    assert_eq!(report.text.as_deref(), Some("Hello"));
    assert_eq!(report.finish_reason(), Some("tired_of_it"));
    assert_eq!(error(&report), None);
    assert_eq!(counts(&usage), [Some(25), Some(9), Some(0), Some(0), None, Some(34)]);
    assert_eq!((report.terminated, usage.basis), (Some(true), UsageBasis::Reported));
}

#[test]
fn nulls_and_absent_fields_keep_what_was_reported() {
    let end = delta(
        r#""end_turn""#,
        r#"{"input_tokens":null,"cache_creation_input_tokens":null,"cache_read_input_tokens":null,"output_tokens":15}"#,
    );
    let (_, usage) = named(&[START, HELLO, &end, STOP]).read();
    assert_eq!(counts(&usage), [Some(25), Some(15), Some(0), Some(0), None, Some(40)]);
    let raw = usage.raw.expect("raw");
    assert!(raw.contains(r#""input_tokens":25"#) && raw.contains(r#""output_tokens":15"#), "{raw}");
}

/// Compatible servers tell the split between cache and the rest only at the end; the input goes down by it.
#[test]
fn a_lower_input_replaces_the_higher_one() {
    let start =
        r#"{"type":"message_start","message":{"model":"m","usage":{"input_tokens":1000,"output_tokens":0}}}"#;
    let end = delta(
        r#""end_turn""#,
        r#"{"input_tokens":100,"cache_read_input_tokens":700,"cache_creation_input_tokens":200,"output_tokens":3}"#,
    );
    let (_, usage) = named(&[start, HELLO, &end, STOP]).read();
    assert_eq!(counts(&usage), [Some(1000), Some(3), Some(700), Some(200), None, Some(1003)]);
}

#[test]
fn of_several_deltas_the_last_one_counts() {
    let first = delta("null", r#"{"output_tokens":4}"#);
    let second = delta(r#""end_turn""#, r#"{"output_tokens":9,"input_tokens":30}"#);
    let (report, usage) = named(&[START, HELLO, &first, HELLO]).completed().read();
    assert_eq!((counts(&usage)[1], usage.basis), (Some(4), UsageBasis::Partial));
    assert_eq!(report.finish_reason(), None);
    let (report, usage) = named(&[START, HELLO, &first, HELLO, &second, STOP]).read();
    assert_eq!(counts(&usage), [Some(30), Some(9), Some(0), Some(0), None, Some(39)]);
    assert_eq!((report.finish_reason(), usage.basis), (Some("end_turn"), UsageBasis::Reported));
}

#[test]
fn delta_without_usage_leaves_counts_preliminary() {
    let reason = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#;
    let (report, usage) = named(&[START, HELLO, reason]).completed().read();
    assert_eq!((report.finish_reason(), usage.basis), (Some("end_turn"), UsageBasis::Partial));
    let end = r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":6}}"#;
    let (_, usage) = named(&[START, HELLO, reason, end]).read();
    assert_eq!((counts(&usage)[1], usage.basis), (Some(6), UsageBasis::Reported));
    // The protocol's own end: nothing better will come.
    assert_eq!(named(&[START, HELLO, reason, STOP]).read().1.basis, UsageBasis::Reported);
}

#[test]
fn server_tools_replace_counts_and_add_no_text() {
    let tool = r#"{"type":"content_block_start","index":1,"content_block":{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{}}}"#;
    let query = r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"query\":\"text\"}"}}"#;
    let result = r#"{"type":"content_block_start","index":2,"content_block":{"type":"web_search_tool_result","tool_use_id":"srvtoolu_1","content":[{"type":"web_search_result","title":"T","url":"https://x","encrypted_content":"E"}]}}"#;
    let end = delta(
        r#""end_turn""#,
        r#"{"input_tokens":10682,"cache_read_input_tokens":0,"output_tokens":510,"server_tool_use":{"web_search_requests":1}}"#,
    );
    let (report, usage) = named(&[START, BLOCK, HELLO, tool, query, result, &end, STOP]).read();
    assert_eq!(report.text.as_deref(), Some("Hello"));
    assert_eq!(counts(&usage), [Some(10682), Some(510), Some(0), Some(0), None, Some(11192)]);
    assert!(usage.raw.expect("raw").contains("web_search_requests"));
    assert!(report.time_to_first_tool_call.is_some());
}

#[test]
fn thinking_signatures_citations_and_compactions_are_no_text() {
    let blocks = [
        START,
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Let me think"}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"EqQBCgIYAhIM"}}"#,
        r#"{"type":"content_block_start","index":1,"content_block":{"type":"redacted_thinking","data":"Emw"}}"#,
        r#"{"type":"content_block_start","index":2,"content_block":{"type":"text","text":"So: "}}"#,
        r#"{"type":"content_block_delta","index":2,"delta":{"type":"text_delta","text":"42"}}"#,
        r#"{"type":"content_block_delta","index":2,"delta":{"type":"citations_delta","citation":{"type":"char_location","cited_text":"cited","text":"no"}}}"#,
        r#"{"type":"content_block_start","index":3,"content_block":{"type":"compaction","content":null}}"#,
        r#"{"type":"content_block_delta","index":3,"delta":{"type":"compaction_delta","content":"Summary","text":"no"}}"#,
        &delta(
            r#""refusal""#,
            r#"{"output_tokens":60,"output_tokens_details":{"thinking_tokens":40},"iterations":[{"type":"compaction","input_tokens":55096,"output_tokens":900}]}"#,
        ),
        STOP,
    ];
    let (report, usage) = named(&blocks).read();
    assert_eq!(report.text.as_deref(), Some("So: 42"), "text at a block's start counts");
    assert_eq!(report.finish_reason(), Some("refusal"));
    assert_eq!(counts(&usage), [Some(25), Some(60), Some(0), Some(0), Some(40), Some(85)]);
    assert!(usage.raw.expect("raw").contains("55096"), "iterations are billed from the raw object");
    assert!(report.time_to_first_reasoning.is_some());
}

#[test]
fn a_gateways_done_behind_the_end_changes_nothing() {
    let end = delta(r#""end_turn""#, r#"{"output_tokens":5}"#);
    let (plain, usage) = named(&[START, HELLO, &end, STOP]).read();
    let (report, other) = named(&[START, HELLO, &end, STOP]).then("data: [DONE]\n\n").read();
    assert_eq!((&report.text, report.terminated, error(&report)), (&plain.text, Some(true), None));
    assert_eq!(other, usage);
}

#[test]
fn a_whole_message_is_read() {
    let body = r#"{
      "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-1",
      "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "Hi \ud83d\ude00 "},
                  {"type": "tool_use", "id": "t", "name": "n", "input": {"text": "no"}}, {"type": "text", "text": "there"}],
      "stop_reason": "tool_use", "stop_sequence": null,
      "usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2,
                "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 0}, "output_tokens": 8}
    }"#;
    let (report, usage) = json(body).completed().read();
    assert_eq!(report.text.as_deref(), Some("Hi 😀 there"));
    assert_eq!((report.finish_reason(), report.terminated), (Some("tool_use"), Some(true)));
    assert_eq!(report.model(), Some("claude-opus-4-1"));
    assert_eq!(counts(&usage), [Some(17), Some(8), Some(5), Some(2), None, Some(25)]);
    assert_eq!(usage.basis, UsageBasis::Reported);
}

#[test]
fn vertex_names_the_model_in_its_path() {
    let path =
        "/v1/projects/p/locations/l/publishers/anthropic/models/claude-sonnet-4%4020250514:streamRawPredict";
    let (report, _) = named(&[r#"{"type":"ping"}"#]).at(path).read();
    assert_eq!(protocol(&report), Some("anthropic_messages"));
    assert_eq!(report.request_model.as_deref(), Some("claude-sonnet-4@20250514"));
    let end = delta(r#""end_turn""#, r#"{"output_tokens":5}"#);
    let (report, usage) = named(&[START, HELLO, &end, STOP]).at(path).read();
    assert_eq!((report.text.as_deref(), counts(&usage)[0]), (Some("Hello"), Some(25)));
    assert_eq!(report.model(), Some("claude-sonnet-4-5"));
}

#[test]
fn trailing_blanks_are_padding() {
    let end = delta(r#""end_turn""#, r#"{"output_tokens":5}"#);
    let padded = [HELLO, &end, STOP].map(|data| format!("{data}          "));
    let start = START.replace('\n', " ") + "   ";
    let (report, usage) = events([&start].into_iter().chain(&padded)).read();
    assert_eq!((report.text.as_deref(), report.terminated), (Some("Hello"), Some(true)));
    assert_eq!(counts(&usage)[1], Some(5));
}

#[test]
fn whole_last_event_counts_without_blank_line() {
    let end = delta(r#""end_turn""#, r#"{"output_tokens":5}"#);
    for cut in [1, 2] {
        let (report, _) = named(&[START, HELLO, &end, STOP]).cut_by(cut).read();
        assert_eq!(report.terminated, Some(true), "without {cut} bytes");
    }
    let (report, usage) = named(&[START, HELLO, &end, STOP]).cut_by(3).read();
    assert_eq!((report.terminated, usage.basis), (Some(false), UsageBasis::Reported));
}
