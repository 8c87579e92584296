//! Meters read providers' streams as a full parser of every event reads them, however they are written and
//! cut, and whether texts are looked at or not.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use streaming_accumulator::Usage;
use streaming_accumulator::meter::{LlmReport, MeterSet};

use super::framing::cuts;
use super::loose::assert_alike;
use super::written::{HALF, frames, styles};
use crate::properties_reference::{Head, metered, same_however_cut};

/// Texts that speak of what a meter looks for.
fn texts() -> impl Strategy<Value = String> {
    let needles = vec![
        "\"usage\":{\"prompt_tokens\":99}",
        "finish_reason\":\"stop\"",
        "\"content\":\"",
        "\"stop_reason\":\"x\"",
        "message_stop\"",
        "{\"type\":\"message_stop\"}",
        "\n\ndata: [DONE]\n\n",
        "\"error\":{\"message\":\"no\"}",
        "\"done\":true",
        "\\",
        "\"",
        "\\u0022usage\\u0022:",
        "é😀\u{2028}\u{fffd}",
        "]},",
    ];
    let piece = prop_oneof![
        select(needles).prop_map(str::to_owned),
        "[a-z ]{0,6}",
        // No low half follows: that would be a pair.
        Just(format!("{HALF}.")),
    ];
    vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

fn counts() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![3 => (0..5000_u64).prop_map(Some), 1 => Just(None)]
}

/// What a full parser of every event reads.
#[derive(Debug, Default, PartialEq)]
struct Account {
    model: Option<String>,
    texts: BTreeMap<u32, String>,
    reasons: BTreeMap<u32, String>,
    input: Option<u64>,
    output: Option<u64>,
    cached: Option<u64>,
    terminated: Option<bool>,
}

impl Account {
    fn of(report: &LlmReport, usage: &Usage) -> Self {
        let texts = report.choices.iter().map(|choice| (choice.index, choice.text.as_deref()));
        let texts =
            texts.filter_map(|(index, text)| Some((index, text.filter(|text| !text.is_empty())?.into())));
        let reasons = report
            .choices
            .iter()
            .filter_map(|choice| Some((choice.index, choice.finish_reason.as_deref()?.into())));
        Self {
            model: report.response_model.as_deref().map(Into::into),
            texts: texts.collect(),
            reasons: reasons.collect(),
            input: usage.input_tokens,
            output: usage.output_tokens,
            cached: usage.cached_input_tokens,
            terminated: report.terminated,
        }
    }

    fn text(&mut self, index: u64, text: &Value) {
        let text = text.as_str().unwrap_or_default();
        if !text.is_empty() {
            *self.texts.entry(index as u32).or_default() += &text.replace(HALF, "\u{fffd}");
        }
    }

    fn reason(&mut self, index: u64, reason: &Value) {
        if let Some(reason) = reason.as_str() {
            self.reasons.insert(index as u32, reason.to_owned());
        }
    }
}

/// Replaces a count by a later report of it.
fn report(count: &mut Option<u64>, reported: &Value) {
    *count = reported.as_u64().or(*count);
}

// === OpenAI's chat ===

fn chat_chunk() -> impl Strategy<Value = Value> {
    let delta = prop_oneof![
        4 => texts().prop_map(|text| json!({"content": text})),
        1 => texts().prop_map(|text| json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]})),
        1 => texts().prop_map(|text| json!({"content": null, "reasoning_content": text})),
        1 => Just(json!({"role": "assistant", "content": ""})),
    ];
    let reason =
        prop_oneof![3 => Just(Value::Null), 1 => select(vec!["stop", "length"]).prop_map(Value::from)];
    let choice = (0..3_u64, delta, reason).prop_map(
        |(index, delta, reason)| json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": reason}),
    );
    let usage = prop_oneof![
        3 => Just(Value::Null),
        1 => (counts(), counts(), counts()).prop_map(|(input, output, cached)| json!({
            "prompt_tokens": input, "completion_tokens": output, "prompt_tokens_details": {"cached_tokens": cached},
        })),
    ];
    (vec(choice, 0..3), usage).prop_map(|(choices, usage)| {
        json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-x", "choices": choices, "usage": usage})
    })
}

fn chat_account(chunks: &[Value], is_done: bool) -> Account {
    let mut account = Account { terminated: Some(is_done), ..Account::default() };
    for chunk in chunks {
        account.model = Some("gpt-x".to_owned());
        for choice in chunk["choices"].as_array().expect("choices") {
            let index = choice["index"].as_u64().expect("an index");
            account.text(index, &choice["delta"]["content"]);
            account.reason(index, &choice["finish_reason"]);
        }
        report(&mut account.input, &chunk["usage"]["prompt_tokens"]);
        report(&mut account.output, &chunk["usage"]["completion_tokens"]);
        report(&mut account.cached, &chunk["usage"]["prompt_tokens_details"]["cached_tokens"]);
    }
    account
}

// === Anthropic's messages ===

fn anthropic_event() -> impl Strategy<Value = Value> {
    let delta = |delta: Value| json!({"type": "content_block_delta", "index": 0, "delta": delta});
    prop_oneof![
        5 => texts().prop_map(move |text| delta(json!({"type": "text_delta", "text": text}))),
        1 => texts().prop_map(move |text| delta(json!({"type": "thinking_delta", "thinking": text}))),
        1 => texts().prop_map(move |text| delta(json!({"type": "input_json_delta", "partial_json": text}))),
        1 => Just(json!({"type": "ping"})),
        1 => Just(json!({"type": "content_block_stop", "index": 0})),
        1 => (select(vec!["end_turn", "max_tokens"]), counts(), counts()).prop_map(|(reason, input, output)| json!({
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": null},
            "usage": {"input_tokens": input, "output_tokens": output},
        })),
    ]
}

