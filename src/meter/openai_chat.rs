//! OpenAI Chat Completions, the older Completions, and the servers that speak either.
//!
//! Usage comes in a chunk of its own without choices (OpenAI, if it was asked for), beside the last choice
//! (Mistral, DeepSeek, OpenRouter), in every chunk (Perplexity, vLLM), or under `x_groq`. Each report replaces the
//! one before it, and a `null`, which OpenAI sends in every other chunk, replaces nothing.
//!
//! Reasoning stands inside the completion count, except where the total shows that it was added (xAI).

use once_cell::sync::Lazy;
use serde::de::MapAccess;

use super::Reading;
use super::dialect::{Dialect, in_band_error, latest, sum};
use super::fields::{Fields, Json, Text, Value, read};
use super::keys::Keys;
use crate::usage::Usage;

/// Reads chat chunks, and whole answers, which hold the same in one object.
#[derive(Debug, Default)]
pub(super) struct OpenAiChat {
    /// The older protocol: the text stands in the choice itself.
    is_legacy: bool,
    is_terminated: bool,
    counts: Counts,
}

/// The counts as they were reported last, each for itself.
#[derive(Debug, Default)]
struct Counts {
    prompt: Option<u64>,
    completion: Option<u64>,
    total: Option<u64>,
    cached: Option<u64>,
    cache_write: Option<u64>,
    reasoning: Option<u64>,
}

#[derive(Default)]
struct Chunk<'de> {
    object: Text<'de>,
    model: Text<'de>,
    usage: Option<&'de str>,
    groq: Groq<'de>,
    error: Option<&'de str>,
    choices: Choices<'de>,
}

/// One choice in nearly every chunk; a list is made for the others only.
#[derive(Default)]
struct Choices<'de> {
    first: Option<Choice<'de>>,
    more: Vec<Choice<'de>>,
}

#[derive(Default)]
struct Groq<'de> {
    usage: Option<&'de str>,
    error: Option<&'de str>,
}

#[derive(Default)]
struct Choice<'de> {
    index: u32,
    delta: Option<Delta<'de>>,
    message: Option<Delta<'de>>,
    text: Text<'de>,
    finish_reason: Text<'de>,
}

#[derive(Default)]
struct Delta<'de> {
    content: Text<'de>,
    parts: Vec<Part<'de>>,
    refusal: Text<'de>,
    reasoning: Text<'de>,
    tools: Vec<Tool<'de>>,
}

/// A part of a content that is a list.
#[derive(Default)]
struct Part<'de> {
    kind: Text<'de>,
    text: Text<'de>,
    thinking: Vec<Part<'de>>,
}

/// A tool call, or the function inside it.
#[derive(Default)]
struct Tool<'de> {
    arguments: Text<'de>,
}

static KEYS: Lazy<Keys> = Lazy::new(|| {
    Keys::new(&["usage", "finish_reason", "error"])
        .text(&["content", "text"])
        .reasoning(&["reasoning", "reasoning_content", "thinking"])
        .tool_call(&["tool_calls", "function_call"])
});

// === impl OpenAiChat ===

impl OpenAiChat {
    /// For Completions.
    pub(super) fn legacy() -> Self {
        Self { is_legacy: true, ..Self::default() }
    }

    fn choice(&self, choice: &Choice<'_>, reading: &mut Reading) {
        let index = choice.index;
        // Perplexity sends the whole text so far in `message`, beside the delta.
        if let Some(delta) = choice.delta.as_ref().or(choice.message.as_ref()) {
            delta.read(index, reading);
        }
        if let (true, Some(text)) = (self.is_legacy, &choice.text) {
            reading.text(index, text);
        }
        if let Some(reason) = &choice.finish_reason {
            reading.finish_reason(index, reason);
        }
    }

    fn usage(&mut self, raw: &str, reading: &mut Reading) {
        if read(raw, &mut self.counts) {
            reading.usage(self.counts.normal_form(), raw);
        }
    }
}

impl Dialect for OpenAiChat {
    fn event(&mut self, _name: &[u8], data: &[u8], reading: &mut Reading) {
        if data.trim_ascii() == b"[DONE]" {
            self.is_terminated = true;
            reading.usage_is_final();
            return;
        }
        if !reading.awaits().model && !KEYS.matter(data, reading) {
            return;
        }
        let json = Json::of(data);
        let Some(chunk) = json.get::<Chunk<'_>>() else {
            return;
        };
        if let Some(model) = &chunk.model {
            reading.model(model);
        }
        let choices = chunk.choices;
        let is_last = choices.first.is_none();
        for choice in choices.first.iter().chain(&choices.more) {
            self.choice(choice, reading);
        }
        let error = chunk.error.or(chunk.groq.error);
        if let Some(error) = error {
            reading.error(in_band_error(error));
        }
        let is_whole = matches!(chunk.object.as_deref(), Some("chat.completion" | "text_completion"))
            && choices.first.as_ref().is_some_and(|choice| choice.message.is_some());
        self.is_terminated |= is_whole;
        if let Some(raw) = chunk.usage.or(chunk.groq.usage) {
            self.usage(raw, reading);
            // What follows the end of a choice, or an error, is no intermediate count.
            if is_last || is_whole || error.is_some() || reading.is_finished() {
                reading.usage_is_final();
            }
        }
    }

    fn is_terminated(&self) -> Option<bool> {
        Some(self.is_terminated)
    }
}

