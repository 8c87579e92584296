//! Amazon Bedrock: ConverseStream.
//!
//! Input counts exclude what was read from and written to the cache; the normal form adds them. The body does not
//! name the model; the request's path does.

use once_cell::sync::Lazy;
use serde::de::MapAccess;

use super::counts::{latest, sum};
use super::key_filter::KeyFilter;
use super::provider_trait::Provider;
use crate::meter::lenient::{FieldValue, Fields, Json, SmallList, Text, get};
use crate::meter::report_builder::ReportBuilder;
use crate::meter::usage::Usage;

/// Reads events of ConverseStream, which the framing names, and whole responses of Converse.
#[derive(Debug, Default)]
pub(super) struct BedrockConverse {
    is_terminated: bool,
}

/// An event of Converse, a whole response, or an event of Nova, which is named by its one field.
#[derive(Default)]
pub(super) struct ConverseEvent<'de> {
    delta: ConverseBlock<'de>,
    start: ConverseBlock<'de>,
    stop_reason: Text<'de>,
    usage: Option<&'de str>,
    content: SmallList<ConverseBlock<'de>>,
}

#[derive(Default)]
struct ConverseBlock<'de> {
    text: Text<'de>,
    reasoning: Text<'de>,
    has_tool: bool,
    tool_input: Text<'de>,
}

/// The counts of Converse, of Nova, and Amazon's own for any model.
#[derive(Debug, Default)]
pub(super) struct ConverseCounts {
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
}

/// The keys of events that hold content.
static FILTER: Lazy<KeyFilter> = Lazy::new(|| {
    KeyFilter::new(&[]).text(&["text"]).reasoning(&["reasoningContent"]).tool_call(&["toolUse"])
});

// === impl BedrockConverse ===

impl BedrockConverse {
    pub(super) fn read(&mut self, event: &ConverseEvent<'_>, report: &mut ReportBuilder) {
        for block in [&event.start, &event.delta].into_iter().chain(event.content.iter()) {
            block.read(report);
        }
        if let Some(reason) = &event.stop_reason {
            report.finish_reason(0, reason);
        }
        if let Some(counts) = event.usage.and_then(get::<ConverseCounts>) {
            self.is_terminated = true;
            report.usage(counts.normal_form(), event.usage.unwrap_or_default());
            report.usage_is_final();
        }
    }
}

impl Provider for BedrockConverse {
    fn event(&mut self, name: &[u8], data: &[u8], report: &mut ReportBuilder) {
        let is_read = match name {
            b"contentBlockStart" | b"contentBlockDelta" => FILTER.may_match(data, report),
            // A whole response has no name.
            b"messageStop" | b"metadata" | b"" => true,
            _ => false,
        };
        if !is_read {
            return;
        }
        let json = Json::of(data);
        let mut event = ConverseEvent::default();
        if json.read(&mut event) {
            self.read(&event, report);
            // This is the last event, even if it has no counts.
            self.is_terminated |= name == b"metadata";
        }
    }

    fn is_terminated(&self) -> Option<bool> {
        Some(self.is_terminated)
    }
}

// === impl ConverseEvent ===

impl<'de> Fields<'de> for ConverseEvent<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "delta" => {
                value.object(&mut self.delta)?;
            }
            "start" => {
                value.object(&mut self.start)?;
            }
            "stopReason" => self.stop_reason = value.text()?,
            "usage" => self.usage = value.raw()?,
            // In a whole response.
            "output" | "message" => {
                value.object(self)?;
            }
            "content" => {
                value.objects(&mut self.content)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl ConverseBlock<'_> {
    fn read(&self, report: &mut ReportBuilder) {
        report.text(0, self.text.as_deref().unwrap_or_default());
        report.reasoning(self.reasoning.as_deref().unwrap_or_default());
        if self.has_tool {
            report.tool_call(self.tool_input.as_deref().unwrap_or_default());
        }
    }
}

impl<'de> Fields<'de> for ConverseBlock<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "text" => self.text = value.text()?,
            // `reasoningContent.text`, or `.reasoningText.text` in a whole response.
            "reasoningContent" | "reasoningText" => {
                let mut inner = ConverseBlock::default();
                value.object(&mut inner)?;
                self.reasoning = inner.reasoning.or(inner.text);
            }
            "toolUse" => self.has_tool = value.object(&mut ToolInput(&mut self.tool_input))?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

/// Takes the `input` of a tool use.
struct ToolInput<'t, 'de>(&'t mut Text<'de>);

impl<'de> Fields<'de> for ToolInput<'_, 'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "input" => *self.0 = value.text()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl ConverseCounts {
    pub(super) fn normal_form(&self) -> Usage {
        Usage {
            input_tokens: self.input.and_then(|input| sum([Some(input), self.cache_read, self.cache_write])),
            output_tokens: self.output,
            cached_input_tokens: self.cache_read,
            cache_write_input_tokens: self.cache_write,
            total_tokens: self.total,
            ..Usage::default()
        }
    }
}

impl<'de> Fields<'de> for ConverseCounts {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "inputTokens" | "inputTokenCount" => latest(&mut self.input, value.count()?),
            "outputTokens" | "outputTokenCount" => latest(&mut self.output, value.count()?),
            "totalTokens" => latest(&mut self.total, value.count()?),
            // Each has two names.
            "cacheReadInputTokens" | "cacheReadInputTokenCount" => {
                latest(&mut self.cache_read, value.count()?)
            }
            "cacheWriteInputTokens" | "cacheWriteInputTokenCount" => {
                latest(&mut self.cache_write, value.count()?);
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}
