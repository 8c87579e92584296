//! The provider of each protocol.

use super::anthropic::Anthropic;
use super::bedrock::BedrockConverse;
use super::bedrock_invoke::BedrockInvoke;
use super::cohere::{CohereV1, CohereV2};
use super::gemini::Gemini;
use super::ollama::Ollama;
use super::openai_chat::OpenAiChat;
use super::openai_responses::OpenAiResponses;
use super::provider_trait::Provider;
use crate::meter::protocol::Protocol;

/// The provider that reads a protocol's events; `None` for protocols without events.
pub(crate) fn provider_for(protocol: &Protocol) -> Option<Box<dyn Provider>> {
    Some(match protocol {
        Protocol::OpenAiChat | Protocol::MistralChat => Box::new(OpenAiChat::default()),
        Protocol::OpenAiCompletions => Box::new(OpenAiChat::legacy()),
        Protocol::OpenAiResponses => Box::new(OpenAiResponses::default()),
        Protocol::AnthropicMessages => Box::new(Anthropic::default()),
        Protocol::GeminiSse | Protocol::GeminiJsonArray => Box::new(Gemini::default()),
        Protocol::BedrockConverse => Box::new(BedrockConverse::default()),
        Protocol::BedrockInvoke => Box::new(BedrockInvoke::new()),
        Protocol::CohereV1 => Box::new(CohereV1::default()),
        Protocol::CohereV2 => Box::new(CohereV2::default()),
        Protocol::OllamaChat | Protocol::OllamaGenerate => Box::new(Ollama::default()),
        Protocol::Grpc | Protocol::Other(_) => return None,
    })
}
