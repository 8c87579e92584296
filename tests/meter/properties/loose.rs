//! Meters: whatever comes, the answer is the same however it is cut and whether texts are looked at or not, and
//! what is too long for them ends their reading.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use streaming_accumulator::Usage;
use streaming_accumulator::meter::{Incomplete, LlmReport, MeterSet, TextPolicy};

use super::framing::cuts;
use crate::properties_reference::{Head, metered, same_however_cut};

const PATHS: [&str; 11] = [
    "/any",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1beta/models/gemini-x:streamGenerateContent?alt=sse",
    "/model/some.model-v1%3A0/invoke-with-response-stream",
    "/v1/chat",
    "/v2/chat",
    "/api/chat",
    "/api/generate",
];

const TYPES: [&str; 8] = [
    "text/event-stream",
    "application/json",
    "application/x-ndjson",
    "application/vnd.amazon.eventstream",
    "application/grpc",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "text/plain",
];

/// Keys of all providers.
const KEYS: [&str; 43] = [
    "type",
    "object",
    "model",
    "id",
    "choices",
    "index",
    "delta",
    "message",
    "content",
    "text",
    "finish_reason",
    "tool_calls",
    "arguments",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "x_groq",
    "error",
    "code",
    "response",
    "status",
    "output",
    "item",
    "input_tokens",
    "output_tokens",
    "stop_reason",
    "content_block",
    "candidates",
    "parts",
    "finishReason",
    "usageMetadata",
    "promptTokenCount",
    "event_type",
    "meta",
    "tokens",
    "done",
    "done_reason",
    "eval_count",
    "thinking",
    "completionReason",
    "generation",
    "metadata",
];

/// Words that mean something to one of them.
const WORDS: [&str; 24] = [
    "chat.completion",
    "chat.completion.chunk",
    "text_completion",
    "response",
    "response.created",
    "response.completed",
    "response.failed",
    "response.output_text.delta",
    "error",
    "message",
    "message_start",
    "message_delta",
    "message_stop",
    "content_block_start",
    "content_block_delta",
    "text_delta",
    "tool_use",
    "message-end",
    "content-delta",
    "text-generation",
    "tool-calls-chunk",
    "stream-end",
    "failed",
    "stop",
];

/// JSON of the providers' keys and words, put together as no provider does.
fn loose() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..300_u64).prop_map(Value::from),
        prop_oneof![Just(-1.5), Just(12.0), Just(1e300)].prop_map(Value::from),
        select(&WORDS[..]).prop_map(Value::from),
        "[a-z\"\\\\é😀]{0,5}".prop_map(Value::from),
    ];
    let fields = |value: BoxedStrategy<Value>| {
        vec((select(&KEYS[..]), value), 0..6).prop_map(|fields| {
            fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Value>()
        })
    };
    let value = leaf.prop_recursive(3, 20, 4, move |inner| {
        prop_oneof![3 => fields(inner.clone().boxed()), 1 => vec(inner, 0..3).prop_map(Value::from)]
    });
    fields(value.boxed())
}

/// What shows the protocol, so that the events after it are read.
fn opening() -> impl Strategy<Value = Value> {
    select(vec![
        json!({"object": "chat.completion.chunk", "model": "m", "choices": [{"delta": {"content": "a"}}]}),
        json!({"object": "text_completion", "model": "m", "choices": [{"text": "a"}]}),
        json!({"type": "response.created", "response": {"model": "m"}}),
        json!({"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 1}}}),
        json!({"candidates": [], "modelVersion": "m"}),
        json!({"type": "content-delta", "delta": {"message": {"content": {"text": "a"}}}}),
        json!({"event_type": "text-generation", "text": "a"}),
        json!({"model": "m", "message": {"content": "a"}, "done": false}),
        json!({"model": "m", "response": "a", "done": false}),
        json!({}),
    ])
}

/// `events` in one of the framings.
fn framed(events: &[String], framing: usize) -> Vec<u8> {
    let body = match framing {
        0 => events.iter().map(|event| format!("data: {event}\n\n")).collect::<String>(),
        1 => format!("[{}]", events.join(",")),
        _ => events.join("\n"),
    };
    body.into_bytes()
}

/// Bytes that begin as something that a meter reads, or do not.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        loose().prop_map(|value| format!("data: {value}\n\n")),
        loose().prop_map(|value| format!("{value}\n")),
        loose().prop_map(|value| format!("error: {value}\n")),
        select(vec![
            "{\"error\":\n",
            "{\"message\":\"no\"}\n",
            "}\n",
            "[",
            "data: [DONE]\n\n",
            "\n",
            ": ping\n\n"
        ])
        .prop_map(str::to_owned),
        " {0,200}",
    ];
    let noise = prop_oneof![select(&b"\0\r\n{}[]\":, "[..]), any::<u8>()];
    (vec(line, 0..6), vec(noise, 0..40), any::<bool>()).prop_map(|(lines, noise, is_first)| {
        let lines = lines.concat().into_bytes();
        if is_first { [noise, lines].concat() } else { [lines, noise].concat() }
    })
}

