//! Which protocol a stream speaks.
//!
//! Content types do not tell: events come as `application/json`, arrays of JSON as such, and much without any
//! type. So the first byte tells the framing, with the content type's help where it is ambiguous, and the first
//! event that is unmistakable tells the protocol. The path helps with events that could be of any (an error, a
//! ping). What stays ambiguous is unknown.

use http::Uri;
use percent_encoding::percent_decode_str;
use serde::de::MapAccess;

use super::anthropic::Anthropic;
use super::bedrock::Converse;
use super::bedrock_invoke::Invoke;
use super::cohere::{CohereV1, CohereV2};
use super::dialect::{Dialect, is_error};
use super::fields::{Few, Fields, Text, Value};
use super::gemini::Gemini;
use super::ollama::Ollama;
use super::openai_chat::OpenAiChat;
use super::openai_responses::OpenAiResponses;
use crate::meter::report::Protocol;

/// The reader of a protocol's events; `None` for protocols without any.
pub(super) fn dialect(protocol: &Protocol) -> Option<Box<dyn Dialect>> {
    Some(match protocol {
        Protocol::OpenAiChat | Protocol::MistralChat => Box::new(OpenAiChat::default()),
        Protocol::OpenAiCompletions => Box::new(OpenAiChat::legacy()),
        Protocol::OpenAiResponses => Box::new(OpenAiResponses::default()),
        Protocol::AnthropicMessages => Box::new(Anthropic::default()),
        Protocol::GeminiSse | Protocol::GeminiJsonArray => Box::new(Gemini::default()),
        Protocol::BedrockConverse => Box::new(Converse::default()),
        Protocol::BedrockInvoke => Box::new(Invoke::new()),
        Protocol::CohereV1 => Box::new(CohereV1::default()),
        Protocol::CohereV2 => Box::new(CohereV2::default()),
        Protocol::OllamaChat | Protocol::OllamaGenerate => Box::new(Ollama::default()),
        Protocol::Grpc | Protocol::Other(_) => return None,
    })
}

/// What a request's path says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) protocol: Option<Protocol>,
    pub(super) model: Option<Box<str>>,
}

impl Hint {
    pub(super) fn of(uri: &Uri) -> Self {
        let path = uri.path();
        let decoded = |segment: &str| Some(percent_decode_str(segment).decode_utf8().ok()?.as_ref().into());
        if let Some((model, action)) = after(path, "/model/").and_then(|rest| rest.rsplit_once('/')) {
            let protocol = match action {
                "converse" | "converse-stream" => Some(Protocol::BedrockConverse),
                "invoke" | "invoke-with-response-stream" => Some(Protocol::BedrockInvoke),
                _ => None,
            };
            let model = decoded(model).filter(|_| protocol.is_some());
            return Self { protocol, model };
        }
        if let Some((model, action)) = after(path, "/models/").and_then(|rest| rest.rsplit_once(':')) {
            let query = uri.query().unwrap_or_default();
            let protocol = match action {
                "streamGenerateContent" if !query.split('&').any(|pair| pair == "alt=sse") => {
                    Some(Protocol::GeminiJsonArray)
                }
                "streamGenerateContent" => Some(Protocol::GeminiSse),
                "generateContent" => Some(Protocol::GeminiJsonArray),
                // Claude on Vertex.
                "streamRawPredict" | "rawPredict" => Some(Protocol::AnthropicMessages),
                _ => None,
            };
            let model = decoded(model).filter(|_| protocol.is_some());
            return Self { protocol, model };
        }
        // Azure names a deployment where others name the model.
        let deployment = after(path, "/deployments/").and_then(|rest| rest.split('/').next());
        Self { protocol: by_suffix(path), model: deployment.and_then(decoded) }
    }
}

fn after<'a>(path: &'a str, marker: &str) -> Option<&'a str> {
    path.split_once(marker).map(|(_, rest)| rest)
}

fn by_suffix(path: &str) -> Option<Protocol> {
    let endpoints = [
        ("/chat/completions", Protocol::OpenAiChat),
        ("/completions", Protocol::OpenAiCompletions),
        ("/responses", Protocol::OpenAiResponses),
        ("/messages", Protocol::AnthropicMessages),
        ("/v2/chat", Protocol::CohereV2),
        ("/v1/chat", Protocol::CohereV1),
        ("/api/chat", Protocol::OllamaChat),
        ("/api/generate", Protocol::OllamaGenerate),
    ];
    let path = path.trim_end_matches('/');
    endpoints.into_iter().find_map(|(suffix, protocol)| path.ends_with(suffix).then_some(protocol))
}

