//! The protocols that meters read.

use std::borrow::Cow;
use std::fmt;

/// A streaming protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// OpenAI Chat Completions, and the many servers that speak it.
    OpenAiChat,
    /// OpenAI Completions, the older protocol.
    OpenAiCompletions,
    /// OpenAI Responses.
    OpenAiResponses,
    /// Anthropic Messages.
    AnthropicMessages,
    /// Gemini `streamGenerateContent` with `alt=sse`.
    GeminiSse,
    /// Gemini `streamGenerateContent`, one JSON array.
    GeminiJsonArray,
    /// Amazon Bedrock `ConverseStream`.
    BedrockConverse,
    /// Amazon Bedrock `InvokeModelWithResponseStream`, whatever the model's own protocol is.
    BedrockInvoke,
    /// Mistral's chat: OpenAI's protocol in Mistral's dialect.
    MistralChat,
    /// Cohere's chat, version 1.
    CohereV1,
    /// Cohere's chat, version 2.
    CohereV2,
    /// Ollama `/api/chat`.
    OllamaChat,
    /// Ollama `/api/generate`.
    OllamaGenerate,
    /// gRPC: messages are counted, not read.
    Grpc,
    /// A protocol of a meter of the user's own.
    Other(Cow<'static, str>),
}

// === impl Protocol ===

impl Protocol {
    /// The protocol in snake case, as in `openai_chat`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::OpenAiChat => "openai_chat",
            Self::OpenAiCompletions => "openai_completions",
            Self::OpenAiResponses => "openai_responses",
            Self::AnthropicMessages => "anthropic_messages",
            Self::GeminiSse => "gemini_sse",
            Self::GeminiJsonArray => "gemini_json_array",
            Self::BedrockConverse => "bedrock_converse",
            Self::BedrockInvoke => "bedrock_invoke",
            Self::MistralChat => "mistral_chat",
            Self::CohereV1 => "cohere_v1",
            Self::CohereV2 => "cohere_v2",
            Self::OllamaChat => "ollama_chat",
            Self::OllamaGenerate => "ollama_generate",
            Self::Grpc => "grpc",
            Self::Other(name) => name,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
