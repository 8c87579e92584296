//! JSON, read leniently: what is wanted goes where it belongs, borrowed from the input where possible; everything
//! else is skipped.
//!
//! Events of providers hold surprises: an unknown field, a field of an unexpected type, a field that stands there
//! twice. None of them may cost the fields beside it. A derived `Deserialize` would refuse the whole event.

mod fields;
mod json;
mod list;
mod surrogates;

pub(crate) use self::fields::{FieldValue, Fields, Text};
pub(crate) use self::json::{Json, get, read};
pub(crate) use self::list::SmallList;