/// Without texts, all else is the same.
pub(crate) fn assert_alike(meters: &MeterSet, head: &Head, body: &[u8], report: &LlmReport, usage: &Usage) {
    let blind = meters.clone().text(TextPolicy::Skip);
    let (skipped, skipped_usage) = metered(&blind, head, &[body]);
    assert_eq!(&skipped_usage, usage);
    assert_eq!(skipped.finish_reasons, report.finish_reasons);
    assert_eq!(skipped.response_model, report.response_model);
    assert_eq!(skipped.error, report.error);
    assert_eq!(skipped.terminated, report.terminated);
    assert_eq!((skipped.events, &skipped.protocol), (report.events, &report.protocol));
    assert_eq!(skipped.incomplete, report.incomplete);
}

proptest! {
    /// What tells without parsing which events matter misses none.
    #[test]
    fn skipped_texts_change_nothing_else(
        opening in opening(),
        events in vec(loose(), 0..6),
        is_done in any::<bool>(),
        path in select(&PATHS[..]),
        framing in 0..3_usize,
        cuts in cuts(),
    ) {
        let mut events: Vec<String> = [opening].iter().chain(&events).map(Value::to_string).collect();
        events.extend((is_done && framing == 0).then(|| "[DONE]".to_owned()));
        let body = framed(&events, framing);
        let head = Head::new(path, TYPES[framing], "identity");
        let meters = MeterSet::detect();
        let (report, usage) = same_however_cut(&body, &cuts, |pieces| metered(&meters, &head, pieces));
        assert_alike(&meters, &head, &body, &report, &usage);
    }

    #[test]
    fn cuts_do_not_change_the_report(
        body in bodies(),
        path in select(&PATHS[..]),
        content_type in select(&TYPES[..]),
        coding in select(vec!["identity", "gzip", "deflate", "zstd"]),
        max in select(vec![1024 * 1024, 200, 20]),
        cuts in cuts(),
    ) {
        let head = Head::new(path, content_type, coding);
        let meters = MeterSet::detect().max_line(max);
        let (report, usage) = same_however_cut(&body, &cuts, |pieces| metered(&meters, &head, pieces));
        assert_alike(&meters, &head, &body, &report, &usage);
    }

    /// The counts that came before it stand.
    #[test]
    fn overlong_line_ends_the_reading_after_earlier_counts(
        tokens in 0..1000_u64,
        events in 1..4_usize,
        over in 1..300_usize,
        framing in 0..3_usize,
        cuts in cuts(),
    ) {
        let usage = json!({"object": "chat.completion.chunk", "model": "m", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": tokens}});
        let text = json!({"choices": [{"delta": {"content": "x".repeat(200 + over)}}]});
        let late = json!({"choices": [], "usage": {"completion_tokens": tokens + 1}});
        let events = vec![usage; events].into_iter().chain([text, late]).map(|event| event.to_string());
        let events: Vec<String> = events.collect();
        let count = events.len() as u64 - 2;
        let body = framed(&events, framing);
        let head = Head::new("/v1/chat/completions", TYPES[framing], "identity");
        let meters = MeterSet::detect().max_line(200);
        let (report, usage) = same_however_cut(&body, &cuts, |pieces| metered(&meters, &head, pieces));
        let is_told = matches!(report.incomplete, Some(Incomplete::TooLong { limit: 200, .. }));
        prop_assert!(is_told, "{:?}", report.incomplete);
        prop_assert_eq!((usage.input_tokens, usage.output_tokens), (Some(7), Some(tokens)));
        prop_assert_eq!((report.events, report.text.as_deref()), (count, Some("")));
        assert_alike(&meters, &head, &body, &report, &usage);
    }
}
