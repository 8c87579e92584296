//! Amazon Bedrock: ConverseStream, and InvokeModelWithResponseStream around the models' own protocols.
//!
//! Converse's input counts leave out what was read from and written to the cache; the normal form adds them. The
//! model stands in neither body: it is in the request's path.
//!
//! InvokeModel wraps the model's own events into base64. The last one also carries Amazon's counts, which are
//! used for those models that report none themselves.

use std::mem;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use once_cell::sync::Lazy;
use serde::de::MapAccess;

use super::Reading;
use super::anthropic::Anthropic;
use super::dialect::{Dialect, latest, sum};
use super::fields::{Fields, Json, Text, Value, get};
use super::keys::Keys;
use crate::usage::Usage;

/// ConverseStream, whose events the framing names, and whole answers of Converse.
#[derive(Debug, Default)]
pub(super) struct Converse {
    is_terminated: bool,
}

/// InvokeModelWithResponseStream.
#[derive(Debug, Default)]
pub(super) struct Invoke {
    claude: Anthropic,
    nova: Converse,
    counts: ModelCounts,
    is_terminated: bool,
    event: Vec<u8>,
}

/// An event of Converse, a whole answer, or an event of Nova, which names its events by their one field.
#[derive(Default)]
struct ConverseEvent<'de> {
    delta: Block<'de>,
    start: Block<'de>,
    stop_reason: Text<'de>,
    usage: Option<&'de str>,
    content: Vec<Block<'de>>,
}

#[derive(Default)]
struct Block<'de> {
    text: Text<'de>,
    reasoning: Text<'de>,
    has_tool: bool,
    tool_input: Text<'de>,
}

/// Of Converse, of Nova, and Amazon's own for any model.
#[derive(Debug, Default)]
struct ConverseCounts {
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
}

/// The `chunk` event of InvokeModel.
#[derive(Default)]
struct Wrapped<'de> {
    bytes: Text<'de>,
}

/// The events of the models that have no file of their own.
#[derive(Default)]
struct ModelEvent<'de> {
    kind: Text<'de>,
    /// Titan, Llama, old Claude, Cohere.
    text: Text<'de>,
    /// Mistral.
    outputs: Vec<ModelOutput<'de>>,
    stop_reason: Text<'de>,
    metrics: Option<&'de str>,
    nova: ConverseEvent<'de>,
    counts: ModelCounts,
}

#[derive(Default)]
struct ModelOutput<'de> {
    text: Text<'de>,
    stop_reason: Text<'de>,
}

/// Counts of Titan and Llama, as they were reported last.
#[derive(Debug, Default)]
struct ModelCounts {
    input: Option<(&'static str, u64)>,
    output: Option<(&'static str, u64)>,
}

static KEYS: Lazy<Keys> = Lazy::new(|| {
    let reasons = ["stop_reason", "stopReason", "completionReason", "finish_reason"];
    let counts = ["usage", "Metrics", "oken_count", "okenCount"];
    Keys::new(&[reasons, counts].concat())
        .text(&["text", "outputText", "generation", "completion"])
        .reasoning(&["thinking", "reasoningContent"])
        .tool_call(&["content_block", "partial_json", "toolUse"])
        .words(&["message_start", "message_stop"])
});

// === impl Converse ===

impl Converse {
    fn read(&mut self, event: &ConverseEvent<'_>, reading: &mut Reading) {
        for block in [&event.start, &event.delta].into_iter().chain(&event.content) {
            block.read(reading);
        }
        if let Some(reason) = &event.stop_reason {
            reading.finish_reason(0, reason);
        }
        if let Some(counts) = event.usage.and_then(get::<ConverseCounts>) {
            self.is_terminated = true;
            reading.usage(counts.normal_form(), event.usage.unwrap_or_default());
            reading.usage_is_final();
        }
    }
}

impl Dialect for Converse {
    fn event(&mut self, name: &[u8], data: &[u8], reading: &mut Reading) {
        let awaits = reading.awaits();
        if name == b"contentBlockDelta" && !(awaits.text || awaits.reasoning || awaits.tool_call) {
            return;
        }
        if let Some(event) = Json::of(data).get::<ConverseEvent<'_>>() {
            self.read(&event, reading);
            // The last event; its counts may be missing.
            self.is_terminated |= name == b"metadata";
        }
    }

    fn is_terminated(&self) -> Option<bool> {
        Some(self.is_terminated)
    }
}

// === impl Invoke ===

impl Invoke {
    /// Reads the model's own event.
    fn model_event(&mut self, data: &[u8], reading: &mut Reading) {
        if !KEYS.matter(data, reading) {
            return;
        }
        let json = Json::of(data);
        let mut event = ModelEvent { counts: mem::take(&mut self.counts), ..ModelEvent::default() };
        let is_read = json.read(&mut event);
        self.counts = event.counts;
        if !is_read {
            return;
        }
        if event.kind.is_some() {
            self.claude.event(b"", data, reading);
        } else {
            self.nova.read(&event.nova, reading);
        }
        reading.text(0, event.text.as_deref().unwrap_or_default());
        for output in &event.outputs {
            reading.text(0, output.text.as_deref().unwrap_or_default());
        }
        let reasons = event.outputs.iter().map(|output| &output.stop_reason).chain([&event.stop_reason]);
        for reason in reasons.flatten() {
            reading.finish_reason(0, reason);
        }
        if let Some((usage, raw)) = self.counts.normal_form() {
            reading.usage(usage, &raw);
        }
        if let Some(metrics) = event.metrics {
            self.metrics(metrics, reading);
        }
    }

