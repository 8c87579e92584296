//! Tool calls, as several providers send them.

use serde::de::MapAccess;

use crate::meter::lenient::{FieldValue, Fields, Text};

/// A tool call, as OpenAI and Cohere send it, or the function inside it.
#[derive(Default)]
pub(super) struct ToolCall<'de> {
    pub(super) arguments: Text<'de>,
}

impl<'de> Fields<'de> for ToolCall<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
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
