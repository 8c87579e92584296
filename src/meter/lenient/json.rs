//! JSON text, and the objects in it.

use std::borrow::Cow;
use std::str;

use serde::de::DeserializeSeed;
use serde_json::Deserializer;

use super::fields::{Fields, Object};
use super::surrogates::without_lone_surrogates;

/// JSON text, with U+FFFD for what Unicode text cannot hold.
pub(crate) struct Json<'a>(Cow<'a, str>);

// === impl Json ===

impl<'a> Json<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        match str::from_utf8(bytes) {
            Ok(text) => Self(without_lone_surrogates(text)),
            Err(_) => {
                let text = String::from_utf8_lossy(bytes);
                Self(Cow::Owned(without_lone_surrogates(&text).into_owned()))
            }
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads an object into `fields`; false if the text is not one JSON value, and `fields` is then not to be
    /// trusted.
    pub(crate) fn read<'de>(&'de self, fields: &mut impl Fields<'de>) -> bool {
        read(&self.0, fields)
    }

    /// Reads an object into new fields; `None` if the text is not one JSON value.
    pub(crate) fn get<'de, F: Fields<'de> + Default>(&'de self) -> Option<F> {
        get(&self.0)
    }
}

/// As [`Json::read`], for text that is a part of such JSON.
pub(crate) fn read<'de>(json: &'de str, fields: &mut impl Fields<'de>) -> bool {
    let mut deserializer = Deserializer::from_str(json);
    let read = Object(fields).deserialize(&mut deserializer);
    read.and_then(|_| deserializer.end()).is_ok()
}

/// As [`Json::get`], for text that is a part of such JSON.
pub(crate) fn get<'de, F: Fields<'de> + Default>(json: &'de str) -> Option<F> {
    let mut fields = F::default();
    read(json, &mut fields).then_some(fields)
}
