//! Amazon Bedrock: InvokeModelWithResponseStream around the models' own protocols.
//!
//! Each event wraps one of the model's own in base64. The last one also carries Amazon's counts, which are used for
//! models that report none themselves. The request's path names the model.

use std::mem;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use once_cell::sync::Lazy;
use serde::de::MapAccess;

use super::anthropic::Anthropic;
use super::bedrock::{BedrockConverse, ConverseCounts, ConverseEvent};
use super::key_filter::KeyFilter;
use super::openai_chat::OpenAiChat;
use super::provider_trait::Provider;
use crate::meter::lenient::{FieldValue, Fields, Json, Text, get};
use crate::meter::report_builder::ReportBuilder;
use crate::meter::usage::Usage;

/// Reads events of InvokeModelWithResponseStream, and whole responses of InvokeModel.
#[derive(Debug)]
pub(super) struct BedrockInvoke {
    claude: Anthropic,
    nova: BedrockConverse,
    chat: OpenAiChat,
    counts: ModelCounts,
    is_terminated: bool,
    event: Vec<u8>,
}

/// The `chunk` event of InvokeModel.
#[derive(Default)]
struct InvokeChunk<'de> {
    bytes: Text<'de>,
}

/// An event of a model that has no file of its own.
#[derive(Default)]
struct ModelEvent<'de> {
    kind: Text<'de>,
    /// Titan, Llama, old Claude, Cohere.
    text: Text<'de>,
    /// Mistral.
    outputs: Vec<ModelOutput<'de>>,
    /// OpenAI's protocol, which DeepSeek, Jamba and Mistral's newer models use, too.
    choices: Option<Vec<ModelChoice<'de>>>,
    stop_reason: Text<'de>,
    metrics: Option<&'de str>,
    nova: ConverseEvent<'de>,
    counts: ModelCounts,
}

#[derive(Default)]
struct ModelOutput<'de> {
    text: Text<'de>,
    stop_reason: Text<'de>,
    /// A whole response of Titan.
    tokens: Option<u64>,
}

/// A choice. Bedrock has its own word for the reason.
#[derive(Default)]
struct ModelChoice<'de> {
    index: u32,
    stop_reason: Text<'de>,
    finish_reason: Text<'de>,
}

