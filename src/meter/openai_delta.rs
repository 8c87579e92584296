//! What a choice of OpenAI's chat says: a part of a message, or a whole one.

use serde::de::MapAccess;

use super::Reading;
use super::dialect::Tool;
use super::fields::{Few, Fields, Text, Value};

/// A change of a message, or the message.
#[derive(Default)]
pub(super) struct Delta<'de> {
    content: Text<'de>,
    parts: Vec<Part<'de>>,
    refusal: Text<'de>,
    reasoning: Text<'de>,
    tools: Few<Tool<'de>>,
}

/// A part of a content that is a list.
#[derive(Default)]
struct Part<'de> {
    kind: Text<'de>,
    text: Text<'de>,
    thinking: Vec<Part<'de>>,
}

// === impl Delta ===

impl Delta<'_> {
    pub(super) fn read(&self, index: u32, reading: &mut Reading) {
        if let Some(reasoning) = &self.reasoning {
            reading.reasoning(reasoning);
        }
        if let Some(refusal) = &self.refusal {
            reading.hidden(refusal);
        }
        if let Some(content) = &self.content {
            reading.text(index, content);
        }
        for part in self.parts.iter() {
            part.read(index, reading);
        }
        for tool in self.tools.iter() {
            reading.tool_call(tool.arguments.as_deref().unwrap_or_default());
        }
    }
}

impl<'de> Fields<'de> for Delta<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
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
                let text = value.objects(&mut self.thinking)?;
                self.text = text.or(self.text.take());
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}
