//! Google Gemini `streamGenerateContent`, as events or as one JSON array, and `generateContent`.
//!
//! Every chunk reports usage, and the last report counts: early ones lack the output, and totals can fall back
//! midway, so neither sum nor maximum is right. A count that is zero is left out. Thoughts are output, but stand
//! outside the candidates' count; prompts of tools are input, outside the prompt's. There is no end marker, and
//! `STOP` is none: it can stand in several chunks, with text after it.

use std::mem;

use once_cell::sync::Lazy;
use serde::de::MapAccess;

use super::Reading;
use super::dialect::{Dialect, in_band_error, is_error, sum};
use super::fields::{Few, Fields, Json, Text, Value, get};
use super::keys::Keys;
use crate::meter::usage::Usage;

/// Reads chunks.
#[derive(Debug, Default)]
pub(super) struct Gemini {
    /// The latest counts, as they were sent: only the last ones are read.
    usage: String,
    /// Without texts most chunks hold nothing but counts that the next one replaces. The last one and the one
    /// before it wait, unread.
    waiting: [Vec<u8>; 2],
}

#[derive(Default)]
struct Chunk<'de> {
    candidates: Few<Candidate<'de>>,
    usage: Option<&'de str>,
    model: Text<'de>,
    error: Option<&'de str>,
    feedback: Feedback<'de>,
}

#[derive(Default)]
struct Candidate<'de> {
    index: u32,
    content: Content<'de>,
    finish_reason: Text<'de>,
}

#[derive(Default)]
struct Content<'de> {
    parts: Few<Part<'de>>,
}

#[derive(Default)]
struct Part<'de> {
    text: Text<'de>,
    is_thought: bool,
    /// The JSON of a function call.
    call: Option<&'de str>,
}

#[derive(Default)]
struct Feedback<'de> {
    block_reason: Text<'de>,
}

#[derive(Debug, Default)]
struct Counts {
    prompt: Option<u64>,
    tool_prompt: Option<u64>,
    candidates: Option<u64>,
    thoughts: Option<u64>,
    cached: Option<u64>,
    total: Option<u64>,
}

static KEYS: Lazy<Keys> = Lazy::new(|| {
    Keys::new(&["finishReason", "promptFeedback"])
        .or_ends(&["error"])
        .index(&["index"])
        .text(&["text"])
        .reasoning(&["thought"])
        .tool_call(&["functionCall"])
});
static USAGE: Lazy<Keys> = Lazy::new(|| Keys::new(&["usageMetadata"]));
static MODEL: Lazy<Keys> = Lazy::new(|| Keys::new(&["modelVersion"]));

// === impl Gemini ===

impl Gemini {
    /// Whether `data` reports all that is wanted of it, and the next chunk will report it anew.
    fn can_wait(data: &[u8], reading: &Reading) -> bool {
        !KEYS.matter(data, reading)
            && !reading.awaits().model
            && USAGE.stand_in(data, reading)
            && MODEL.stand_in(data, reading)
    }

    /// Reads the chunk that waits; if it is none, the one that waited before it.
    fn read_waiting(&mut self, reading: &mut Reading) {
        let [last, before] = mem::take(&mut self.waiting);
        if !last.is_empty() && !self.read(&last, reading) {
            self.read(&before, reading);
        }
        self.waiting = [last, before];
        self.waiting.iter_mut().for_each(Vec::clear);
    }

