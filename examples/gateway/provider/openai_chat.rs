//! OpenAI Chat Completions: `POST /v1/chat/completions`.

use serde_json::{Value, json};

use super::input::Input;
use super::{Events, Reply, new_id, now, sse, text};
use crate::errors::Problem;

pub(super) fn reply(input: &Input) -> Result<Reply, Problem> {
    let model: String = input.required("model")?;
    let _: Vec<Value> = input.required("messages")?;
    input.one_choice()?;
    let length = input.length(&["max_completion_tokens", "max_tokens"])?;
    let finish_reason = length.reason("stop", "length");
    let (id, created, words) = (new_id("chatcmpl-"), now(), length.words);
    let usage = usage(input.tokens(&["messages"]), words);

    if !input.stream()? {
        let body = json!({
            "id": id,
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": [{
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": text::text(words),
                    "refusal": null,
                    "annotations": [],
                },
                "logprobs": null,
                "finish_reason": finish_reason,
            }],
            "usage": usage,
            "service_tier": "default",
            "system_fingerprint": null,
        });
        return Ok(Reply::Whole { words, body });
    }

    let include_usage = input.include_usage()?;
    // The counts come in a chunk of their own; all others then have a null in their place.
    let chunk = move |choices: Value, usage: Option<Value>| {
        let mut chunk = json!({
            "id": id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
            "service_tier": "default",
            "system_fingerprint": null,
            "choices": choices,
        });
        if include_usage {
            chunk["usage"] = usage.unwrap_or(Value::Null);
        }
        sse::data(&chunk)
    };
    let choice = |delta: Value, finish_reason: Option<&str>| -> Value {
        json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}])
    };
    let opening = chunk(choice(json!({"role": "assistant", "content": "", "refusal": null}), None), None);
    let mut closing = chunk(choice(json!({}), Some(finish_reason)), None);
    if include_usage {
        closing.push_str(&chunk(json!([]), Some(usage)));
    }
    closing.push_str(sse::DONE);
    let word = move |number| chunk(choice(json!({"content": text::word(number)}), None), None);
    Ok(Reply::Events(Events { opening, words, word: Box::new(word), closing }))
}

fn usage(prompt: u64, completion: u64) -> Value {
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}
