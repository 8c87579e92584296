//! What an exchange used, in one normal form for all providers.

use std::fmt;
use std::str::FromStr;

use super::parse_error::ParseError;

/// The tokens of one exchange, as far as they are known.
///
/// Providers count differently; here one word means one thing. `None` means *not known*, which differs from zero: a
/// count is zero only if the provider reported zero. Each count is the last one that was reported. Counts are never
/// added up over a stream.
///
/// | field | holds |
/// |---|---|
/// | `input_tokens` | all input: what was read from a cache and written to one included |
/// | `output_tokens` | all output: reasoning included |
/// | `cached_input_tokens` | the part of the input that was read from a cache |
/// | `cache_write_input_tokens` | the part of the input that was written to a cache, where that is reported |
/// | `reasoning_tokens` | the part of the output that was spent on reasoning |
/// | `total_tokens` | as reported; otherwise input and output together |
///
/// The definitions are those of OpenTelemetry's `gen_ai.usage.*`. What a provider bills beyond them (server tools,
/// audio, a second model) stands only in [`raw`](Self::raw).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct Usage {
    /// All tokens of the input, cached ones included.
    pub input_tokens: Option<u64>,
    /// All tokens of the output, reasoning included.
    pub output_tokens: Option<u64>,
    /// Tokens of the input that were read from a cache.
    pub cached_input_tokens: Option<u64>,
    /// Tokens of the input that were written to a cache.
    pub cache_write_input_tokens: Option<u64>,
    /// Tokens of the output that were spent on reasoning.
    pub reasoning_tokens: Option<u64>,
    /// The total as reported, otherwise input and output together.
    pub total_tokens: Option<u64>,
    /// The basis of these counts.
    pub basis: UsageBasis,
    /// The JSON of the provider's own usage object, from which the counts were made.
    pub raw: Option<Box<str>>,
}

/// The basis of the counts of a [`Usage`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum UsageBasis {
    /// The protocol's final report was seen.
    Reported,
    /// The stream was cut after some counts had been reported. A final report would have replaced them.
    Partial,
    /// At least one count is an estimate. Counts that were reported stand as reported.
    Estimated,
    /// No count is known.
    #[default]
    Absent,
}

// === impl Usage ===

impl Usage {
    /// Whether any count is known.
    pub(crate) fn has_counts(&self) -> bool {
        let parts = [self.cached_input_tokens, self.cache_write_input_tokens, self.reasoning_tokens];
        let sums = [self.input_tokens, self.output_tokens, self.total_tokens];
        sums.into_iter().chain(parts).any(|count| count.is_some())
    }
}

// === impl UsageBasis ===

impl UsageBasis {
    /// The word for it in snake case, such as `reported`. `FromStr` reads it back.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Partial => "partial",
            Self::Estimated => "estimated",
            Self::Absent => "absent",
        }
    }
}

impl FromStr for UsageBasis {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let all = [Self::Reported, Self::Partial, Self::Estimated, Self::Absent];
        all.into_iter().find(|basis| basis.as_str() == text).ok_or_else(|| ParseError::new(text))
    }
}

impl fmt::Display for UsageBasis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basis_reads_back_from_its_word() {
        let all = [UsageBasis::Reported, UsageBasis::Partial, UsageBasis::Estimated, UsageBasis::Absent];
        for basis in all {
            assert_eq!(basis.as_str().parse(), Ok(basis));
        }
        let error = "guessed".parse::<UsageBasis>().unwrap_err();
        assert_eq!(error.to_string(), "unknown word: \"guessed\"");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn usage_reads_back_from_json() {
        let usage = Usage {
            input_tokens: Some(0),
            output_tokens: Some(u64::MAX),
            basis: UsageBasis::Partial,
            raw: Some("{\"a\":1}".into()),
            ..Usage::default()
        };
        let json = serde_json::to_value(&usage).unwrap();
        assert_eq!(json["basis"], UsageBasis::Partial.as_str());
        assert_eq!(serde_json::from_value::<Usage>(json).unwrap(), usage);
        assert_eq!(serde_json::from_str::<Usage>("{}").unwrap(), Usage::default(), "fields may be missing");
    }
}