/// The last counts of Titan and Llama, with their names.
#[derive(Debug, Default)]
struct ModelCounts {
    input: Option<(&'static str, u64)>,
    output: Option<(&'static str, u64)>,
}

static FILTER: Lazy<KeyFilter> = Lazy::new(|| {
    let reasons = ["stop_reason", "stopReason", "completionReason", "finish_reason"];
    let counts = ["usage", "Metrics", "oken_count", "okenCount", "error"];
    KeyFilter::new(&[&reasons[..], &counts, &["choices"]].concat())
        .text(&["text", "outputText", "generation", "completion"])
        .reasoning(&["thinking", "reasoningContent"])
        .tool_call(&["content_block", "partial_json", "toolUse"])
        .string_ends(&["message_start", "message_delta", "message_stop", "message"])
});

// === impl BedrockInvoke ===

impl BedrockInvoke {
    pub(super) fn new() -> Self {
        Self {
            claude: Anthropic::default(),
            nova: BedrockConverse::default(),
            // DeepSeek's text stands in the choice itself.
            chat: OpenAiChat::legacy(),
            counts: ModelCounts::default(),
            is_terminated: false,
            event: Vec::new(),
        }
    }

    /// Reads the model's own event.
    fn model_event(&mut self, data: &[u8], report: &mut ReportBuilder) {
        if !FILTER.may_match(data, report) {
            return;
        }
        let json = Json::of(data);
        let mut event = ModelEvent { counts: mem::take(&mut self.counts), ..ModelEvent::default() };
        let is_read = json.read(&mut event);
        self.counts = event.counts;
        if !is_read {
            return;
        }
        if let Some(choices) = &event.choices {
            self.chat.event(b"", data, report);
            choices.iter().for_each(|choice| choice.read(report));
        } else if event.kind.is_some() {
            self.claude.event(b"", data, report);
        } else {
            self.nova.read(&event.nova, report);
        }
        report.text(0, event.text.as_deref().unwrap_or_default());
        for output in &event.outputs {
            report.text(0, output.text.as_deref().unwrap_or_default());
            self.counts.whole(output.tokens);
        }
        let reasons = event.outputs.iter().map(|output| &output.stop_reason).chain([&event.stop_reason]);
        for reason in reasons.flatten() {
            report.finish_reason(0, reason);
        }
        if let Some((usage, raw)) = self.counts.normal_form() {
            report.usage(usage, &raw);
        }
        if let Some(metrics) = event.metrics {
            self.metrics(metrics, report);
        }
    }

    /// Reads Amazon's own counts, which stand in the last event.
    fn metrics(&mut self, raw: &str, report: &mut ReportBuilder) {
        self.is_terminated = true;
        if !report.has_usage()
            && let Some(metrics) = get::<ConverseCounts>(raw)
        {
            report.usage(metrics.normal_form(), raw);
        }
        report.usage_is_final();
    }
}

impl Provider for BedrockInvoke {
    fn event(&mut self, _name: &[u8], data: &[u8], report: &mut ReportBuilder) {
        let json = Json::of(data);
        let Some(bytes) = json.get::<InvokeChunk<'_>>().and_then(|wrapped| wrapped.bytes) else {
            return;
        };
        let mut event = mem::take(&mut self.event);
        event.clear();
        if STANDARD.decode_vec(&*bytes, &mut event).is_ok() {
            self.model_event(&event, report);
        }
        self.event = event;
    }

    /// A whole response has the model's own form.
    fn value(&mut self, data: &[u8], report: &mut ReportBuilder) {
        self.model_event(data, report);
        if report.is_finished() {
            self.is_terminated = true;
            report.usage_is_final();
        }
    }

    fn buffered(&self) -> usize {
        self.event.capacity()
    }

    fn is_terminated(&self) -> Option<bool> {
        Some(self.is_terminated || self.claude.is_terminated() == Some(true))
    }
}

// === impl ModelEvent ===

impl<'de> Fields<'de> for InvokeChunk<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "bytes" => self.bytes = value.text()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for ModelEvent<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "type" => self.kind = value.text()?,
            "outputText" | "generation" | "completion" | "text" => self.text = value.text()?,
            "choices" => {
                let choices = self.choices.get_or_insert_default();
                value.objects(choices)?;
            }
            "outputs" | "results" | "generations" => {
                value.objects(&mut self.outputs)?;
            }
            "completionReason" | "stop_reason" | "finish_reason" => self.stop_reason = value.text()?,
            "amazon-bedrock-invocationMetrics" => self.metrics = value.raw()?,
            "contentBlockDelta" | "contentBlockStart" | "messageStop" | "metadata" => {
                value.object(&mut self.nova)?;
            }
            // Whole responses of Nova have Converse's fields at the top. Claude's are read by their type.
            "output" | "stopReason" | "usage" => self.nova.field(key, value)?,
            _ => self.counts.field(key, value)?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for ModelOutput<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "text" | "outputText" => self.text = value.text()?,
            "stop_reason" | "completionReason" | "finish_reason" => self.stop_reason = value.text()?,
            "tokenCount" => self.tokens = value.count()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl ModelChoice<'_> {
    fn read(&self, report: &mut ReportBuilder) {
        if let Some(reason) = self.finish_reason.as_ref().or(self.stop_reason.as_ref()) {
            report.finish_reason(self.index, reason);
        }
    }
}

impl<'de> Fields<'de> for ModelChoice<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "index" => self.index = value.index()?,
            "stop_reason" => self.stop_reason = value.text()?,
            "finish_reason" => self.finish_reason = value.text()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl ModelCounts {
    /// Adds the output count of a whole response of Titan.
    fn whole(&mut self, output: Option<u64>) {
        self.output = output.map(|count| ("tokenCount", count)).or(self.output);
    }

    /// The counts, and an object made of them: the event has no object of its own for them.
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
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
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