    /// Amazon's own counts, which stand in the last event.
    fn metrics(&mut self, raw: &str, reading: &mut Reading) {
        self.is_terminated = true;
        if !reading.has_usage()
            && let Some(metrics) = get::<ConverseCounts>(raw)
        {
            reading.usage(metrics.normal_form(), raw);
        }
        reading.usage_is_final();
    }
}

impl Dialect for Invoke {
    fn event(&mut self, _name: &[u8], data: &[u8], reading: &mut Reading) {
        let json = Json::of(data);
        let Some(wrapped) = json.get::<Wrapped<'_>>() else {
            return;
        };
        let Some(bytes) = wrapped.bytes else {
            // A whole answer is not wrapped.
            self.model_event(data, reading);
            return;
        };
        let mut event = mem::take(&mut self.event);
        event.clear();
        if STANDARD.decode_vec(&*bytes, &mut event).is_ok() {
            self.model_event(&event, reading);
        }
        self.event = event;
    }

    fn is_terminated(&self) -> Option<bool> {
        Some(self.is_terminated || self.claude.is_terminated() == Some(true))
    }
}

// === impl ConverseEvent ===

impl<'de> Fields<'de> for ConverseEvent<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "delta" => {
                value.object(&mut self.delta)?;
            }
            "start" => {
                value.object(&mut self.start)?;
            }
            "stopReason" => self.stop_reason = value.text()?,
            "usage" => self.usage = value.raw()?,
            // Of a whole answer.
            "output" | "message" => {
                value.object(self)?;
            }
            "content" => {
                value.objects(|block| self.content.push(block))?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl Block<'_> {
    fn read(&self, reading: &mut Reading) {
        reading.text(0, self.text.as_deref().unwrap_or_default());
        reading.reasoning(self.reasoning.as_deref().unwrap_or_default());
        if self.has_tool {
            reading.tool_call(self.tool_input.as_deref().unwrap_or_default());
        }
    }
}

impl<'de> Fields<'de> for Block<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "text" => self.text = value.text()?,
            // `reasoningContent.text`, or `.reasoningText.text` in a whole answer.
            "reasoningContent" | "reasoningText" => {
                let mut inner = Block::default();
                value.object(&mut inner)?;
                self.reasoning = inner.reasoning.or(inner.text);
            }
            "toolUse" => self.has_tool = value.object(&mut ToolInput(&mut self.tool_input))?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

/// Takes `input` of a tool's use.
struct ToolInput<'t, 'de>(&'t mut Text<'de>);

impl<'de> Fields<'de> for ToolInput<'_, 'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "input" => *self.0 = value.text()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl ConverseCounts {
    fn normal_form(&self) -> Usage {
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
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "inputTokens" | "inputTokenCount" => latest(&mut self.input, value.count()?),
            "outputTokens" | "outputTokenCount" => latest(&mut self.output, value.count()?),
            "totalTokens" => latest(&mut self.total, value.count()?),
            // Each comes under two names.
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

// === impl ModelEvent ===

impl<'de> Fields<'de> for Wrapped<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "bytes" => self.bytes = value.text()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for ModelEvent<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "type" => self.kind = value.text()?,
            "outputText" | "generation" | "completion" | "text" => self.text = value.text()?,
            "outputs" | "results" => {
                value.objects(|output| self.outputs.push(output))?;
            }
            "completionReason" | "stop_reason" | "finish_reason" => self.stop_reason = value.text()?,
            "amazon-bedrock-invocationMetrics" => self.metrics = value.raw()?,
            "contentBlockDelta" | "contentBlockStart" | "messageStop" | "metadata" => {
                value.object(&mut self.nova)?;
            }
            // Whole answers of Nova have Converse's fields at the top; what Claude's have there is read by type.
            "output" | "stopReason" | "usage" => self.nova.field(key, value)?,
            _ => self.counts.field(key, value)?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for ModelOutput<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "text" | "outputText" => self.text = value.text()?,
            "stop_reason" | "completionReason" => self.stop_reason = value.text()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl ModelCounts {
    /// The counts, and the object in which they stand here: in the event they have none of their own.
    fn normal_form(&self) -> Option<(Usage, String)> {
        let counts = [self.input, self.output];
        let members: Vec<String> =
            counts.into_iter().flatten().map(|(name, count)| format!("\"{name}\":{count}")).collect();
        let usage = Usage {
            input_tokens: self.input.map(|(_, count)| count),
            output_tokens: self.output.map(|(_, count)| count),
            ..Usage::default()
        };
        (!members.is_empty()).then(|| (usage, format!("{{{}}}", members.join(","))))
    }
}

impl<'de> Fields<'de> for ModelCounts {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        let (count, name) = match key {
            "inputTextTokenCount" => (&mut self.input, "inputTextTokenCount"),
            "prompt_token_count" => (&mut self.input, "prompt_token_count"),
            "totalOutputTextTokenCount" => (&mut self.output, "totalOutputTextTokenCount"),
            "generation_token_count" => (&mut self.output, "generation_token_count"),
            _ => return value.skip(),
        };
        *count = value.count()?.map(|reported| (name, reported)).or(*count);
        Ok(())
    }
}
