//! The fields of an object, read one by one.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::list::Elements;

/// Takes the fields of an object.
pub(crate) trait Fields<'de> {
    /// Takes `value`, or skips it.
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error>;
}

/// The value of a field, which can be read in one of several ways. A value of another type reads as absent.
#[must_use]
pub(crate) struct FieldValue<'m, 'de, A> {
    map: &'m mut A,
    input: PhantomData<&'de ()>,
}

/// A string, borrowed if it has no escapes; `None` for a value of another type.
pub(crate) type Text<'de> = Option<Cow<'de, str>>;

// === impl FieldValue ===

impl<'de, A: MapAccess<'de>> FieldValue<'_, 'de, A> {
    /// A string.
    pub(crate) fn text(self) -> Result<Text<'de>, A::Error> {
        Ok(match self.map.next_value_seed(ScalarSeed)? {
            Scalar::Text(text) => Some(text),
            _ => None,
        })
    }

    /// A whole number, not negative. Some servers write counts as `12.0`.
    pub(crate) fn count(self) -> Result<Option<u64>, A::Error> {
        Ok(match self.map.next_value_seed(ScalarSeed)? {
            Scalar::Count(count) => Some(count),
            _ => None,
        })
    }

    /// The number of a choice; 0 if there is none.
    pub(crate) fn index(self) -> Result<u32, A::Error> {
        Ok(self.count()?.and_then(|index| u32::try_from(index).ok()).unwrap_or(0))
    }

    /// A string, or a number as it is written.
    pub(crate) fn word(self) -> Result<Text<'de>, A::Error> {
        Ok(match self.map.next_value_seed(ScalarSeed)? {
            Scalar::Text(text) => Some(text),
            Scalar::Count(count) => Some(count.to_string().into()),
            _ => None,
        })
    }

    /// A boolean.
    pub(crate) fn flag(self) -> Result<Option<bool>, A::Error> {
        Ok(match self.map.next_value_seed(ScalarSeed)? {
            Scalar::Flag(flag) => Some(flag),
            _ => None,
        })
    }

    /// The JSON of any value.
    pub(crate) fn json(self) -> Result<&'de str, A::Error> {
        let raw: &'de RawValue = self.map.next_value()?;
        Ok(raw.get())
    }

    /// The JSON of the value, except `null`, `false`, and an empty string or list, which some servers send for
    /// nothing.
    pub(crate) fn raw(self) -> Result<Option<&'de str>, A::Error> {
        Ok(Some(self.json()?).filter(|raw| !matches!(*raw, "null" | "false" | "\"\"" | "[]")))
    }

    /// Reads an object into `fields`; false if the value is not an object.
    pub(crate) fn object(self, fields: &mut impl Fields<'de>) -> Result<bool, A::Error> {
        self.map.next_value_seed(Object(fields))
    }

    /// Reads each object of an array, or the one object in its place. Returns a string that stands in its place.
    pub(crate) fn objects<F: Fields<'de>>(
        self,
        elements: &mut impl Elements<F>,
    ) -> Result<Text<'de>, A::Error> {
        self.map.next_value_seed(Objects(elements, PhantomData))
    }

    /// Skips the value.
    pub(crate) fn skip(self) -> Result<(), A::Error> {
        self.map.next_value().map(|IgnoredAny| ())
    }
}

// === Seeds ===

enum Scalar<'de> {
    Text(Cow<'de, str>),
    Count(u64),
    Flag(bool),
    Other,
}

struct ScalarSeed;

/// Reads an object into fields; false if it is anything else, which is skipped.
pub(super) struct Object<'f, F>(pub(super) &'f mut F);

/// Reads an array of objects, each into fields of its own.
struct Objects<'e, L, F>(&'e mut L, PhantomData<fn() -> F>);

/// Reads one of them. It adds a place only once there is an element.
struct Element<'e, L, F>(&'e mut L, PhantomData<fn() -> F>);

/// The visitor methods that all visitors here share: values of other types are skipped.
macro_rules! lenient {
    ($nothing:expr; $($kind:ident)*) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("anything")
        }
        $(lenient!(@ $kind $nothing);)*
    };
    (@ bool $nothing:expr) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> { Ok($nothing) }
    };
    (@ numbers $nothing:expr) => {
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> { Ok($nothing) }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> { Ok($nothing) }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> { Ok($nothing) }
    };
    (@ str $nothing:expr) => {
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> { Ok($nothing) }
    };
    (@ unit $nothing:expr) => {
        fn visit_unit<E>(self) -> Result<Self::Value, E> { Ok($nothing) }
    };
    (@ seq $nothing:expr) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok($nothing)
        }
    };
    (@ map $nothing:expr) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok($nothing)
        }
    };
}

impl<'de> DeserializeSeed<'de> for ScalarSeed {
    type Value = Scalar<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Scalar<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ScalarSeed {
    type Value = Scalar<'de>;

    lenient!(Scalar::Other; unit seq map);

    fn visit_bool<E>(self, flag: bool) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Flag(flag))
    }

    fn visit_u64<E>(self, count: u64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Count(count))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar<'de>, E> {
        Ok(u64::try_from(number).map_or(Scalar::Other, Scalar::Count))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Scalar<'de>, E> {
        // Beyond 2^53 a float cannot represent every count.
        let is_count = number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number);
        Ok(if is_count { Scalar::Count(number as u64) } else { Scalar::Other })
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }
}

impl<'de, F: Fields<'de>> DeserializeSeed<'de> for Object<'_, F> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: Fields<'de>> Visitor<'de> for Object<'_, F> {
    type Value = bool;

    lenient!(false; bool numbers str unit seq);

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        while let Some(key) = map.next_key_seed(ScalarSeed)? {
            let key = if let Scalar::Text(key) = key { key } else { Cow::Borrowed("") };
            self.0.field(&key, FieldValue { map: &mut map, input: PhantomData })?;
        }
        Ok(true)
    }
}

impl<'de, L: Elements<F>, F: Fields<'de>> DeserializeSeed<'de> for Element<'_, L, F> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if !Object(self.0.add()).deserialize(deserializer)? {
            self.0.take_back();
        }
        Ok(())
    }
}

impl<'de, L: Elements<F>, F: Fields<'de>> DeserializeSeed<'de> for Objects<'_, L, F> {
    type Value = Text<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Text<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, L: Elements<F>, F: Fields<'de>> Visitor<'de> for Objects<'_, L, F> {
    type Value = Text<'de>;

    lenient!(None; bool numbers unit);

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text<'de>, A::Error> {
        while seq.next_element_seed(Element(&mut *self.0, PhantomData))?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Text<'de>, A::Error> {
        Object(self.0.add()).visit_map(map)?;
        Ok(None)
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Some(Cow::Borrowed(text)))
    }
}
