//! Server-sent events as the providers write them.

use serde_json::Value;

/// OpenAI's end of a stream of chunks.
pub(super) const DONE: &str = "data: [DONE]\n\n";

/// An event without a name.
pub(super) fn data(data: &Value) -> String {
    format!("data: {data}\n\n")
}

/// An event whose name is the `type` of its data.
pub(super) fn event(data: &Value) -> String {
    let name = data.get("type").and_then(Value::as_str).unwrap_or("message");
    format!("event: {name}\ndata: {data}\n\n")
}
