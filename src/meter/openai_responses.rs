//! OpenAI Responses.
//!
//! Text comes in `response.output_text.delta`, and again, whole, in up to four events after it: only the deltas
//! are read. Usage comes with the final event alone; a stream that is cut has none.

use std::str;

use once_cell::sync::Lazy;
use serde::de::MapAccess;

use super::Reading;
use super::dialect::{Dialect, in_band_error, is_error, latest};
use super::fields::{Fields, Json, Text, Value, read};
use super::keys::Keys;
use super::reading::Awaits;
use crate::meter::report::InBandError;
use crate::meter::usage::Usage;

/// Reads response events, and whole responses.
#[derive(Debug, Default)]
pub(super) struct OpenAiResponses {
    is_terminated: bool,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    cached: Option<u64>,
    cache_write: Option<u64>,
    reasoning: Option<u64>,
}

#[derive(Default)]
struct Event<'de> {
    kind: Text<'de>,
    object: Text<'de>,
    delta: Text<'de>,
    response: Response<'de>,
    item: Item<'de>,
    /// The top of a whole response, or of an error.
    top: Response<'de>,
    code: Text<'de>,
    message: Text<'de>,
}

#[derive(Default)]
struct Response<'de> {
    model: Text<'de>,
    status: Text<'de>,
    usage: Option<&'de str>,
    error: Option<&'de str>,
    reason: Reason<'de>,
    /// Of a whole response; events repeat here what their deltas said.
    output: Vec<Item<'de>>,
}

#[derive(Default)]
struct Reason<'de> {
    reason: Text<'de>,
}

/// An item of the output, or a part of its content.
#[derive(Default)]
struct Item<'de> {
    kind: Text<'de>,
    text: Text<'de>,
    parts: Vec<Item<'de>>,
}

/// The start of nearly every event: its type can be told without parsing the rest.
const HEAD: &[u8] = b"{\"type\":\"";

/// Where the type does not stand first: only the events that carry the whole response have these.
static KEYS: Lazy<Keys> = Lazy::new(|| {
    Keys::new(&["usage"]).or_ends(&["response", "error", "completed", "incomplete", "failed", "cancelled"])
});

/// The events that are read, by their type.
fn is_read(kind: &str, awaits: Awaits) -> bool {
    match kind {
        "error" => true,
        // They echo the request, which may be long, and have nothing new to say once the model is known.
        "response.created" | "response.in_progress" | "response.queued" => awaits.model,
        "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled" => true,
        "response.output_text.delta" | "response.refusal.delta" => awaits.text,
        "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => awaits.reasoning,
        "response.output_item.added" => awaits.tool_call,
        kind => awaits.tool_call && kind.ends_with("_call_arguments.delta"),
    }
}

// === impl OpenAiResponses ===

impl OpenAiResponses {
    /// Whether `data` may hold anything that is wanted. `name` is the event's, by its framing.
    fn matters(name: &[u8], data: &[u8], reading: &Reading) -> bool {
        let awaits = reading.awaits();
        let kind = match data.strip_prefix(HEAD) {
            Some(rest) => rest.split(|byte| *byte == b'"').next().unwrap_or_default(),
            // Where the type stands elsewhere, the name repeats it.
            None if name.starts_with(b"response.") => name,
            None => &[],
        };
        match str::from_utf8(kind) {
            Ok(kind) if !kind.is_empty() && !kind.contains('\\') => is_read(kind, awaits),
            _ => awaits.text || awaits.reasoning || awaits.tool_call || KEYS.matter(data, reading),
        }
    }

    /// A response that did not come in events. In the background it may be at work still.
    fn whole(&mut self, response: &Response<'_>, reading: &mut Reading) {
        response.output.iter().for_each(|item| item.read(reading));
        match response.status.as_deref() {
            Some("queued" | "in_progress") => self.response(response, reading),
            _ => self.end("", response, reading),
        }
    }

    fn response(&mut self, response: &Response<'_>, reading: &mut Reading) {
        if let Some(model) = &response.model {
            reading.latest_model(model);
        }
        if let Some(raw) = response.usage
            && read(raw, &mut self.counts)
        {
            reading.usage(self.counts.normal_form(), raw);
        }
        if let Some(error) = response.error {
            reading.error(in_band_error(error));
        }
    }

    /// The response is over: its status says how, or else `kind`, the event's.
    fn end(&mut self, kind: &str, response: &Response<'_>, reading: &mut Reading) {
        self.is_terminated = true;
        self.response(response, reading);
        reading.usage_is_final();
        let status = response.status.as_deref().unwrap_or(kind);
        match (status, &response.reason.reason) {
            ("incomplete", Some(reason)) => reading.finish_reason(0, reason),
            (status, _) => reading.finish_reason(0, status),
        }
        if status == "failed" {
            // Only if the provider did not say more.
            reading.error(InBandError { message: "response.failed".into(), ..InBandError::default() });
        }
    }
}