fn anthropic_start() -> impl Strategy<Value = Value> {
    (counts(), counts()).prop_map(|(input, cached)| {
        json!({"type": "message_start", "message": {
            "model": "claude-x", "content": [], "stop_reason": null,
            "usage": {"input_tokens": input, "cache_read_input_tokens": cached, "output_tokens": 1},
        }})
    })
}

fn anthropic_account(events: &[Value]) -> Account {
    let mut account = Account { terminated: Some(false), ..Account::default() };
    let mut input = None;
    for event in events {
        match event["type"].as_str().expect("a type") {
            "message_start" => {
                account.model = Some("claude-x".to_owned());
                let usage = &event["message"]["usage"];
                report(&mut input, &usage["input_tokens"]);
                report(&mut account.cached, &usage["cache_read_input_tokens"]);
                report(&mut account.output, &usage["output_tokens"]);
            }
            "content_block_delta" => account.text(0, &event["delta"]["text"]),
            "message_delta" => {
                account.reason(0, &event["delta"]["stop_reason"]);
                report(&mut input, &event["usage"]["input_tokens"]);
                report(&mut account.output, &event["usage"]["output_tokens"]);
            }
            "message_stop" => account.terminated = Some(true),
            _ => {}
        }
    }
    account.input = input.map(|input| input + account.cached.unwrap_or(0));
    account
}

// === Gemini ===

fn gemini_chunk() -> impl Strategy<Value = Value> {
    let part = prop_oneof![
        4 => texts().prop_map(|text| json!({"text": text})),
        1 => texts().prop_map(|text| json!({"text": text, "thought": true})),
        1 => texts().prop_map(|text| json!({"functionCall": {"name": "f", "args": {"text": text}}})),
    ];
    let reason = prop_oneof![3 => Just(Value::Null), 1 => Just(Value::from("STOP"))];
    (vec(part, 0..3), reason, counts(), counts(), any::<bool>()).prop_map(
        |(parts, reason, input, output, has_usage)| {
            let mut chunk = json!({
                "candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": reason}],
                "modelVersion": "gemini-x",
            });
            if has_usage {
                chunk["usageMetadata"] = json!({"promptTokenCount": input, "candidatesTokenCount": output});
            }
            chunk
        },
    )
}

fn gemini_account(chunks: &[Value], terminated: Option<bool>) -> Account {
    let mut account = Account { terminated, ..Account::default() };
    for chunk in chunks {
        account.model = Some("gemini-x".to_owned());
        let candidate = &chunk["candidates"][0];
        for part in candidate["content"]["parts"].as_array().expect("parts") {
            if part["thought"] != true {
                account.text(0, &part["text"]);
            }
        }
        account.reason(0, &candidate["finishReason"]);
        // Each report stands for itself: zeros are left out.
        if let Some(usage) = chunk.get("usageMetadata") {
            account.input = usage["promptTokenCount"].as_u64();
            account.output = usage["candidatesTokenCount"].as_u64();
        }
    }
    account
}

/// What is found in `body`, which must be the same with texts and without.
fn found(path: &str, content_type: &str, body: &[u8], cuts: &[usize]) -> Account {
    let head = Head::new(path, content_type, "identity");
    let meters = MeterSet::detect();
    let (report, usage) = same_however_cut(body, cuts, |pieces| metered(&meters, &head, pieces));
    assert_alike(&meters, &head, body, &report, &usage);
    assert_eq!((&report.error, &report.incomplete), (&None, &None));
    Account::of(&report, &usage)
}

proptest! {
    #[test]
    fn openai_chat_meter_agrees_with_full_parsing(
        chunks in vec(chat_chunk(), 1..8),
        is_done in any::<bool>(),
        style in styles(),
        frame in frames(),
        cuts in cuts(),
    ) {
        let last = if is_done { "data: [DONE]\n\n" } else { "" };
        let body = frame.events(&chunks, &style, last);
        let found = found("/v1/chat/completions", "text/event-stream", &body, &cuts);
        prop_assert_eq!(found, chat_account(&chunks, is_done));
    }

    #[test]
    fn anthropic_meter_agrees_with_full_parsing(
        start in anthropic_start(),
        events in vec(anthropic_event(), 0..8),
        is_stopped in any::<bool>(),
        style in styles(),
        frame in frames(),
        cuts in cuts(),
    ) {
        let stop = is_stopped.then(|| json!({"type": "message_stop"}));
        let events: Vec<Value> = [start].into_iter().chain(events).chain(stop).collect();
        let body = frame.events(&events, &style, "");
        let found = found("/v1/messages", "text/event-stream", &body, &cuts);
        prop_assert_eq!(found, anthropic_account(&events));
    }

    #[test]
    fn gemini_meter_agrees_with_full_parsing(
        chunks in vec(gemini_chunk(), 1..8),
        is_array in any::<bool>(),
        style in styles(),
        frame in frames(),
        cuts in cuts(),
    ) {
        let (path, content_type) = ("/v1beta/models/gemini-x:streamGenerateContent", "application/json");
        if is_array {
            let chunks_written: Vec<String> = chunks.iter().map(|chunk| style.write(chunk)).collect();
            let body = format!("[{}]", chunks_written.join(",\r\n"));
            let found = found(path, content_type, body.as_bytes(), &cuts);
            prop_assert_eq!(found, gemini_account(&chunks, Some(true)));
        } else {
            let body = frame.events(&chunks, &style, "");
            let found = found(&format!("{path}?alt=sse"), "text/event-stream", &body, &cuts);
            prop_assert_eq!(found, gemini_account(&chunks, None));
        }
    }
}
