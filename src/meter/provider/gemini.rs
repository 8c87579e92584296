//! Google Gemini `streamGenerateContent`, as events or as one JSON array, and `generateContent`.
//!
//! Every chunk reports usage, and the last report counts. Early ones lack the output, and totals can fall midway:
//! neither sum nor maximum is right. A zero count is left out. Thoughts are output but not part of the candidates'
//! count; prompts of tools are input but not part of the prompt's. There is no end marker: `STOP` can appear in
//! several chunks, with text after it.

use std::mem;

use once_cell::sync::Lazy;
use serde::de::MapAccess;

use super::counts::sum;
use super::error::{in_band_error, is_error};
use super::key_filter::KeyFilter;
use super::provider_trait::Provider;
use crate::meter::lenient::{FieldValue, Fields, Json, SmallList, Text, get};
use crate::meter::report_builder::ReportBuilder;
use crate::meter::usage::Usage;

/// Reads chunks, in events or in an array.
#[derive(Debug, Default)]
pub(super) struct Gemini {
    /// The latest counts as they were sent. Only the last ones are read.
    usage: String,
    /// If texts are skipped, most chunks hold only counts that the next one replaces. The last two chunks wait,
    /// unread.
    waiting: [Vec<u8>; 2],
}

#[derive(Default)]
struct GeminiChunk<'de> {
    candidates: SmallList<GeminiCandidate<'de>>,
    usage: Option<&'de str>,
    model: Text<'de>,
    error: Option<&'de str>,
    feedback: PromptFeedback<'de>,
}

#[derive(Default)]
struct GeminiCandidate<'de> {
    index: u32,
    content: GeminiContent<'de>,
    finish_reason: Text<'de>,
}

#[derive(Default)]
struct GeminiContent<'de> {
    parts: SmallList<GeminiPart<'de>>,
}

#[derive(Default)]
struct GeminiPart<'de> {
    text: Text<'de>,
    is_thought: bool,
    /// The JSON of a function call.
    call: Option<&'de str>,
}

#[derive(Default)]
struct PromptFeedback<'de> {
    block_reason: Text<'de>,
}

#[derive(Debug, Default)]
struct GeminiCounts {
    prompt: Option<u64>,
    tool_prompt: Option<u64>,
    candidates: Option<u64>,
    thoughts: Option<u64>,
    cached: Option<u64>,
    total: Option<u64>,
}

static FILTER: Lazy<KeyFilter> = Lazy::new(|| {
    KeyFilter::new(&["finishReason", "promptFeedback"])
        .string_ends(&["error"])
        .index(&["index"])
        .text(&["text"])
        .reasoning(&["thought"])
        .tool_call(&["functionCall"])
});
static USAGE: Lazy<KeyFilter> = Lazy::new(|| KeyFilter::new(&["usageMetadata"]));
static MODEL: Lazy<KeyFilter> = Lazy::new(|| KeyFilter::new(&["modelVersion"]));

// === impl Gemini ===

impl Gemini {
    /// Whether `data` holds nothing that the next chunk will not repeat.
    fn can_wait(data: &[u8], report: &ReportBuilder) -> bool {
        !FILTER.may_match(data, report)
            && !report.interest().model
            && USAGE.is_found_in(data, report)
            && MODEL.is_found_in(data, report)
    }

    /// Reads the chunk that waits. If it is not a chunk, reads the one before it.
    fn read_waiting(&mut self, report: &mut ReportBuilder) {
        let [last, before] = mem::take(&mut self.waiting);
        if !last.is_empty() && !self.read(&last, report) {
            self.read(&before, report);
        }
        self.waiting = [last, before];
        self.waiting.iter_mut().for_each(Vec::clear);
    }

    /// Reads a chunk except for its counts; false if it is not a chunk.
    fn read(&mut self, data: &[u8], report: &mut ReportBuilder) -> bool {
        let json = Json::of(data);
        let mut chunk = GeminiChunk::default();
        if !json.read(&mut chunk) {
            return false;
        }
        if let Some(model) = &chunk.model {
            report.latest_model(model);
        }
        for candidate in chunk.candidates.iter() {
            candidate.read(report);
        }
        if let Some(error) = chunk.error {
            report.error(in_band_error(error));
        }
        // Each report stands alone: what it leaves out is zero. Thoughts kept from an earlier report would be added
        // to a total that no longer includes them. A report without any count replaces none.
        let has_counts = |raw: &&str| self.usage.is_empty() || raw.contains("TokenCount\"");
        if let Some(raw) = chunk.usage.filter(has_counts) {
            self.usage.clear();
            self.usage.push_str(raw);
            report.note_other();
        }
        // A blocked prompt has no candidates.
        if report.is_finished() || chunk.feedback.block_reason.is_some() {
            report.usage_is_final();
        }
        true
    }
}

impl Provider for Gemini {
    fn event(&mut self, _name: &[u8], data: &[u8], report: &mut ReportBuilder) {
        if Self::can_wait(data, report) {
            self.waiting.swap(0, 1);
            self.waiting[0].clear();
            self.waiting[0].extend_from_slice(data);
        } else {
            self.read_waiting(report);
            self.read(data, report);
        }
    }

    fn finish(&mut self, report: &mut ReportBuilder) {
        self.read_waiting(report);
        if let Some(counts) = get::<GeminiCounts>(&self.usage) {
            report.usage(counts.normal_form(), &self.usage);
        }
    }

    fn buffered(&self) -> usize {
        self.usage.capacity() + self.waiting.iter().map(Vec::capacity).sum::<usize>()
    }

    fn is_terminated(&self) -> Option<bool> {
        None
    }
}

// === impl GeminiCounts ===

impl GeminiCounts {
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

impl<'de> Fields<'de> for GeminiCounts {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
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

// === impl GeminiChunk ===

impl<'de> Fields<'de> for GeminiChunk<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
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

impl<'de> Fields<'de> for PromptFeedback<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "blockReason" => self.block_reason = value.text()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl GeminiCandidate<'_> {
    fn read(&self, report: &mut ReportBuilder) {
        report.begin_choice(self.index);
        for part in self.content.parts.iter() {
            let text = part.text.as_deref().unwrap_or_default();
            match part.call {
                Some(call) => report.tool_call(call),
                None if part.is_thought => report.reasoning(text),
                None => report.text(self.index, text),
            }
        }
        if let Some(reason) = &self.finish_reason {
            report.finish_reason(self.index, reason);
        }
    }
}

impl<'de> Fields<'de> for GeminiCandidate<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
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

impl<'de> Fields<'de> for GeminiContent<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "parts" => {
                value.objects(&mut self.parts)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for GeminiPart<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "text" => self.text = value.text()?,
            "thought" => self.is_thought = value.flag()? == Some(true),
            "functionCall" => self.call = value.raw()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}
