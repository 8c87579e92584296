//! OpenAI Responses: `POST /v1/responses`.

use serde_json::{Value, json};

use super::input::{Input, Length};
use super::{Events, Reply, new_id, now, sse, text};
use crate::errors::Problem;

/// What the response object says again and again.
struct Facts {
    id: String,
    created_at: u64,
    model: String,
    instructions: Option<Value>,
    metadata: Option<Value>,
    length: Length,
}

pub(super) fn reply(input: &Input) -> Result<Reply, Problem> {
    let facts = Facts {
        id: new_id("resp_"),
        created_at: now(),
        model: input.required("model")?,
        instructions: input.optional("instructions")?,
        metadata: input.optional("metadata")?,
        length: input.length(&["max_output_tokens"])?,
    };
    let _: Value = input.required("input")?;
    let words = facts.length.words;
    let status = facts.length.reason("completed", "incomplete");
    let prompt = input.tokens(&["instructions", "input"]);
    let usage = json!({
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": words,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + words,
    });
    let item_id = new_id("msg_");
    let part = |text: &str| json!({"type": "output_text", "annotations": [], "logprobs": [], "text": text});
    let item = |status: &str, content: Value| -> Value {
        json!({"id": item_id, "type": "message", "status": status, "content": content, "role": "assistant"})
    };
    let full = text::text(words);
    let finished = facts.response(status, json!([item(status, json!([part(&full)]))]), usage);

    if !input.stream()? {
        return Ok(Reply::Whole { words, body: finished });
    }

    let started = facts.response("in_progress", json!([]), Value::Null);
    let opening = numbered(
        0,
        [
            json!({"type": "response.created", "response": started}),
            json!({"type": "response.in_progress", "response": started}),
            json!({
                "type": "response.output_item.added",
                "output_index": 0,
                "item": item("in_progress", json!([])),
            }),
            json!({
                "type": "response.content_part.added",
                "item_id": item_id,
                "output_index": 0,
                "content_index": 0,
                "part": part(""),
            }),
        ],
    );
    let closing = numbered(
        4 + words,
        [
            json!({
                "type": "response.output_text.done",
                "item_id": item_id,
                "output_index": 0,
                "content_index": 0,
                "text": full,
                "logprobs": [],
            }),
            json!({
                "type": "response.content_part.done",
                "item_id": item_id,
                "output_index": 0,
                "content_index": 0,
                "part": part(&full),
            }),
            json!({
                "type": "response.output_item.done",
                "output_index": 0,
                "item": item(status, json!([part(&full)])),
            }),
            json!({"type": format!("response.{status}"), "response": finished}),
        ],
    );
    let word = move |number| {
        let delta = json!({
            "type": "response.output_text.delta",
            "item_id": item_id,
            "output_index": 0,
            "content_index": 0,
            "delta": text::word(number),
            "logprobs": [],
        });
        numbered(4 + number, [delta])
    };
    Ok(Reply::Events(Events { opening, words, word: Box::new(word), closing }))
}

/// The events, counted from `first`.
fn numbered(first: u64, events: impl IntoIterator<Item = Value>) -> String {
    let number = |(number, mut event): (u64, Value)| {
        event["sequence_number"] = number.into();
        sse::event(&event)
    };
    (first..).zip(events).map(number).collect()
}

// === impl Facts ===

impl Facts {
    /// The response object, as it stands at one moment.
    fn response(&self, status: &str, output: Value, usage: Value) -> Value {
        let incomplete = (status == "incomplete").then(|| json!({"reason": "max_output_tokens"}));
        json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": incomplete,
            "instructions": self.instructions,
            "max_output_tokens": self.length.limit,
            "max_tool_calls": null,
            "model": self.model,
            "output": output,
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "reasoning": {"effort": null, "summary": null},
            "service_tier": "default",
            "store": false,
            "temperature": 1.0,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_logprobs": 0,
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": usage,
            "user": null,
            "metadata": self.metadata.clone().unwrap_or_else(|| json!({})),
        })
    }
}
