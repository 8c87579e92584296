//! What a choice of OpenAI's chat says: a part of a message, or a whole one.

use serde::de::MapAccess;

use super::tool_call::ToolCall;
use crate::meter::lenient::{FieldValue, Fields, SmallList, Text};
use crate::meter::report_builder::ReportBuilder;

/// A change of a message, or the message.
#[derive(Default)]
pub(super) struct ChatDelta<'de> {
    content: Text<'de>,
    parts: Vec<ChatPart<'de>>,
    refusal: Text<'de>,
    reasoning: Text<'de>,
    tools: SmallList<ToolCall<'de>>,
}

/// One part of a content that is a list.
#[derive(Default)]
struct ChatPart<'de> {
    kind: Text<'de>,
    text: Text<'de>,
    thinking: Vec<ChatPart<'de>>,
}

// === impl ChatDelta ===

impl ChatDelta<'_> {
    pub(super) fn read(&self, index: u32, report: &mut ReportBuilder) {
        if let Some(reasoning) = &self.reasoning {
            report.reasoning(reasoning);
        }
        if let Some(refusal) = &self.refusal {
            report.hidden(refusal);
        }
        if let Some(content) = &self.content {
            report.text(index, content);
        }
        for part in self.parts.iter() {
            part.read(index, report);
        }
        for tool in self.tools.iter() {
            report.tool_call(tool.arguments.as_deref().unwrap_or_default());
        }
    }
}

impl<'de> Fields<'de> for ChatDelta<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "content" => self.content = value.objects(&mut self.parts)?,
            "refusal" => self.refusal = value.text()?,
            // Some servers send both, one of them null or empty.
            "reasoning" | "reasoning_content" => {
                let reasoning = value.text()?.filter(|text| !text.is_empty());
                self.reasoning = reasoning.or(self.reasoning.take());
            }
            "tool_calls" => {
                value.objects(&mut self.tools)?;
            }
            "function_call" => {
                value.objects(&mut self.tools)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl ChatPart<'_> {
    fn read(&self, index: u32, report: &mut ReportBuilder) {
        let text = self.text.as_deref().unwrap_or_default();
        match self.kind.as_deref() {
            Some("text" | "output_text") | None => report.text(index, text),
            Some("thinking" | "reasoning") => {
                report.reasoning(text);
                for part in &self.thinking {
                    report.reasoning(part.text.as_deref().unwrap_or_default());
                }
            }
            Some(_) => report.hidden(text),
        }
    }
}

impl<'de> Fields<'de> for ChatPart<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "type" => self.kind = value.text()?,
            "text" => self.text = value.text()?,
            "thinking" => {
                let text = value.objects(&mut self.thinking)?;
                self.text = text.or(self.text.take());
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}
