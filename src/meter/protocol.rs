//! The protocols that meters read.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use super::parse_error::ParseError;

/// The protocol of a stream.
///
/// With the feature `serde`, a built-in protocol serialises as its word. Any other one serialises as `{"other":
/// name}`, which reads back as `Other` whatever the name is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Protocol {
    /// OpenAI Chat Completions, and the many servers that speak it.
    #[cfg_attr(feature = "serde", serde(rename = "openai_chat"))]
    OpenAiChat,
    /// OpenAI Completions, the older protocol.
    #[cfg_attr(feature = "serde", serde(rename = "openai_completions"))]
    OpenAiCompletions,
    /// OpenAI Responses.
    #[cfg_attr(feature = "serde", serde(rename = "openai_responses"))]
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
    /// Mistral's chat, a variant of OpenAI's protocol.
    MistralChat,
    /// Cohere's chat, version 1.
    CohereV1,
    /// Cohere's chat, version 2.
    CohereV2,
    /// Ollama `/api/chat`.
    OllamaChat,
    /// Ollama `/api/generate`.
    OllamaGenerate,
    /// gRPC, whose messages are counted and not read.
    Grpc,
    /// The protocol of a user's own meter, by its name.
    Other(Cow<'static, str>),
}

// === impl Protocol ===

impl Protocol {
    /// The protocols that the built-in meters know.
    const BUILT_IN: [Self; 14] = [
        Self::OpenAiChat,
        Self::OpenAiCompletions,
        Self::OpenAiResponses,
        Self::AnthropicMessages,
        Self::GeminiSse,
        Self::GeminiJsonArray,
        Self::BedrockConverse,
        Self::BedrockInvoke,
        Self::MistralChat,
        Self::CohereV1,
        Self::CohereV2,
        Self::OllamaChat,
        Self::OllamaGenerate,
        Self::Grpc,
    ];

    /// The word for it in snake case, such as `openai_chat`. `FromStr` reads it back.
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

/// Reads the word for a built-in protocol, or any other name as [`Other`](Protocol::Other).
impl FromStr for Protocol {
    type Err = ParseError;

    /// # Errors
    ///
    /// An empty text names no protocol.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.is_empty() {
            return Err(ParseError::new(text));
        }
        let built_in = Self::BUILT_IN.into_iter().find(|protocol| protocol.as_str() == text);
        Ok(built_in.unwrap_or_else(|| Self::Other(text.to_owned().into())))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_reads_back_from_its_word() {
        let other = Protocol::Other("lines".into());
        for protocol in Protocol::BUILT_IN.into_iter().chain([other]) {
            assert_eq!(protocol.as_str().parse(), Ok(protocol.clone()));
        }
        assert!("".parse::<Protocol>().is_err());
    }

    #[cfg(feature = "serde")]
    #[test]
    fn protocol_serialises_as_its_word() {
        for protocol in Protocol::BUILT_IN {
            let json = serde_json::to_value(&protocol).unwrap();
            assert_eq!(json, protocol.as_str());
            assert_eq!(serde_json::from_value::<Protocol>(json).unwrap(), protocol);
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn other_protocol_keeps_any_name() {
        for name in ["lines", "grpc", ""] {
            let protocol = Protocol::Other(name.into());
            let json = serde_json::to_string(&protocol).unwrap();
            assert_eq!(serde_json::from_str::<Protocol>(&json).unwrap(), protocol, "{json}");
        }
    }
}
