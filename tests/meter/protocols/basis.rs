//! What the counts of a stream rest on, for each protocol cut at each stage. The streams are those of the providers'
//! documents; see the other files.

use streaming_accumulator::meter::UsageBasis::{Absent, Partial, Reported};
use streaming_accumulator::meter::{Incomplete, LlmReport, MeterSet, UsageBasis};

use super::frames::{event, stream, wrapped};
use super::{Answer, counts, events, json, lines};

/// What is found after a number of the events, if the body was cut there, and if it ended there.
fn stages(parts: &[&str], make: impl Fn(&[&str]) -> Answer) -> Vec<(UsageBasis, UsageBasis, Option<bool>)> {
    let stage = |count: usize| {
        let answer = make(&parts[..count]);
        let (report, cut): (LlmReport, _) = answer.read();
        (cut.basis, answer.completed().read().1.basis, report.terminated)
    };
    (1..=parts.len()).map(stage).collect()
}

fn sse(parts: &[&str]) -> Answer {
    events(parts)
}

#[test]
fn chat_reports_at_its_end_only() {
    let parts = [
        r#"{"object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"content":"a"}}],"usage":null}"#,
        r#"{"object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}"#,
        r#"{"object":"chat.completion.chunk","model":"m","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#,
        "[DONE]",
    ];
    let (not, done) = (Some(false), Some(true));
    assert_eq!(
        stages(&parts, sse),
        [(Absent, Absent, not), (Absent, Absent, not), (Reported, Reported, not), (Reported, Reported, done)]
    );
}

#[test]
fn chat_usage_is_partial_until_it_finishes() {
    let parts = [
        r#"{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
        r#"{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
    ];
    assert_eq!(stages(&parts, sse), [(Partial, Partial, Some(false)), (Reported, Reported, Some(false))]);
}

/// vLLM with `n` and `continuous_usage_stats`: the counts of a choice that has ended are not the last ones.
#[test]
fn chat_is_partial_until_all_choices_finish() {
    let parts = [
        r#"{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant"}}],"usage":{"prompt_tokens":1,"completion_tokens":0}}"#,
        r#"{"object":"chat.completion.chunk","choices":[{"index":1,"delta":{"role":"assistant"}}],"usage":{"prompt_tokens":1,"completion_tokens":0}}"#,
        r#"{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
        r#"{"object":"chat.completion.chunk","choices":[{"index":1,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":4}}"#,
    ];
    let (partial, not) = ((Partial, Partial, Some(false)), Some(false));
    assert_eq!(stages(&parts, sse), [partial, partial, partial, (Reported, Reported, not)]);
}

#[test]
fn responses_report_in_their_last_event() {
    let parts = [
        r#"{"type":"response.created","response":{"model":"m","usage":null,"status":"in_progress"}}"#,
        r#"{"type":"response.output_text.delta","delta":"a"}"#,
        r#"{"type":"response.completed","response":{"status":"completed","usage":{"input_tokens":1,"output_tokens":2}}}"#,
    ];
    assert_eq!(
        stages(&parts, sse),
        [(Absent, Absent, Some(false)), (Absent, Absent, Some(false)), (Reported, Reported, Some(true))]
    );
}

#[test]
fn messages_report_partly_at_their_start() {
    let parts = [
        r#"{"type":"message_start","message":{"model":"m","usage":{"input_tokens":9,"output_tokens":1}}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}"#,
        r#"{"type":"message_stop"}"#,
    ];
    let (not, done) = (Some(false), Some(true));
    assert_eq!(
        stages(&parts, sse),
        [
            (Partial, Partial, not),
            (Partial, Partial, not),
            (Reported, Reported, not),
            (Reported, Reported, done)
        ]
    );
}

#[test]
fn gemini_reports_all_along_and_has_no_end() {
    let parts = [
        r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}],"usageMetadata":{"promptTokenCount":1}}"#,
        r#"{"candidates":[{"content":{"parts":[{"text":"b"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":2}}"#,
    ];
    // Without an end marker, a body that ends by itself has said all there is.
    assert_eq!(stages(&parts, sse), [(Partial, Reported, None), (Reported, Reported, None)]);
    let array = |parts: &[&str]| json(&format!("[{}", parts.join(",")));
    assert_eq!(stages(&parts, array), [(Partial, Partial, Some(false)), (Reported, Reported, Some(false))]);
}

