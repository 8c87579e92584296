//! Errors inside a stream, as providers send them.

use serde::de::MapAccess;

use crate::meter::lenient::{FieldValue, Fields, Text, get};
use crate::meter::report::InBandError;

/// The fields of an error object, as providers name them.
#[derive(Default)]
struct ErrorFields<'de> {
    /// Google's word for the error. The code beside it is HTTP's.
    status: Text<'de>,
    code: Text<'de>,
    kind: Text<'de>,
    message: Text<'de>,
}

impl<'de> Fields<'de> for ErrorFields<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
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

/// Whether the value of an error field is an error. Some servers send the field in every event, empty.
pub(crate) fn is_error(raw: &&str) -> bool {
    !matches!(*raw, "null" | "false" | "0" | "\"\"" | "{}" | "[]")
}

/// The error that `raw` describes, if it is an object with a message. Whatever the protocol, that is not a user's own
/// field.
pub(crate) fn unmistakable_error(raw: &str) -> Option<InBandError> {
    let fields: ErrorFields<'_> = get(raw)?;
    fields.message.is_some_and(|message| !message.is_empty()).then(|| in_band_error(raw))
}

/// The error that `raw` describes: an object, or only a string.
pub(crate) fn in_band_error(raw: &str) -> InBandError {
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
