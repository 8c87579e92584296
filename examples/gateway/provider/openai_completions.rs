//! OpenAI Completions, the older protocol: `POST /v1/completions`.

use serde_json::{Value, json};

use super::input::Input;
use super::{Events, Reply, new_id, now, sse, text};
use crate::errors::Problem;

pub(super) fn reply(input: &Input) -> Result<Reply, Problem> {
    let model: String = input.required("model")?;
    let _: Value = input.required("prompt")?;
    input.one_choice()?;
    let length = input.length(&["max_tokens"])?;
    let finish_reason = length.reason("stop", "length");
    let (id, created, words) = (new_id("cmpl-"), now(), length.words);
    let prompt = input.tokens(&["prompt"]);
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": words, "total_tokens": prompt + words});
    let choice = |text: String, finish_reason: Option<&str>| -> Value {
        json!([{"text": text, "index": 0, "logprobs": null, "finish_reason": finish_reason}])
    };

    if !input.stream()? {
        let body = json!({
            "id": id,
            "object": "text_completion",
            "created": created,
            "model": model,
            "choices": choice(text::text(words), Some(finish_reason)),
            "usage": usage,
        });
        return Ok(Reply::Whole { words, body });
    }

    let include_usage = input.include_usage()?;
    let chunk = move |choices: Value, usage: Option<Value>| {
        let mut chunk = json!({
            "id": id,
            "object": "text_completion",
            "created": created,
            "choices": choices,
            "model": model,
        });
        if include_usage {
            chunk["usage"] = usage.unwrap_or(Value::Null);
        }
        sse::data(&chunk)
    };
    let mut closing = chunk(choice(String::new(), Some(finish_reason)), None);
    if include_usage {
        closing.push_str(&chunk(json!([]), Some(usage)));
    }
    closing.push_str(sse::DONE);
    let word = move |number| chunk(choice(text::word(number), None), None);
    // This protocol has no first chunk without text.
    Ok(Reply::Events(Events { opening: String::new(), words, word: Box::new(word), closing }))
}