#[test]
fn gemini_with_several_candidates_waits_for_all() {
    let parts = [
        r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}},{"index":1,"content":{"parts":[]}}],"usageMetadata":{"promptTokenCount":1}}"#,
        r#"{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":2}}"#,
        r#"{"candidates":[{"index":1,"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":3}}"#,
    ];
    let partial = (Partial, Reported, None);
    assert_eq!(stages(&parts, sse), [partial, partial, (Reported, Reported, None)]);
}

#[test]
fn converse_reports_behind_its_stop() {
    let parts = [
        r#"contentBlockDelta {"delta":{"text":"a"}}"#,
        r#"messageStop {"stopReason":"end_turn"}"#,
        r#"metadata {"usage":{"inputTokens":1,"outputTokens":2,"totalTokens":3}}"#,
    ];
    let make = |parts: &[&str]| {
        let messages = parts.iter().map(|part| part.split_once(' ').expect("a type and a payload"));
        stream(&messages.map(|(kind, payload)| event(kind, payload)).collect::<Vec<_>>())
    };
    assert_eq!(
        stages(&parts, make),
        [(Absent, Absent, Some(false)), (Absent, Absent, Some(false)), (Reported, Reported, Some(true))]
    );
}

#[test]
fn invoke_reports_with_its_metrics() {
    let parts = [
        r#"{"generation":"a","prompt_token_count":5,"generation_token_count":1,"stop_reason":null}"#,
        r#"{"generation":"b","prompt_token_count":null,"generation_token_count":2,"stop_reason":"stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":5,"outputTokenCount":2}}"#,
    ];
    let make = |parts: &[&str]| stream(&parts.iter().map(|part| wrapped(part)).collect::<Vec<_>>());
    assert_eq!(stages(&parts, make), [(Partial, Partial, Some(false)), (Reported, Reported, Some(true))]);
}

#[test]
fn cohere_and_ollama_report_in_their_last_event() {
    let wanted = [(Absent, Absent, Some(false)), (Reported, Reported, Some(true))];
    let second = [
        r#"{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"a"}}}}"#,
        r#"{"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"tokens":{"input_tokens":1,"output_tokens":2}}}}"#,
    ];
    assert_eq!(stages(&second, sse), wanted);
    let first = [
        r#"{"event_type":"text-generation","text":"a"}"#,
        r#"{"event_type":"stream-end","finish_reason":"COMPLETE","response":{"meta":{"tokens":{"input_tokens":1,"output_tokens":2}}}}"#,
    ];
    assert_eq!(stages(&first, lines), wanted);
    let ollama = [
        r#"{"model":"m","message":{"content":"a"},"done":false}"#,
        r#"{"model":"m","message":{"content":""},"done":true,"eval_count":2}"#,
    ];
    assert_eq!(stages(&ollama, lines), wanted);
}

/// What is longer than a meter buffers ends its reading: what was read before stands, and what follows is not guessed.
#[test]
fn overlong_event_keeps_what_was_before() {
    let long = "x".repeat(3_000);
    let start =
        r#"{"type":"message_start","message":{"model":"m","usage":{"input_tokens":9,"output_tokens":1}}}"#;
    let middle =
        format!(r#"{{"type":"content_block_delta","delta":{{"type":"text_delta","text":"{long}"}}}}"#);
    let end = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}"#;
    let chat = r#"{"model":"m","message":{"content":"a"},"done":false}"#;
    let chat_long = format!(r#"{{"model":"m","message":{{"content":"{long}"}},"done":false}}"#);
    let chat_end = r#"{"model":"m","message":{},"done":true,"eval_count":4}"#;
    let answers = [
        (events([start, &middle, end]), Some(1)),
        (lines(&[chat, &chat_long, chat_end]), None),
        (lines(&[chat, &chat_long, chat_end]).typed(None), None),
        (stream(&[wrapped(start), wrapped(&middle), wrapped(end)]), Some(1)),
    ];
    for (answer, output) in answers {
        let (report, usage) = answer.with(MeterSet::detect().max_line(1_000)).completed().read();
        assert!(matches!(report.incomplete, Some(Incomplete::TooLong { limit: 1_000, .. })), "{report:?}");
        assert_eq!((report.model(), report.finish_reason(), counts(&usage)[1]), (Some("m"), None, output));
        assert_eq!((report.terminated, usage.basis == Reported), (Some(false), false));
    }
}
