//! Anthropic Messages.
//!
//! `message_start` reports the exact input and a preliminary output (often 1). `message_delta` reports both again,
//! cumulatively, and replaces them field by field: a field that it leaves out keeps its value. Input counts exclude
//! what was read from and written to the cache; the normal form adds them.

use once_cell::sync::Lazy;
use serde::de::MapAccess;

use super::counts::{latest, sum};
use super::error::{in_band_error, is_error};
use super::key_filter::KeyFilter;
use super::provider_trait::Provider;
use crate::meter::lenient::{FieldValue, Fields, Json, Text, get, read};
use crate::meter::report_builder::ReportBuilder;
use crate::meter::usage::Usage;

/// Reads message events, and whole messages.
#[derive(Debug, Default)]
pub(super) struct Anthropic {
    is_terminated: bool,
    counts: AnthropicCounts,
    /// All usage objects, merged: later members replace earlier ones.
    raw: String,
}

#[derive(Debug, Default)]
struct AnthropicCounts {
    input: Option<u64>,
    output: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    thinking: Option<u64>,
}

/// The members of a usage object, with their JSON.
#[derive(Default)]
struct UsageMembers<'de>(Vec<(String, &'de str)>);

/// An event; a whole message has the same fields at its top.
#[derive(Default)]
struct AnthropicEvent<'de> {
    kind: Text<'de>,
    message: AnthropicMessage<'de>,
    /// The top level: that of a `message_delta`, or of a whole message.
    top: AnthropicMessage<'de>,
    delta: AnthropicBlock<'de>,
    block: AnthropicBlock<'de>,
    error: Option<&'de str>,
}

#[derive(Default)]
struct AnthropicMessage<'de> {
    model: Text<'de>,
    stop_reason: Text<'de>,
    usage: Option<&'de str>,
    content: Vec<AnthropicBlock<'de>>,
}

/// A content block, or a change of one.
#[derive(Default)]
struct AnthropicBlock<'de> {
    kind: Text<'de>,
    text: Text<'de>,
    thinking: Text<'de>,
    partial_json: Text<'de>,
    stop_reason: Text<'de>,
}

static FILTER: Lazy<KeyFilter> = Lazy::new(|| {
    KeyFilter::new(&["usage", "stop_reason"])
        .string_ends(&["error"])
        .text(&["text"])
        .reasoning(&["thinking"])
        .tool_call(&["content_block", "partial_json"])
        .string_ends(&["message_delta", "message_stop", "message"])
});

// === impl Anthropic ===

impl Anthropic {
    fn message(&mut self, message: &AnthropicMessage<'_>, report: &mut ReportBuilder) {
        if let Some(model) = &message.model {
            report.model(model);
        }
        for block in &message.content {
            block.read(report);
        }
        if let Some(reason) = &message.stop_reason {
            report.finish_reason(0, reason);
        }
        if let Some(raw) = message.usage {
            self.usage(raw, report);
        }
    }

    fn usage(&mut self, raw: &str, report: &mut ReportBuilder) {
        if !read(raw, &mut self.counts) {
            return;
        }
        let merged = UsageMembers::merged(&self.raw, raw);
        self.raw = merged.unwrap_or_else(|| raw.to_owned());
        report.usage(self.counts.normal_form(), &self.raw);
    }
}

impl Provider for Anthropic {
    fn event(&mut self, _name: &[u8], data: &[u8], report: &mut ReportBuilder) {
        if !report.interest().model && !FILTER.may_match(data, report) {
            return;
        }
        let json = Json::of(data);
        let mut event = AnthropicEvent::default();
        if !json.read(&mut event) {
            return;
        }
        match event.kind.as_deref() {
            Some("message_start") => self.message(&event.message, report),
            Some("content_block_start") => event.block.read(report),
            Some("content_block_delta") => event.delta.read(report),
            Some("message_delta") => {
                if let Some(reason) = &event.delta.stop_reason {
                    report.finish_reason(0, reason);
                }
                self.message(&event.top, report);
                // Another one follows if this one lacks the reason or the counts.
                if report.is_finished() && event.top.usage.is_some() {
                    report.usage_is_final();
                }
            }
            Some("message_stop") => {
                report.usage_is_final();
                self.is_terminated = true;
            }
            Some("message") => {
                self.message(&event.top, report);
                report.usage_is_final();
                self.is_terminated = true;
            }
            Some("error") => report.error(in_band_error(event.error.unwrap_or(json.as_str()))),
            // An error of a gateway.
            None => {
                if let Some(error) = event.error {
                    report.error(in_band_error(error));
                }
            }
            _ => {}
        }
    }

