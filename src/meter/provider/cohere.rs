//! Cohere's chat: version 2 as server-sent events, version 1 as lines of JSON, and whole responses of both.
//!
//! `tokens` is what the model read and wrote; `billed_units` is what is charged, often far less. Cached tokens are
//! part of the former. The counts here are the tokens, and the raw object has both. If a stream reports only billed
//! units, they are the counts.

use once_cell::sync::Lazy;
use serde::de::MapAccess;

use super::error::{in_band_error, is_error};
use super::key_filter::KeyFilter;
use super::provider_trait::Provider;
use super::tool_call::ToolCall;
use crate::meter::lenient::{FieldValue, Fields, Json, SmallList, Text, get};
use crate::meter::report::InBandError;
use crate::meter::report_builder::ReportBuilder;
use crate::meter::usage::Usage;

/// Reads version 2, whose events are named by `type`.
#[derive(Debug, Default)]
pub(super) struct CohereV2 {
    is_terminated: bool,
}

/// Reads version 1, whose events are named by `event_type`.
#[derive(Debug, Default)]
pub(super) struct CohereV1 {
    is_terminated: bool,
}

/// An event of either version; a whole response has the same fields.
#[derive(Default)]
struct CohereEvent<'de> {
    kind: Text<'de>,
    delta: CohereDelta<'de>,
    /// In a whole response of version 2.
    message: Option<CohereMessage<'de>>,
    finish_reason: Text<'de>,
    usage: Option<&'de str>,
    /// In version 1: a part of the text, or all of it at the end.
    text: Text<'de>,
    response: CohereResponse<'de>,
    meta: Option<&'de str>,
    /// An error of a gateway.
    error: Option<&'de str>,
}

/// What the last event of version 1 repeats.
#[derive(Default)]
struct CohereResponse<'de> {
    meta: Option<&'de str>,
}

#[derive(Default)]
struct CohereDelta<'de> {
    message: CohereMessage<'de>,
    finish_reason: Text<'de>,
    usage: Option<&'de str>,
    error: Option<&'de str>,
}

#[derive(Default)]
struct CohereMessage<'de> {
    /// One in an event, a list in a whole response.
    content: SmallList<CohereContent<'de>>,
    tool_plan: Text<'de>,
    /// One in an event, a list in a whole response.
    tools: SmallList<ToolCall<'de>>,
}

#[derive(Default)]
struct CohereContent<'de> {
    text: Text<'de>,
    thinking: Text<'de>,
}

/// The counts in `usage` of version 2, and in `meta` of version 1.
#[derive(Debug, Default)]
struct CohereCounts {
    tokens: CohereTokens,
    billed: CohereTokens,
    cached: Option<u64>,
}

#[derive(Debug, Default)]
struct CohereTokens {
    input: Option<u64>,
    output: Option<u64>,
    reasoning: Option<u64>,
}

static FILTER: Lazy<KeyFilter> = Lazy::new(|| {
    KeyFilter::new(&["usage", "finish_reason", "error", "meta"])
        .text(&["text", "content"])
        .reasoning(&["thinking"])
        .tool_call(&["tool_calls"])
        .string_ends(&["message-end", "stream-end", "tool-calls-chunk"])
});

/// Reads the end of a response: reason, counts, error.
fn end(reason: &str, usage: Option<&str>, error: Option<&str>, report: &mut ReportBuilder) {
    report.finish_reason(0, reason);
    if let Some(raw) = usage
        && let Some(counts) = get::<CohereCounts>(raw)
    {
        report.usage(counts.normal_form(), raw);
        report.usage_is_final();
    }
    match error {
        Some(error) => report.error(in_band_error(error)),
        None if reason.starts_with("ERROR") => {
            report.error(InBandError { message: reason.into(), ..InBandError::default() });
        }
        None => {}
    }
}

// === impl CohereV2 ===

impl Provider for CohereV2 {
    fn event(&mut self, _name: &[u8], data: &[u8], report: &mut ReportBuilder) {
        if !FILTER.may_match(data, report) {
            return;
        }
        let json = Json::of(data);
        let mut event = CohereEvent::default();
        if !json.read(&mut event) {
            return;
        }
        let delta = &event.delta;
        event.gateway_error(report);
        match event.kind.as_deref() {
            Some("message-end") => {
                self.is_terminated = true;
                end(delta.finish_reason.as_deref().unwrap_or_default(), delta.usage, delta.error, report);
            }
            Some(_) => delta.message.read(report),
            None => {
                if let Some(message) = &event.message {
                    message.read(report);
                }
                if event.message.is_some() && event.is_end() {
                    self.is_terminated = true;
                    end(event.finish_reason.as_deref().unwrap_or_default(), event.usage, None, report);
                }
            }
        }
    }

