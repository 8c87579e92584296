//! What a meter found in a stream, apart from its counts.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::protocol::Protocol;

/// What a meter found in the response of a language model.
///
/// Times are measured from the moment when the stream was opened, as those of `StreamMetrics` are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct LlmReport {
    /// The protocol; `None` if it could not be detected. Then only event counts and an unmistakable error are known.
    pub protocol: Option<Protocol>,
    /// The provider, by OpenTelemetry's names (`openai`, `aws.bedrock`): as configured, or as the host shows beyond
    /// doubt.
    pub provider: Option<Cow<'static, str>>,
    /// The model that was asked for: the one in the request's body, if the layer captures requests, else the one in
    /// its path.
    pub request_model: Option<Box<str>>,
    /// The model that the response names.
    pub response_model: Option<Box<str>>,
    /// Why each choice ended, in the provider's own words. The last reason that was sent counts. Choices without a
    /// reason are left out; [`choices`](Self::choices) shows which reason belongs to which choice.
    pub finish_reasons: Vec<Box<str>>,
    /// The visible text of the first choice, as much of it as was kept. Reasoning, tool calls, refusals and results
    /// of server-side tools are not text.
    pub text: Option<Box<str>>,
    /// The length of the first choice's whole text in Unicode scalar values, kept or not. `None` if texts were
    /// skipped.
    pub text_len: Option<u64>,
    /// Every choice, by index.
    pub choices: Vec<LlmChoice>,
    /// Whether the protocol's own end was seen: `[DONE]`, `message_stop`, a final `response.*`. `None` if the
    /// protocol has none.
    pub terminated: Option<bool>,
    /// The error that the provider sent inside the stream.
    pub error: Option<InBandError>,
    /// Why the meter stopped before the stream's end, if it did. What came later is not in this report.
    pub incomplete: Option<Incomplete>,
    /// How many events of the protocol, or messages of gRPC, there were.
    pub events: u64,
    /// The bytes of their data, without the framing.
    pub event_bytes: u64,
    /// The bytes of the longest event.
    pub longest_event: u64,
    /// The time to the first event of the protocol, whatever it holds: a role, a ping.
    pub time_to_first_event: Option<Duration>,
    /// The time to the first text.
    pub time_to_first_text: Option<Duration>,
    /// The time to the first reasoning.
    pub time_to_first_reasoning: Option<Duration>,
    /// The time to the first part of a tool call.
    pub time_to_first_tool_call: Option<Duration>,
    /// How many events held text. `None` if texts were skipped.
    pub text_chunks: Option<u64>,
    /// The longest time between two successive events that held text.
    pub longest_text_gap: Option<Duration>,
}

/// One choice of a response that may have several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct LlmChoice {
    /// The provider's number for it, from 0.
    pub index: u32,
    /// Its visible text, as much of it as was kept.
    pub text: Option<Box<str>>,
    /// The length of its whole text in Unicode scalar values. `None` if texts were skipped.
    pub text_len: Option<u64>,
    /// Why it ended, in the provider's own word. The last reason that was sent counts.
    pub finish_reason: Option<Box<str>>,
}

/// An error that a provider sent inside a stream whose status says success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct InBandError {
    /// The provider's word or number for it: `overloaded_error`, `rate_limit_exceeded`, `503`.
    pub code: Option<Box<str>>,
    /// The provider's message.
    pub message: Box<str>,
    /// The JSON of the error as it was sent.
    pub raw: Option<Box<str>>,
}

/// Why a meter stopped. The stream itself went on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Incomplete {
    /// A line, message or element was longer than the meter may buffer.
    #[non_exhaustive]
    TooLong {
        /// The limit in bytes: see [`MeterSet::max_line`](crate::meter::MeterSet::max_line).
        limit: usize,
    },
    /// The framing or the content coding is broken: a checksum does not match, a length is out of bounds.
    Corrupt(Box<str>),
    /// The body has a `content-encoding` that this build cannot decompress.
    Encoded(Box<str>),
    /// The body decompresses to more than the meter may read.
    #[non_exhaustive]
    Expansion {
        /// The limit in bytes: see [`MeterSet::max_expanded`](crate::meter::MeterSet::max_expanded).
        limit: u64,
    },
    /// The memory budget had no room for the meter's buffers.
    Memory,
    /// The meter panicked.
    Panicked,
    /// The meter read what was captured, which is not the whole stream.
    NotCaptured,
}

// === impl LlmReport ===

impl LlmReport {
    /// The model: the response's, else the request's.
    pub fn model(&self) -> Option<&str> {
        self.response_model.as_deref().or(self.request_model.as_deref())
    }

    /// Why the first choice ended.
    pub fn finish_reason(&self) -> Option<&str> {
        let first = self.choices.iter().find(|choice| choice.index == 0)?;
        first.finish_reason.as_deref()
    }
}

// === impl InBandError ===

impl fmt::Display for InBandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.code {
            Some(code) => write!(f, "{code}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

// === impl Incomplete ===

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { limit } => write!(f, "a line is longer than {limit} bytes: raise `max_line`"),
            Self::Corrupt(what) => write!(f, "broken framing: {what}"),
            Self::Encoded(encoding) => {
                write!(f, "content-encoding {encoding} is not read: enable its feature, or do not accept it")
            }
            Self::Expansion { limit } => {
                write!(f, "the body unpacks to more than {limit} bytes: raise `max_expanded`")
            }
            Self::Memory => f.write_str("the memory budget had no room for the meter"),
            Self::Panicked => f.write_str("the meter panicked"),
            Self::NotCaptured => f.write_str("not all of the stream was captured"),
        }
    }
}

#[cfg(all(test, feature = "serde"))]
mod tests {
    use super::*;

    #[test]
    fn report_reads_back_from_json() {
        let reasons = [
            Incomplete::TooLong { limit: 1 },
            Incomplete::Corrupt("a checksum".into()),
            Incomplete::Encoded("br".into()),
            Incomplete::Expansion { limit: 2 },
            Incomplete::Memory,
            Incomplete::Panicked,
            Incomplete::NotCaptured,
        ];
        for incomplete in reasons {
            let report = LlmReport {
                protocol: Some(Protocol::OpenAiChat),
                provider: Some("openai".into()),
                choices: vec![LlmChoice { index: 1, text: Some("é".into()), ..LlmChoice::default() }],
                error: Some(InBandError { code: Some("503".into()), ..InBandError::default() }),
                incomplete: Some(incomplete),
                time_to_first_text: Some(Duration::from_nanos(1_000_000_001)),
                ..LlmReport::default()
            };
            let json = serde_json::to_string(&report).unwrap();
            assert_eq!(serde_json::from_str::<LlmReport>(&json).unwrap(), report, "{json}");
        }
        assert_eq!(serde_json::from_str::<LlmReport>("{}").unwrap(), LlmReport::default());
    }
}