    fn is_terminated(&self) -> Option<bool> {
        Some(self.is_terminated)
    }
}

// === impl UsageMembers ===

impl<'de> UsageMembers<'de> {
    /// The object of `earlier` with the members of `later` in place of its own, or appended; `None` if there is
    /// nothing earlier. A `null` replaces nothing.
    fn merged(earlier: &'de str, later: &'de str) -> Option<String> {
        let Self(mut members) = get(earlier)?;
        let Self(news) = get(later)?;
        for (key, value) in news.into_iter().filter(|(_, value)| *value != "null") {
            match members.iter_mut().find(|(other, _)| *other == key) {
                Some((_, old)) => *old = value,
                None => members.push((key, value)),
            }
        }
        let quoted = |key: &str| serde_json::to_string(key).unwrap_or_default();
        let members: Vec<String> =
            members.into_iter().map(|(key, value)| format!("{}:{value}", quoted(&key))).collect();
        Some(format!("{{{}}}", members.join(",")))
    }
}

impl<'de> Fields<'de> for UsageMembers<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        self.0.push((key.to_owned(), value.json()?));
        Ok(())
    }
}

// === impl AnthropicCounts ===

impl AnthropicCounts {
    fn normal_form(&self) -> Usage {
        Usage {
            input_tokens: self.input.and_then(|input| sum([Some(input), self.cache_read, self.cache_write])),
            output_tokens: self.output,
            cached_input_tokens: self.cache_read,
            cache_write_input_tokens: self.cache_write,
            reasoning_tokens: self.thinking,
            ..Usage::default()
        }
    }
}

impl<'de> Fields<'de> for AnthropicCounts {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "input_tokens" => latest(&mut self.input, value.count()?),
            "output_tokens" => latest(&mut self.output, value.count()?),
            "cache_read_input_tokens" => latest(&mut self.cache_read, value.count()?),
            "cache_creation_input_tokens" => latest(&mut self.cache_write, value.count()?),
            "thinking_tokens" | "reasoning_tokens" => latest(&mut self.thinking, value.count()?),
            "output_tokens_details" => {
                value.object(self)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

// === impl AnthropicEvent ===

impl<'de> Fields<'de> for AnthropicEvent<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "type" => self.kind = value.text()?,
            "message" => {
                value.object(&mut self.message)?;
            }
            "delta" => {
                value.object(&mut self.delta)?;
            }
            "content_block" => {
                value.object(&mut self.block)?;
            }
            "error" => self.error = value.raw()?.filter(is_error),
            _ => self.top.field(key, value)?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for AnthropicMessage<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "model" => self.model = value.text()?,
            "stop_reason" => self.stop_reason = value.text()?,
            "usage" => self.usage = value.raw()?,
            "content" => {
                value.objects(&mut self.content)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

// === impl AnthropicBlock ===

impl AnthropicBlock<'_> {
    /// `text_delta`, `thinking_delta`, `input_json_delta`, or the block that they change.
    fn read(&self, report: &mut ReportBuilder) {
        let text = self.text.as_deref().unwrap_or_default();
        match self.kind.as_deref() {
            Some("text" | "text_delta") => report.text(0, text),
            Some("thinking" | "thinking_delta") => {
                report.reasoning(self.thinking.as_deref().unwrap_or_default());
            }
            Some("input_json_delta") => report.tool_call(self.partial_json.as_deref().unwrap_or_default()),
            Some(kind) if kind.ends_with("tool_use") => report.tool_call(""),
            _ => {}
        }
    }
}

impl<'de> Fields<'de> for AnthropicBlock<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "type" => self.kind = value.text()?,
            "text" => self.text = value.text()?,
            "thinking" => self.thinking = value.text()?,
            "partial_json" => self.partial_json = value.text()?,
            "stop_reason" => self.stop_reason = value.text()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}