    fn is_terminated(&self) -> Option<bool> {
        Some(self.is_terminated)
    }
}

// === impl CohereV1 ===

impl Provider for CohereV1 {
    fn event(&mut self, _name: &[u8], data: &[u8], report: &mut ReportBuilder) {
        if !FILTER.may_match(data, report) {
            return;
        }
        let json = Json::of(data);
        let mut event = CohereEvent::default();
        if !json.read(&mut event) {
            return;
        }
        event.gateway_error(report);
        let text = event.text.as_deref().unwrap_or_default();
        let reason = event.finish_reason.as_deref().unwrap_or_default();
        match event.kind.as_deref() {
            Some("text-generation") => report.text(0, text),
            Some("tool-calls-chunk" | "tool-calls-generation") => report.tool_call(""),
            Some("stream-end") => {
                self.is_terminated = true;
                end(reason, event.response.meta, None, report);
            }
            Some(_) => {}
            None => {
                report.text(0, text);
                if event.is_end() {
                    self.is_terminated = true;
                    end(reason, event.meta, None, report);
                }
            }
        }
    }

    fn is_terminated(&self) -> Option<bool> {
        Some(self.is_terminated)
    }
}

// === impl CohereEvent ===

impl CohereEvent<'_> {
    /// Whether this is the end of a whole response.
    fn is_end(&self) -> bool {
        self.finish_reason.is_some() || self.usage.is_some() || self.meta.is_some()
    }

    fn gateway_error(&self, report: &mut ReportBuilder) {
        if let Some(error) = self.error {
            report.error(in_band_error(error));
        }
    }
}

impl<'de> Fields<'de> for CohereEvent<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "type" | "event_type" => self.kind = value.text()?,
            "delta" => {
                value.object(&mut self.delta)?;
            }
            "message" => {
                value.object(self.message.get_or_insert_default())?;
            }
            "finish_reason" => self.finish_reason = value.text()?,
            "usage" => self.usage = value.raw()?,
            "text" => self.text = value.text()?,
            "response" => {
                value.object(&mut self.response)?;
            }
            "meta" => self.meta = value.raw()?,
            "error" => self.error = value.raw()?.filter(is_error),
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for CohereResponse<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "meta" => self.meta = value.raw()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for CohereDelta<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "message" => {
                value.object(&mut self.message)?;
            }
            "finish_reason" => self.finish_reason = value.text()?,
            "usage" => self.usage = value.raw()?,
            "error" => self.error = value.raw()?.filter(is_error),
            _ => value.skip()?,
        }
        Ok(())
    }
}

// === impl CohereMessage ===

impl CohereMessage<'_> {
    fn read(&self, report: &mut ReportBuilder) {
        if let Some(plan) = &self.tool_plan {
            report.hidden(plan);
        }
        for content in self.content.iter() {
            report.reasoning(content.thinking.as_deref().unwrap_or_default());
            report.text(0, content.text.as_deref().unwrap_or_default());
        }
        for tool in self.tools.iter() {
            report.tool_call(tool.arguments.as_deref().unwrap_or_default());
        }
    }
}

impl<'de> Fields<'de> for CohereMessage<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "content" => {
                value.objects(&mut self.content)?;
            }
            "tool_plan" => self.tool_plan = value.text()?,
            "tool_calls" => {
                value.objects(&mut self.tools)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for CohereContent<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "text" => self.text = value.text()?,
            "thinking" => self.thinking = value.text()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

// === impl CohereCounts ===

impl CohereCounts {
    fn normal_form(&self) -> Usage {
        Usage {
            input_tokens: self.tokens.input.or(self.billed.input),
            output_tokens: self.tokens.output.or(self.billed.output),
            cached_input_tokens: self.cached,
            reasoning_tokens: self.tokens.reasoning,
            ..Usage::default()
        }
    }
}

impl<'de> Fields<'de> for CohereCounts {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "tokens" => {
                value.object(&mut self.tokens)?;
            }
            "billed_units" => {
                value.object(&mut self.billed)?;
            }
            "cached_tokens" => self.cached = value.count()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for CohereTokens {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "input_tokens" => self.input = value.count()?,
            "output_tokens" => self.output = value.count()?,
            "reasoning_tokens" => self.reasoning = value.count()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}