    /// Reads a chunk, but for its counts; false if it is none.
    fn read(&mut self, data: &[u8], reading: &mut Reading) -> bool {
        let json = Json::of(data);
        let mut chunk = Chunk::default();
        if !json.read(&mut chunk) {
            return false;
        }
        if let Some(model) = &chunk.model {
            reading.latest_model(model);
        }
        for candidate in chunk.candidates.iter() {
            candidate.read(reading);
        }
        if let Some(error) = chunk.error {
            reading.error(in_band_error(error));
        }
        // Each report stands alone: what it leaves out is zero in it. Kept from an earlier one, thoughts would be
        // added to a total that no longer holds them.
        // One without any count replaces none.
        let has_counts = |raw: &&str| self.usage.is_empty() || raw.contains("TokenCount\"");
        if let Some(raw) = chunk.usage.filter(has_counts) {
            self.usage.clear();
            self.usage.push_str(raw);
            reading.note();
        }
        // Of a prompt that is blocked there are no candidates.
        if reading.is_finished() || chunk.feedback.block_reason.is_some() {
            reading.usage_is_final();
        }
        true
    }
}

impl Dialect for Gemini {
    fn event(&mut self, _name: &[u8], data: &[u8], reading: &mut Reading) {
        if Self::can_wait(data, reading) {
            self.waiting.swap(0, 1);
            self.waiting[0].clear();
            self.waiting[0].extend_from_slice(data);
        } else {
            self.read_waiting(reading);
            self.read(data, reading);
        }
    }

    fn finish(&mut self, reading: &mut Reading) {
        self.read_waiting(reading);
        if let Some(counts) = get::<Counts>(&self.usage) {
            reading.usage(counts.normal_form(), &self.usage);
        }
    }

    fn buffered(&self) -> usize {
        self.usage.capacity() + self.waiting.iter().map(Vec::capacity).sum::<usize>()
    }

    fn is_terminated(&self) -> Option<bool> {
        None
    }
}

// === impl Counts ===

impl Counts {
    fn normal_form(&self) -> Usage {
        Usage {
            input_tokens: self.prompt.and_then(|prompt| sum([Some(prompt), self.tool_prompt])),
            output_tokens: sum([self.candidates, self.thoughts]),
            cached_input_tokens: self.cached,
            cache_write_input_tokens: None,
            reasoning_tokens: self.thoughts,
            total_tokens: self.total,
            ..Usage::default()
        }
    }
}

impl<'de> Fields<'de> for Counts {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        let count = match key {
            "promptTokenCount" => &mut self.prompt,
            "toolUsePromptTokenCount" => &mut self.tool_prompt,
            "candidatesTokenCount" => &mut self.candidates,
            "thoughtsTokenCount" => &mut self.thoughts,
            "cachedContentTokenCount" => &mut self.cached,
            "totalTokenCount" => &mut self.total,
            _ => return value.skip(),
        };
        *count = value.count()?;
        Ok(())
    }
}

// === impl Chunk ===

impl<'de> Fields<'de> for Chunk<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "candidates" => {
                value.objects(&mut self.candidates)?;
            }
            "usageMetadata" => self.usage = value.raw()?,
            "modelVersion" => self.model = value.text()?,
            "error" => self.error = value.raw()?.filter(is_error),
            "promptFeedback" => {
                value.object(&mut self.feedback)?;
            }
            // Some proxies wrap every chunk once more.
            "response" => {
                value.object(self)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for Feedback<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "blockReason" => self.block_reason = value.text()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl Candidate<'_> {
    fn read(&self, reading: &mut Reading) {
        reading.began(self.index);
        for part in self.content.parts.iter() {
            let text = part.text.as_deref().unwrap_or_default();
            match part.call {
                Some(call) => reading.tool_call(call),
                None if part.is_thought => reading.reasoning(text),
                None => reading.text(self.index, text),
            }
        }
        if let Some(reason) = &self.finish_reason {
            reading.finish_reason(self.index, reason);
        }
    }
}

impl<'de> Fields<'de> for Candidate<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "index" => self.index = value.index()?,
            "content" => {
                value.object(&mut self.content)?;
            }
            "finishReason" => self.finish_reason = value.text()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for Content<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "parts" => {
                value.objects(&mut self.parts)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for Part<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "text" => self.text = value.text()?,
            "thought" => self.is_thought = value.flag()? == Some(true),
            "functionCall" => self.call = value.raw()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}
