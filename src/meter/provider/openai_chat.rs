//! OpenAI Chat Completions, the older Completions, and the servers that use either.
//!
//! Usage comes in a chunk of its own without choices (OpenAI, if it was asked for), beside the last choice
//! (Mistral, DeepSeek, OpenRouter), in every chunk (Perplexity, vLLM), or under `x_groq`. Each report replaces the
//! one before it, and a `null`, which OpenAI sends in every other chunk, replaces nothing.
//!
//! Reasoning is part of the completion count, unless the total shows that it was added (xAI).

use once_cell::sync::Lazy;
use serde::de::MapAccess;

use super::counts::{latest, sum};
use super::error::{in_band_error, is_error};
use super::key_filter::KeyFilter;
use super::openai_delta::ChatDelta;
use super::provider_trait::Provider;
use crate::meter::lenient::{FieldValue, Fields, Json, SmallList, Text, get, read};
use crate::meter::report_builder::ReportBuilder;
use crate::meter::usage::Usage;

/// Reads chat chunks, and whole responses, which hold the same in one object.
#[derive(Debug, Default)]
pub(super) struct OpenAiChat {
    /// Whether this is the older protocol, whose text stands in the choice itself.
    is_legacy: bool,
    is_terminated: bool,
    counts: ChatCounts,
}

/// The last counts, each by itself.
#[derive(Debug, Default)]
struct ChatCounts {
    prompt: Option<u64>,
    completion: Option<u64>,
    total: Option<u64>,
    cached: Option<u64>,
    cache_write: Option<u64>,
    reasoning: Option<u64>,
}

#[derive(Default)]
struct ChatChunk<'de> {
    object: Text<'de>,
    model: Text<'de>,
    usage: Option<&'de str>,
    groq: GroqField<'de>,
    error: Option<&'de str>,
    choices: SmallList<ChatChoice<'de>>,
}

#[derive(Default)]
struct GroqField<'de> {
    usage: Option<&'de str>,
    error: Option<&'de str>,
}

#[derive(Default)]
struct ChatChoice<'de> {
    index: u32,
    /// The JSON, which is read only if something in it is wanted.
    delta: Option<&'de str>,
    message: Option<&'de str>,
    text: Text<'de>,
    finish_reason: Text<'de>,
    /// Moonshot's place for it.
    usage: Option<&'de str>,
}

static FILTER: Lazy<KeyFilter> = Lazy::new(|| {
    KeyFilter::new(&["usage", "finish_reason", "message"])
        .string_ends(&["error"])
        .index(&["index"])
        .text(&["content", "text"])
        .reasoning(&["reasoning", "reasoning_content", "thinking"])
        .tool_call(&["tool_calls", "function_call"])
});

// === impl OpenAiChat ===

impl OpenAiChat {
    /// Makes a reader for Completions.
    pub(super) fn legacy() -> Self {
        Self { is_legacy: true, ..Self::default() }
    }

    fn choice(&self, choice: &ChatChoice<'_>, is_whole: bool, report: &mut ReportBuilder) {
        let index = choice.index;
        report.begin_choice(index);
        // Perplexity sends the whole text so far in `message` beside the delta. Beside the final one, the delta is
        // empty.
        let ChatChoice { delta, message, .. } = choice;
        let said = if is_whole { message.or(*delta) } else { delta.or(*message) };
        let said = said.filter(|said| FILTER.may_match(said.as_bytes(), report));
        if let Some(delta) = said.and_then(get::<ChatDelta<'_>>) {
            delta.read(index, report);
        }
        if let (true, Some(text)) = (self.is_legacy, &choice.text) {
            report.text(index, text);
        }
        if let Some(reason) = &choice.finish_reason {
            report.finish_reason(index, reason);
        }
    }

    fn usage(&mut self, raw: &str, report: &mut ReportBuilder) {
        if read(raw, &mut self.counts) {
            report.usage(self.counts.normal_form(), raw);
        }
    }

    fn read(&mut self, data: &[u8], in_events: bool, report: &mut ReportBuilder) {
        if data.trim_ascii() == b"[DONE]" {
            self.is_terminated = true;
            report.usage_is_final();
            return;
        }
        if !report.interest().model && !FILTER.may_match(data, report) {
            return;
        }
        let json = Json::of(data);
        let mut chunk = ChatChunk::default();
        if !json.read(&mut chunk) {
            return;
        }
        if let Some(model) = &chunk.model {
            report.model(model);
        }
        let is_whole = chunk.is_whole(in_events);
        let choices = chunk.choices;
        let is_last = choices.first().is_none();
        for choice in choices.iter() {
            self.choice(choice, is_whole, report);
        }
        // vLLM's older errors are not nested.
        let bare = (chunk.object.as_deref() == Some("error")).then_some(json.as_str());
        let error = chunk.error.or(chunk.groq.error).or(bare);
        if let Some(error) = error {
            report.error(in_band_error(error));
        }
        self.is_terminated |= is_whole;
        let in_choice = choices.first().and_then(|choice| choice.usage);
        if let Some(raw) = chunk.usage.or(chunk.groq.usage).or(in_choice) {
            self.usage(raw, report);
            // After the end of all choices, or after an error, a count is not intermediate.
            if is_last || is_whole || error.is_some() || report.is_finished() {
                report.usage_is_final();
            }
        }
    }
}

impl Provider for OpenAiChat {
    fn event(&mut self, _name: &[u8], data: &[u8], report: &mut ReportBuilder) {
        self.read(data, true, report);
    }

    fn value(&mut self, data: &[u8], report: &mut ReportBuilder) {
        self.read(data, false, report);
    }

    fn is_terminated(&self) -> Option<bool> {
        Some(self.is_terminated)
    }
}

// === impl ChatCounts ===

impl ChatCounts {
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

impl<'de> Fields<'de> for ChatCounts {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
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

// === impl ChatChunk ===

impl ChatChunk<'_> {
    /// Whether this is a whole response. Its `object` is not enough: chunks of Completions have the same one as whole
    /// responses, and Perplexity's chunks call themselves whole.
    fn is_whole(&self, in_events: bool) -> bool {
        let Some(first) = self.choices.first() else { return false };
        match self.object.as_deref() {
            Some("chat.completion.chunk") => false,
            Some("text_completion") => !in_events && first.finish_reason.is_some(),
            Some("chat.completion") if in_events => first.message.is_some() && first.delta.is_none(),
            _ => !in_events && first.message.is_some(),
        }
    }
}

impl<'de> Fields<'de> for ChatChunk<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "object" => self.object = value.text()?,
            "model" => self.model = value.text()?,
            "usage" => self.usage = value.raw()?,
            "x_groq" => {
                value.object(&mut self.groq)?;
            }
            "error" => self.error = value.raw()?.filter(is_error),
            "choices" => {
                value.objects(&mut self.choices)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for GroqField<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "usage" => self.usage = value.raw()?,
            "error" => self.error = value.raw()?.filter(is_error),
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for ChatChoice<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "index" => self.index = value.index()?,
            "delta" => self.delta = value.raw()?,
            "message" => self.message = value.raw()?,
            "text" => self.text = value.text()?,
            "finish_reason" => self.finish_reason = value.text()?,
            "usage" => self.usage = value.raw()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}