impl Dialect for OpenAiResponses {
    fn event(&mut self, name: &[u8], data: &[u8], reading: &mut Reading) {
        if !Self::matters(name, data, reading) {
            return;
        }
        let json = Json::of(data);
        let mut event = Event::default();
        if !json.read(&mut event) {
            return;
        }
        let delta = event.delta.as_deref().unwrap_or_default();
        match event.kind.as_deref() {
            Some("response.output_text.delta") => reading.text(0, delta),
            Some("response.refusal.delta") => reading.hidden(delta),
            Some("response.reasoning_text.delta" | "response.reasoning_summary_text.delta") => {
                reading.reasoning(delta);
            }
            Some("response.output_item.added") if event.item.is_call() => reading.tool_call(""),
            Some(kind) if kind.ends_with("_call_arguments.delta") => reading.tool_call(delta),
            Some("response.created" | "response.in_progress" | "response.queued") => {
                self.response(&event.response, reading);
            }
            Some(
                kind @ ("response.completed"
                | "response.incomplete"
                | "response.failed"
                | "response.cancelled"),
            ) => self.end(&kind["response.".len()..], &event.response, reading),
            Some("error") => reading.error(event.error(&json)),
            None if event.object.as_deref() == Some("response") => self.whole(&event.top, reading),
            // A plain error in place of the events, or a gateway's.
            None => self.response(&event.top, reading),
            _ => {}
        }
    }

    fn is_terminated(&self) -> Option<bool> {
        Some(self.is_terminated)
    }
}

// === impl Counts ===

impl Counts {
    fn normal_form(&self) -> Usage {
        Usage {
            input_tokens: self.input,
            output_tokens: self.output,
            cached_input_tokens: self.cached,
            cache_write_input_tokens: self.cache_write,
            reasoning_tokens: self.reasoning,
            total_tokens: self.total,
            ..Usage::default()
        }
    }
}

impl<'de> Fields<'de> for Counts {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "input_tokens" => latest(&mut self.input, value.count()?),
            "output_tokens" => latest(&mut self.output, value.count()?),
            "total_tokens" => latest(&mut self.total, value.count()?),
            "cached_tokens" => latest(&mut self.cached, value.count()?),
            "cache_write_tokens" => latest(&mut self.cache_write, value.count()?),
            "reasoning_tokens" => latest(&mut self.reasoning, value.count()?),
            "input_tokens_details" | "output_tokens_details" => {
                value.object(self)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

// === impl Event ===

impl<'de> Event<'de> {
    /// The error of an `error` event: nested in newer servers, the event itself in others.
    fn error(self, json: &Json<'_>) -> InBandError {
        match self.top.error {
            Some(error) => in_band_error(error),
            None => InBandError {
                code: self.code.map(Into::into),
                message: self.message.unwrap_or_default().into(),
                raw: Some(json.as_str().into()),
            },
        }
    }
}

impl<'de> Fields<'de> for Event<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "type" => self.kind = value.text()?,
            "object" => self.object = value.text()?,
            "delta" => self.delta = value.text()?,
            "response" => {
                value.object(&mut self.response)?;
            }
            "item" => {
                value.object(&mut self.item)?;
            }
            "code" => self.code = value.word()?,
            "message" => self.message = value.text()?,
            _ => self.top.field(key, value)?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for Response<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "model" => self.model = value.text()?,
            "status" => self.status = value.text()?,
            "usage" => self.usage = value.raw()?,
            "error" => self.error = value.raw()?.filter(is_error),
            "output" => {
                value.objects(&mut self.output)?;
            }
            "incomplete_details" => {
                value.object(&mut self.reason)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for Reason<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "reason" => self.reason = value.text()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl Item<'_> {
    fn is_call(&self) -> bool {
        self.kind.as_deref().is_some_and(|kind| kind.ends_with("_call"))
    }

    fn read(&self, reading: &mut Reading) {
        let text = self.text.as_deref().unwrap_or_default();
        match self.kind.as_deref() {
            Some("message") => self.parts.iter().for_each(|part| part.read(reading)),
            Some("output_text") => reading.text(0, text),
            Some("refusal") => reading.hidden(text),
            Some("reasoning") => self.parts.iter().for_each(|part| part.read(reading)),
            Some("reasoning_text" | "summary_text") => reading.reasoning(text),
            Some(_) if self.is_call() => reading.tool_call(text),
            _ => {}
        }
    }
}

impl<'de> Fields<'de> for Item<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "type" => self.kind = value.text()?,
            "text" | "refusal" | "arguments" => self.text = value.text()?,
            "content" | "summary" => {
                value.objects(&mut self.parts)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}
