//! A request's JSON body, read field by field, so that an error names the field as the real APIs do.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::text;
use crate::errors::Problem;

/// How long answers are when the request does not say.
const DEFAULT_WORDS: u64 = 64;

/// The longest answer: real models have such a limit, and it bounds the memory of one request.
const MAX_WORDS: u64 = 1_000_000;

/// The fields of a request.
pub(super) struct Input(Map<String, Value>);

/// How long the answer is.
#[derive(Clone, Copy)]
pub(super) struct Length {
    pub(super) words: u64,
    /// The limit that the request set, which then is why the answer ends.
    pub(super) limit: Option<u64>,
}

// === impl Input ===

impl Input {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Problem> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(invalid(None, "The request's body is not a JSON object.".into())),
            Err(error) => Err(invalid(None, format!("The request's body is not valid JSON: {error}."))),
        }
    }

    /// The field, unless it is absent or null.
    pub(super) fn optional<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, Problem> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match T::deserialize(value) {
                Ok(value) => Ok(Some(value)),
                Err(error) => Err(invalid(Some(name), format!("Invalid value for '{name}': {error}."))),
            },
        }
    }

    pub(super) fn required<T: DeserializeOwned>(&self, name: &'static str) -> Result<T, Problem> {
        let missing = || invalid(Some(name), format!("Missing required parameter: '{name}'."));
        self.optional(name)?.ok_or_else(missing)
    }

    /// Whether the answer is a stream.
    pub(super) fn stream(&self) -> Result<bool, Problem> {
        Ok(self.optional("stream")?.unwrap_or(false))
    }

    /// Whether `stream_options.include_usage` asks for the counts.
    pub(super) fn include_usage(&self) -> Result<bool, Problem> {
        let options: Option<Map<String, Value>> = self.optional("stream_options")?;
        match options.as_ref().and_then(|options| options.get("include_usage")) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(wanted)) => Ok(*wanted),
            Some(_) => {
                let message = "Invalid value for 'stream_options.include_usage': expected a boolean.".into();
                Err(invalid(Some("stream_options.include_usage"), message))
            }
        }
    }

    /// Refuses more than one choice, rather than to send fewer than were asked for.
    pub(super) fn one_choice(&self) -> Result<(), Problem> {
        match self.optional::<u64>("n")? {
            None | Some(1) => Ok(()),
            Some(_) => Err(invalid(Some("n"), "Invalid value for 'n': only 1 is served here.".into())),
        }
    }

    /// The length that the first of the fields `names` that is there asks for.
    pub(super) fn length(&self, names: &[&'static str]) -> Result<Length, Problem> {
        for name in names {
            if let Some(words) = self.optional::<Value>(name)? {
                let words =
                    words.as_u64().filter(|words| (1..=MAX_WORDS).contains(words)).ok_or_else(|| {
                        let message = format!(
                            "Invalid value for '{name}': expected a whole number from 1 to {MAX_WORDS}."
                        );
                        invalid(Some(name), message)
                    })?;
                return Ok(Length { words, limit: Some(words) });
            }
        }
        Ok(Length { words: DEFAULT_WORDS, limit: None })
    }

    /// About as many tokens as the fields `names` hold words.
    pub(super) fn tokens(&self, names: &[&str]) -> u64 {
        names.iter().filter_map(|name| self.0.get(*name)).map(text::count).sum()
    }
}

// === impl Length ===

impl Length {
    /// Why the answer ends, in the protocol's words.
    pub(super) fn reason(self, finished: &'static str, cut: &'static str) -> &'static str {
        if self.limit.is_some() { cut } else { finished }
    }
}

fn invalid(param: Option<&'static str>, message: String) -> Problem {
    Problem::Invalid { param, message }
}
