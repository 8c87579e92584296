//! What the path of a request says about the response.

use http::Uri;
use percent_encoding::percent_decode_str;

use crate::meter::protocol::Protocol;

/// What a request's path says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PathHint {
    pub(crate) protocol: Option<Protocol>,
    pub(crate) model: Option<Box<str>>,
}

impl PathHint {
    pub(crate) fn of(uri: &Uri) -> Self {
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
