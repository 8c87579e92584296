//! JSON, read leniently: wanted fields are read, borrowed from the input where possible, and everything else is
//! skipped.
//!
//! Events hold surprises: an unknown field, a field of an unexpected type, a field that appears twice. None of them
//! may cost the fields beside it. A derived `Deserialize` would refuse the whole event.

mod fields;
mod json;
mod list;
mod surrogates;

pub(crate) use self::fields::{FieldValue, Fields, Text};
pub(crate) use self::json::{Json, get, read};
pub(crate) use self::list::SmallList;