/// Who serves the host, by OpenTelemetry's names, where the name leaves no doubt.
pub(super) fn provider(host: &str) -> Option<&'static str> {
    const HOSTS: [(&str, &str); 18] = [
        ("api.openai.com", "openai"),
        (".openai.azure.com", "azure.ai.openai"),
        (".services.ai.azure.com", "azure.ai.inference"),
        (".models.ai.azure.com", "azure.ai.inference"),
        ("api.anthropic.com", "anthropic"),
        ("generativelanguage.googleapis.com", "gcp.gemini"),
        ("aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("-aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("api.cohere.com", "cohere"),
        ("api.cohere.ai", "cohere"),
        ("api.mistral.ai", "mistral_ai"),
        ("api.groq.com", "groq"),
        ("api.deepseek.com", "deepseek"),
        ("api.x.ai", "x_ai"),
        ("api.perplexity.ai", "perplexity"),
        ("api.moonshot.ai", "moonshot_ai"),
        ("api.moonshot.cn", "moonshot_ai"),
        (".ml.cloud.ibm.com", "ibm.watsonx.ai"),
    ];
    let is_bedrock = host.starts_with("bedrock-runtime.") && host.ends_with(".amazonaws.com");
    let known = HOSTS.into_iter().find(|(name, _)| match name.starts_with(['.', '-']) {
        true => host.ends_with(name),
        false => host == *name,
    });
    if is_bedrock { Some("aws.bedrock") } else { known.map(|(_, provider)| provider) }
}

/// What an event shows of its protocol.
#[derive(Default)]
pub(super) struct Signature<'de> {
    kind: Text<'de>,
    object: Text<'de>,
    id: Text<'de>,
    choice: Choice,
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
enum Choice {
    #[default]
    Unknown,
    Chat,
    Text,
}

/// Passes over all fields.
struct Anything;

// === impl Signature ===

impl Signature<'_> {
    /// Whether this is an error, of whichever protocol.
    pub(super) fn is_error(&self) -> bool {
        let says_so = [&self.kind, &self.object].into_iter().any(|word| word.as_deref() == Some("error"));
        says_so || self.error.is_some()
    }

    /// The protocol of a server-sent event, a line, or a whole answer; `in_events` says that it is the first.
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
            Choice::Chat => return Some(self.chat()),
            Choice::Text => return Some(Protocol::OpenAiCompletions),
            Choice::Unknown => {}
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

    /// Mistral's API speaks OpenAI's protocol; its chunks have a bare UUID for an id, and no field beyond the
    /// ones that every server sends but its padding.
    fn chat(&self) -> Protocol {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_bare = self.id.as_deref().is_some_and(|id| id.len() == 32 && id.bytes().all(is_digit));
        if is_bare && !self.is_foreign { Protocol::MistralChat } else { Protocol::OpenAiChat }
    }
}

/// The events of Cohere's version 1: others name theirs by the same field.
fn is_cohere_v1(kind: &str) -> bool {
    match kind {
        "stream-start" | "stream-end" | "text-generation" | "citation-generation" | "debug" => true,
        "search-queries-generation" | "search-results" => true,
        kind => kind.starts_with("tool-calls-"),
    }
}

impl<'de> Fields<'de> for Signature<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "type" => self.kind = value.text()?,
            "object" => self.object = value.text()?,
            "id" => self.id = value.text()?,
            "choices" => {
                let mut choices = Few::default();
                value.objects(&mut choices)?;
                self.choice = choices.first().copied().unwrap_or_default();
            }
            "candidates" | "usageMetadata" | "promptFeedback" => {
                self.is_gemini = true;
                value.skip()?;
            }
            "response" => {
                let mut wrapped = Few::<Wrapped>::default();
                self.has_response_text = value.objects(&mut wrapped)?.is_some();
                self.is_gemini |= wrapped.first().is_some_and(|wrapped| wrapped.is_gemini);
            }
            "event_type" => self.has_event_type = value.text()?.as_deref().is_some_and(is_cohere_v1),
            "done" => self.has_done = value.flag()?.is_some(),
            "message" => self.has_message = value.object(&mut Anything)?,
            "text" => self.has_text = value.text()?.is_some(),
            "content" => self.has_content = value.raw()?.is_some_and(|content| content.starts_with('[')),
            "generation_id" => self.has_generation_id = value.text()?.is_some(),
            "finish_reason" => self.has_finish_reason = value.text()?.is_some(),
            "output" => self.has_output = value.object(&mut Anything)?,
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

impl<'de> Fields<'de> for Choice {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "delta" | "message" => *self = Self::Chat,
            // Some chat servers send it beside the delta.
            "text" if *self == Self::Unknown => *self = Self::Text,
            _ => {}
        }
        value.skip()
    }
}

/// What some proxies put around every chunk of Gemini's.
#[derive(Default)]
struct Wrapped {
    is_gemini: bool,
}

impl<'de> Fields<'de> for Wrapped {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        self.is_gemini |= matches!(key, "candidates" | "usageMetadata" | "promptFeedback");
        value.skip()
    }
}

impl<'de> Fields<'de> for Anything {
    fn field<A: MapAccess<'de>>(&mut self, _key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        value.skip()
    }
}
