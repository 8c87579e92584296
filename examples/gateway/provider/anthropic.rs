//! Anthropic Messages: `POST /v1/messages`.

use serde_json::{Value, json};

use super::input::Input;
use super::{Events, Reply, new_id, sse, text};
use crate::errors::Problem;

pub(super) fn reply(input: &Input) -> Result<Reply, Problem> {
    let model: String = input.required("model")?;
    let _: Vec<Value> = input.required("messages")?;
    let length = input.length(&["max_tokens"])?;
    let stop_reason = length.reason("end_turn", "max_tokens");
    let words = length.words;
    let prompt = input.tokens(&["system", "messages"]);
    let id = new_id("msg_");
    let message = |content: Value, stop_reason: Option<&str>, output_tokens: u64| {
        json!({
            "id": id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": null,
            "usage": usage(prompt, output_tokens),
        })
    };

    if !input.stream()? {
        let content = json!([{"type": "text", "text": text::text(words)}]);
        return Ok(Reply::Whole { words, body: message(content, Some(stop_reason), words) });
    }

    // The first count is preliminary, and part of the last one.
    let opening = [
        json!({"type": "message_start", "message": message(json!([]), None, 1)}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "ping"}),
    ];
    let closing = [
        json!({"type": "content_block_stop", "index": 0}),
        json!({
            "type": "message_delta",
            "delta": {"stop_reason": stop_reason, "stop_sequence": null},
            "usage": usage(prompt, words),
        }),
        json!({"type": "message_stop"}),
    ];
    let word = |number| {
        let delta = json!({"type": "text_delta", "text": text::word(number)});
        sse::event(&json!({"type": "content_block_delta", "index": 0, "delta": delta}))
    };
    Ok(Reply::Events(Events {
        opening: opening.iter().map(sse::event).collect(),
        words,
        word: Box::new(word),
        closing: closing.iter().map(sse::event).collect(),
    }))
}

fn usage(input: u64, output: u64) -> Value {
    json!({
        "input_tokens": input,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output,
    })
}
