//! Ollama `/api/chat` and `/api/generate`: lines of JSON, the last one with `done` and the counts.
//!
//! `prompt_eval_count` is left out if the prompt was cached: the count is then unknown, and not zero.

use once_cell::sync::Lazy;
use serde::de::MapAccess;

use super::error::{in_band_error, is_error};
use super::key_filter::KeyFilter;
use super::provider_trait::Provider;
use crate::meter::lenient::{FieldValue, Fields, Json, Text};
use crate::meter::report_builder::ReportBuilder;
use crate::meter::usage::Usage;

/// Reads the lines of either endpoint.
#[derive(Debug, Default)]
pub(super) struct Ollama {
    is_terminated: bool,
}

#[derive(Default)]
struct OllamaLine<'de> {
    model: Text<'de>,
    message: OllamaMessage<'de>,
    /// Text of `/api/generate`.
    response: Text<'de>,
    thinking: Text<'de>,
    is_done: bool,
    done_reason: Text<'de>,
    prompt: Option<u64>,
    output: Option<u64>,
    error: Option<&'de str>,
}

#[derive(Default)]
struct OllamaMessage<'de> {
    content: Text<'de>,
    thinking: Text<'de>,
    calls: Option<&'de str>,
}

static FILTER: Lazy<KeyFilter> = Lazy::new(|| {
    KeyFilter::new(&["done", "error"])
        .text(&["content", "response"])
        .reasoning(&["thinking"])
        .tool_call(&["tool_calls"])
});

// === impl Ollama ===

impl Provider for Ollama {
    fn event(&mut self, _name: &[u8], data: &[u8], report: &mut ReportBuilder) {
        if !report.interest().model && !FILTER.may_match(data, report) {
            return;
        }
        let json = Json::of(data);
        let mut line = OllamaLine::default();
        if !json.read(&mut line) {
            return;
        }
        if let Some(model) = &line.model {
            report.model(model);
        }
        for thinking in [&line.message.thinking, &line.thinking].into_iter().flatten() {
            report.reasoning(thinking);
        }
        for text in [&line.message.content, &line.response].into_iter().flatten() {
            report.text(0, text);
        }
        if let Some(calls) = line.message.calls {
            report.tool_call(calls);
        }
        if let Some(error) = line.error {
            report.error(in_band_error(error));
        }
        if line.is_done {
            self.is_terminated = true;
            // Older servers give no reason.
            report.finish_reason(0, line.done_reason.as_deref().unwrap_or_default());
            line.usage(report);
        }
    }

    fn is_terminated(&self) -> Option<bool> {
        Some(self.is_terminated)
    }
}

// === impl OllamaLine ===

impl OllamaLine<'_> {
    fn usage(&self, report: &mut ReportBuilder) {
        let counts = [("prompt_eval_count", self.prompt), ("eval_count", self.output)];
        let members = counts.into_iter().filter_map(|(name, count)| Some(format!("\"{name}\":{}", count?)));
        let members: Vec<String> = members.collect();
        if members.is_empty() {
            return;
        }
        let usage = Usage { input_tokens: self.prompt, output_tokens: self.output, ..Usage::default() };
        report.usage(usage, &format!("{{{}}}", members.join(",")));
        report.usage_is_final();
    }
}

impl<'de> Fields<'de> for OllamaLine<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "model" => self.model = value.text()?,
            "message" => {
                value.object(&mut self.message)?;
            }
            "response" => self.response = value.text()?,
            "thinking" => self.thinking = value.text()?,
            "done" => self.is_done = value.flag()? == Some(true),
            "done_reason" => self.done_reason = value.text()?,
            "prompt_eval_count" => self.prompt = value.count()?,
            "eval_count" => self.output = value.count()?,
            "error" => self.error = value.raw()?.filter(is_error),
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for OllamaMessage<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "content" => self.content = value.text()?,
            "thinking" => self.thinking = value.text()?,
            "tool_calls" => self.calls = value.raw()?.filter(|calls| *calls != "[]"),
            _ => value.skip()?,
        }
        Ok(())
    }
}
