//! Ollama `/api/chat` and `/api/generate`: lines of JSON, the last one with `done` and the counts.
//!
//! `prompt_eval_count` is left out when the prompt was cached: that is not known, and not zero.

use once_cell::sync::Lazy;
use serde::de::MapAccess;

use super::Reading;
use super::dialect::{Dialect, in_band_error, is_error};
use super::fields::{Fields, Json, Text, Value};
use super::keys::Keys;
use crate::meter::usage::Usage;

/// Reads the lines of either endpoint.
#[derive(Debug, Default)]
pub(super) struct Ollama {
    is_terminated: bool,
}

#[derive(Default)]
struct Line<'de> {
    model: Text<'de>,
    message: Message<'de>,
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
struct Message<'de> {
    content: Text<'de>,
    thinking: Text<'de>,
    calls: Option<&'de str>,
}

static KEYS: Lazy<Keys> = Lazy::new(|| {
    Keys::new(&["done", "error"])
        .text(&["content", "response"])
        .reasoning(&["thinking"])
        .tool_call(&["tool_calls"])
});

// === impl Ollama ===

impl Dialect for Ollama {
    fn event(&mut self, _name: &[u8], data: &[u8], reading: &mut Reading) {
        if !reading.awaits().model && !KEYS.matter(data, reading) {
            return;
        }
        let json = Json::of(data);
        let mut line = Line::default();
        if !json.read(&mut line) {
            return;
        }
        if let Some(model) = &line.model {
            reading.model(model);
        }
        for thinking in [&line.message.thinking, &line.thinking].into_iter().flatten() {
            reading.reasoning(thinking);
        }
        for text in [&line.message.content, &line.response].into_iter().flatten() {
            reading.text(0, text);
        }
        if let Some(calls) = line.message.calls {
            reading.tool_call(calls);
        }
        if let Some(error) = line.error {
            reading.error(in_band_error(error));
        }
        if line.is_done {
            self.is_terminated = true;
            // Older servers give no reason.
            reading.finish_reason(0, line.done_reason.as_deref().unwrap_or_default());
            line.usage(reading);
        }
    }

    fn is_terminated(&self) -> Option<bool> {
        Some(self.is_terminated)
    }
}

// === impl Line ===

impl Line<'_> {
    fn usage(&self, reading: &mut Reading) {
        let counts = [("prompt_eval_count", self.prompt), ("eval_count", self.output)];
        let members = counts.into_iter().filter_map(|(name, count)| Some(format!("\"{name}\":{}", count?)));
        let members: Vec<String> = members.collect();
        if members.is_empty() {
            return;
        }
        let usage = Usage { input_tokens: self.prompt, output_tokens: self.output, ..Usage::default() };
        reading.usage(usage, &format!("{{{}}}", members.join(",")));
        reading.usage_is_final();
    }
}

impl<'de> Fields<'de> for Line<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
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

impl<'de> Fields<'de> for Message<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "content" => self.content = value.text()?,
            "thinking" => self.thinking = value.text()?,
            "tool_calls" => self.calls = value.raw()?.filter(|calls| *calls != "[]"),
            _ => value.skip()?,
        }
        Ok(())
    }
}
