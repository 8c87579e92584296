//! What the first events of a stream show of its protocol.

use serde::de::MapAccess;

use crate::meter::lenient::{FieldValue, Fields, SmallList, Text};
use crate::meter::protocol::Protocol;
use crate::meter::provider::is_error;

/// What an event shows of its protocol.
#[derive(Default)]
pub(super) struct Signature<'de> {
    kind: Text<'de>,
    object: Text<'de>,
    id: Text<'de>,
    choice: ChoiceKind,
    is_gemini: bool,
    has_event_type: bool,
    has_done: bool,
    has_message: bool,
    has_response_text: bool,
    has_text: bool,
    has_content: bool,
    has_generation_id: bool,
    has_finish_reason: bool,
    has_output: bool,
    has_stop_reason: bool,
    /// A field that Mistral does not send.
    is_foreign: bool,
    pub(super) error: Option<&'de str>,
}

/// What the choices of OpenAI's protocols hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChoiceKind {
    #[default]
    Unknown,
    Chat,
    Text,
}

/// Skips all fields.
struct AnyFields;

// === impl Signature ===

impl Signature<'_> {
    /// Whether this is an error of any protocol.
    pub(super) fn is_error(&self) -> bool {
        let says_so = [&self.kind, &self.object].into_iter().any(|word| word.as_deref() == Some("error"));
        says_so || self.error.is_some()
    }

    /// The protocol of a server-sent event, a line, or a whole response. `in_events` says that it is a server-sent
    /// event.
    pub(super) fn protocol(&self, in_events: bool) -> Option<Protocol> {
        self.by_kind().or_else(|| self.by_object()).or_else(|| self.by_fields(in_events))
    }

    fn by_kind(&self) -> Option<Protocol> {
        match self.kind.as_deref()? {
            "message_start" | "message_delta" | "message_stop" => Some(Protocol::AnthropicMessages),
            "content_block_start" | "content_block_delta" | "content_block_stop" => {
                Some(Protocol::AnthropicMessages)
            }
            "message" if self.has_content => Some(Protocol::AnthropicMessages),
            "message-start" | "message-end" | "content-start" | "content-delta" | "content-end" => {
                Some(Protocol::CohereV2)
            }
            "tool-plan-delta" | "tool-call-start" | "tool-call-delta" => Some(Protocol::CohereV2),
            kind => kind.starts_with("response.").then_some(Protocol::OpenAiResponses),
        }
    }

    fn by_object(&self) -> Option<Protocol> {
        match self.object.as_deref()? {
            "chat.completion.chunk" | "chat.completion" => Some(self.chat()),
            "text_completion" => Some(Protocol::OpenAiCompletions),
            "response" => Some(Protocol::OpenAiResponses),
            _ => None,
        }
    }

    fn by_fields(&self, in_events: bool) -> Option<Protocol> {
        match self.choice {
            ChoiceKind::Chat => return Some(self.chat()),
            ChoiceKind::Text => return Some(Protocol::OpenAiCompletions),
            ChoiceKind::Unknown => {}
        }
        if self.is_gemini {
            return Some(if in_events { Protocol::GeminiSse } else { Protocol::GeminiJsonArray });
        }
        if self.has_done {
            let generate = self.has_response_text.then_some(Protocol::OllamaGenerate);
            return if self.has_message { Some(Protocol::OllamaChat) } else { generate };
        }
        if self.has_event_type || (self.has_text && self.has_generation_id) {
            return Some(Protocol::CohereV1);
        }
        if self.has_message && self.has_finish_reason {
            return Some(Protocol::CohereV2);
        }
        (self.has_output && self.has_stop_reason).then_some(Protocol::BedrockConverse)
    }

    /// Mistral's API uses OpenAI's protocol. Its chunks have a bare UUID for an id, and no fields but padding beyond
    /// those that every server sends.
    fn chat(&self) -> Protocol {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_bare = self.id.as_deref().is_some_and(|id| id.len() == 32 && id.bytes().all(is_digit));
        if is_bare && !self.is_foreign { Protocol::MistralChat } else { Protocol::OpenAiChat }
    }
}

/// Whether this names an event of Cohere's version 1. Other protocols use the same field for other names.
fn is_cohere_v1(kind: &str) -> bool {
    match kind {
        "stream-start" | "stream-end" | "text-generation" | "citation-generation" | "debug" => true,
        "search-queries-generation" | "search-results" => true,
        kind => kind.starts_with("tool-calls-"),
    }
}

impl<'de> Fields<'de> for Signature<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "type" => self.kind = value.text()?,
            "object" => self.object = value.text()?,
            "id" => self.id = value.text()?,
            "choices" => {
                let mut choices = SmallList::default();
                value.objects(&mut choices)?;
                self.choice = choices.first().copied().unwrap_or_default();
            }
            "candidates" | "usageMetadata" | "promptFeedback" => {
                self.is_gemini = true;
                value.skip()?;
            }
            "response" => {
                let mut wrapped = SmallList::<ProxyWrapper>::default();
                self.has_response_text = value.objects(&mut wrapped)?.is_some();
                self.is_gemini |= wrapped.first().is_some_and(|wrapped| wrapped.is_gemini);
            }
            "event_type" => self.has_event_type = value.text()?.as_deref().is_some_and(is_cohere_v1),
            "done" => self.has_done = value.flag()?.is_some(),
            "message" => self.has_message = value.object(&mut AnyFields)?,
            "text" => self.has_text = value.text()?.is_some(),
            "content" => self.has_content = value.raw()?.is_some_and(|content| content.starts_with('[')),
            "generation_id" => self.has_generation_id = value.text()?.is_some(),
            "finish_reason" => self.has_finish_reason = value.text()?.is_some(),
            "output" => self.has_output = value.object(&mut AnyFields)?,
            "stopReason" => self.has_stop_reason = value.text()?.is_some(),
            "error" => self.error = value.raw()?.filter(is_error),
            "created" | "model" | "p" => value.skip()?,
            "usage" => self.is_foreign |= value.raw()?.is_none(),
            _ => {
                self.is_foreign = true;
                value.skip()?;
            }
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for ChoiceKind {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "delta" | "message" => *self = Self::Chat,
            // Some chat servers send it beside the delta.
            "text" if *self == Self::Unknown => *self = Self::Text,
            _ => {}
        }
        value.skip()
    }
}

/// The object that some proxies put around every chunk of Gemini's.
#[derive(Default)]
struct ProxyWrapper {
    is_gemini: bool,
}

impl<'de> Fields<'de> for ProxyWrapper {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        self.is_gemini |= matches!(key, "candidates" | "usageMetadata" | "promptFeedback");
        value.skip()
    }
}

impl<'de> Fields<'de> for AnyFields {
    fn field<A: MapAccess<'de>>(
        &mut self,
        _key: &str,
        value: FieldValue<'_, 'de, A>,
    ) -> Result<(), A::Error> {
        value.skip()
    }
}
