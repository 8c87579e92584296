//! What the protocols of all providers have in common.

use serde::de::MapAccess;

use super::Reading;
use super::fields::{Fields, Text, Value, get};
use crate::meter::report::InBandError;

/// Reads the events of one protocol. It is given whole events: the framing has been undone.
pub(super) trait Dialect: Send {
    /// Reads an event. `name` is what the framing says of it, if anything: the type of a server-sent event or of
    /// a message in an event stream.
    fn event(&mut self, name: &[u8], data: &[u8], reading: &mut Reading);

    /// Reads a value that did not come as an event: a whole answer, an element of an array, or a line.
    fn value(&mut self, data: &[u8], reading: &mut Reading) {
        self.event(b"", data, reading);
    }

    /// The stream is over: reads what was put off.
    fn finish(&mut self, _reading: &mut Reading) {}

    /// Whether the protocol's own end was seen; `None` where it has none.
    fn is_terminated(&self) -> Option<bool>;

    /// Bytes that it buffers.
    fn buffered(&self) -> usize {
        0
    }
}

/// Keeps the latest number: what is not reported does not replace what was.
pub(super) fn latest(count: &mut Option<u64>, reported: Option<u64>) {
    if reported.is_some() {
        *count = reported;
    }
}

/// The sum of parts of which some may not be reported; `None` if none is.
pub(super) fn sum<const N: usize>(parts: [Option<u64>; N]) -> Option<u64> {
    parts.into_iter().flatten().reduce(u64::saturating_add)
}

/// A tool call, as OpenAI and Cohere send it, or the function inside it.
#[derive(Default)]
pub(super) struct Tool<'de> {
    pub(super) arguments: Text<'de>,
}

impl<'de> Fields<'de> for Tool<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
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

/// The fields of an error object, as providers name them.
#[derive(Default)]
struct ErrorFields<'de> {
    /// Google's word; the code beside it is HTTP's.
    status: Text<'de>,
    code: Text<'de>,
    kind: Text<'de>,
    message: Text<'de>,
}

impl<'de> Fields<'de> for ErrorFields<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "status" => self.status = value.text()?,
            "code" => self.code = value.word()?,
            "type" => self.kind = value.text()?,
            "message" => self.message = value.text()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

/// Whether the value of an error's field is one. Some servers send the field in every event, empty.
pub(super) fn is_error(raw: &&str) -> bool {
    !matches!(*raw, "null" | "false" | "0" | "\"\"" | "{}" | "[]")
}

/// The error that `raw` describes, if it is an object with a message: whatever the protocol, that is none of
/// somebody's own fields.
pub(super) fn unmistakable_error(raw: &str) -> Option<InBandError> {
    let fields: ErrorFields<'_> = get(raw)?;
    fields.message.is_some_and(|message| !message.is_empty()).then(|| in_band_error(raw))
}

/// The error that `raw` describes: an object, or just a string.
pub(super) fn in_band_error(raw: &str) -> InBandError {
    let fields: ErrorFields<'_> = get(raw).unwrap_or_default();
    let words = [fields.status, fields.code, fields.kind];
    let code = words.into_iter().flatten().find(|word| !word.is_empty() && word != "error");
    let text = serde_json::from_str::<String>(raw).ok();
    InBandError {
        code: code.map(Into::into),
        message: fields.message.map(Into::into).or(text.map(Into::into)).unwrap_or_else(|| raw.into()),
        raw: Some(raw.into()),
    }
}