// === impl Counts ===

impl Counts {
    fn normal_form(&self) -> Usage {
        let inside = sum([self.prompt, self.completion]);
        let outside = sum([self.prompt, self.completion, self.reasoning]);
        let is_added = self.total == outside && self.total != inside;
        Usage {
            input_tokens: self.prompt,
            output_tokens: if is_added { sum([self.completion, self.reasoning]) } else { self.completion },
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
            "prompt_tokens" => latest(&mut self.prompt, value.count()?),
            "completion_tokens" => latest(&mut self.completion, value.count()?),
            "total_tokens" => latest(&mut self.total, value.count()?),
            // DeepSeek, Moonshot, Mistral: at the top level.
            "prompt_cache_hit_tokens" | "cached_tokens" | "num_cached_tokens" => {
                latest(&mut self.cached, value.count()?);
            }
            "cache_write_tokens" | "cache_creation_input_tokens" | "cache_creation_tokens" => {
                latest(&mut self.cache_write, value.count()?);
            }
            "reasoning_tokens" => latest(&mut self.reasoning, value.count()?),
            // The same names as above, one level down.
            "prompt_tokens_details" | "completion_tokens_details" => {
                value.object(self)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

// === impl Chunk ===

impl<'de> Fields<'de> for Chunk<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "object" => self.object = value.text()?,
            "model" => self.model = value.text()?,
            "usage" => self.usage = value.raw()?,
            "x_groq" => {
                value.object(&mut self.groq)?;
            }
            "error" => self.error = value.raw()?,
            "choices" => {
                value.objects(|choice| self.choices.push(choice))?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Choices<'de> {
    fn push(&mut self, choice: Choice<'de>) {
        if self.first.is_none() {
            self.first = Some(choice);
        } else {
            self.more.push(choice);
        }
    }
}

impl<'de> Fields<'de> for Groq<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "usage" => self.usage = value.raw()?,
            "error" => self.error = value.raw()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for Choice<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "index" => self.index = value.index()?,
            "delta" => {
                value.object(self.delta.get_or_insert_default())?;
            }
            "message" => {
                value.object(self.message.get_or_insert_default())?;
            }
            "text" => self.text = value.text()?,
            "finish_reason" => self.finish_reason = value.text()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

// === impl Delta ===

impl Delta<'_> {
    fn read(&self, index: u32, reading: &mut Reading) {
        if let Some(reasoning) = &self.reasoning {
            reading.reasoning(reasoning);
        }
        if let Some(refusal) = &self.refusal {
            reading.hidden(refusal);
        }
        if let Some(content) = &self.content {
            reading.text(index, content);
        }
        for part in &self.parts {
            part.read(index, reading);
        }
        for tool in &self.tools {
            reading.tool_call(tool.arguments.as_deref().unwrap_or_default());
        }
    }
}

impl<'de> Fields<'de> for Delta<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "content" => self.content = value.objects(|part| self.parts.push(part))?,
            "refusal" => self.refusal = value.text()?,
            // Some servers send both, one of them null or empty.
            "reasoning" | "reasoning_content" => {
                let reasoning = value.text()?.filter(|text| !text.is_empty());
                self.reasoning = reasoning.or(self.reasoning.take());
            }
            "tool_calls" => {
                value.objects(|tool| self.tools.push(tool))?;
            }
            "function_call" => {
                let mut tool = Tool::default();
                if value.object(&mut tool)? {
                    self.tools.push(tool);
                }
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl Part<'_> {
    fn read(&self, index: u32, reading: &mut Reading) {
        let text = self.text.as_deref().unwrap_or_default();
        match self.kind.as_deref() {
            Some("text" | "output_text") | None => reading.text(index, text),
            Some("thinking" | "reasoning") => {
                reading.reasoning(text);
                for part in &self.thinking {
                    reading.reasoning(part.text.as_deref().unwrap_or_default());
                }
            }
            Some(_) => reading.hidden(text),
        }
    }
}

impl<'de> Fields<'de> for Part<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "type" => self.kind = value.text()?,
            "text" => self.text = value.text()?,
            "thinking" => {
                let text = value.objects(|part| self.thinking.push(part))?;
                self.text = text.or(self.text.take());
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for Tool<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "arguments" => self.arguments = value.text()?,
            "function" => {
                value.object(self)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}
