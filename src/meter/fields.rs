//! JSON, read field by field: what is wanted goes where it belongs, borrowed from the input where that can be;
//! everything else is passed over.
//!
//! Events of providers are read leniently. An unknown field, a field of another type than expected, a field that
//! stands there twice: none of them may cost the fields beside it. Derived `Deserialize` would refuse them.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::str;

use memchr::memchr;
use memchr::memmem::Finder;
use once_cell::sync::Lazy;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Deserializer;
use serde_json::value::RawValue;

/// JSON text, with U+FFFD for what no Unicode text can hold.
pub(super) struct Json<'a>(Cow<'a, str>);

/// Takes fields of an object.
pub(super) trait Fields<'de> {
    /// Takes `value`, or skips it.
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: Value<'_, 'de, A>) -> Result<(), A::Error>;
}

/// The value of a field, to be read in one of several ways. What is of another type reads as nothing.
#[must_use]
pub(super) struct Value<'m, 'de, A> {
    map: &'m mut A,
    input: PhantomData<&'de ()>,
}

/// A string, borrowed if it has no escapes; nothing where there is another value.
pub(super) type Text<'de> = Option<Cow<'de, str>>;

/// A list that nearly always has one element, which then needs no allocation.
#[derive(Debug)]
pub(super) struct Few<T> {
    first: Option<T>,
    more: Vec<T>,
}

/// Where elements of an array go. They are read in place: they are large, and moving them would cost as much as
/// reading them.
pub(super) trait Elements<T> {
    /// The place of one more element.
    fn add(&mut self) -> &mut T;

    /// The one that was added last is none.
    fn take_back(&mut self);
}

// === impl Json ===

impl<'a> Json<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        match str::from_utf8(bytes) {
            Ok(text) => Self(without_lone_surrogates(text)),
            Err(_) => {
                let text = String::from_utf8_lossy(bytes);
                Self(Cow::Owned(without_lone_surrogates(&text).into_owned()))
            }
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads an object into `fields`. False: the text is not one JSON value, and what `fields` holds is not to
    /// be believed.
    pub(super) fn read<'de>(&'de self, fields: &mut impl Fields<'de>) -> bool {
        read(&self.0, fields)
    }

    /// The object in `F`, if the text is one JSON value.
    pub(super) fn get<'de, F: Fields<'de> + Default>(&'de self) -> Option<F> {
        get(&self.0)
    }
}

/// As [`Json::read`], of text that is a part of such JSON.
pub(super) fn read<'de>(json: &'de str, fields: &mut impl Fields<'de>) -> bool {
    let mut deserializer = Deserializer::from_str(json);
    let read = Object(fields).deserialize(&mut deserializer);
    read.and_then(|_| deserializer.end()).is_ok()
}

/// As [`Json::get`], of text that is a part of such JSON.
pub(super) fn get<'de, F: Fields<'de> + Default>(json: &'de str) -> Option<F> {
    let mut fields = F::default();
    read(json, &mut fields).then_some(fields)
}

/// Replaces escapes of surrogates that are not pairs. Some servers cut text between the two; a strict parser
/// would refuse the whole event.
fn without_lone_surrogates(json: &str) -> Cow<'_, str> {
    static ESCAPE: Lazy<Finder<'static>> = Lazy::new(|| Finder::new(b"\\u"));
    let bytes = json.as_bytes();
    if memchr(b'\\', bytes).is_none() {
        return Cow::Borrowed(json);
    }
    let mut repaired = String::new();
    let mut taken = 0;
    let mut at = 0;
    while let Some(found) = ESCAPE.find(&bytes[at..]) {
        let start = at + found;
        at = start + 2;
        let Some(unit) = unit(bytes, start).filter(|_| !is_escaped(bytes, start)) else {
            continue;
        };
        let is_pair = unit < 0xDC00 && self::unit(bytes, start + 6).is_some_and(|low| low >= 0xDC00);
        if is_pair {
            at = start + 12;
        } else {
            repaired.push_str(&json[taken..start]);
            repaired.push_str("\\ufffd");
            (taken, at) = (start + 6, start + 6);
        }
    }
    if taken == 0 {
        return Cow::Borrowed(json);
    }
    repaired.push_str(&json[taken..]);
    Cow::Owned(repaired)
}

/// The surrogate that the escape at `at` stands for.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let digits = str::from_utf8(digits).ok().filter(|digits| digits.starts_with(['d', 'D']))?;
    u16::from_str_radix(digits, 16).ok().filter(|unit| (0xD800..=0xDFFF).contains(unit))
}

/// Whether the backslash at `at` is itself escaped.
fn is_escaped(bytes: &[u8], at: usize) -> bool {
    bytes[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

// === impl Value ===

impl<'de, A: MapAccess<'de>> Value<'_, 'de, A> {
    /// A string.
    pub(super) fn text(self) -> Result<Text<'de>, A::Error> {
        Ok(match self.map.next_value_seed(ScalarSeed)? {
            Scalar::Text(text) => Some(text),
            _ => None,
        })
    }

    /// A whole number from 0 on. Some servers write counts as `12.0`.
    pub(super) fn count(self) -> Result<Option<u64>, A::Error> {
        Ok(match self.map.next_value_seed(ScalarSeed)? {
            Scalar::Count(count) => Some(count),
            _ => None,
        })
    }

    /// The number of a choice; the first one where there is none.
    pub(super) fn index(self) -> Result<u32, A::Error> {
        Ok(self.count()?.and_then(|index| u32::try_from(index).ok()).unwrap_or(0))
    }

    /// A string, or a number as it is written.
    pub(super) fn word(self) -> Result<Text<'de>, A::Error> {
        Ok(match self.map.next_value_seed(ScalarSeed)? {
            Scalar::Text(text) => Some(text),
            Scalar::Count(count) => Some(count.to_string().into()),
            _ => None,
        })
    }

    /// A truth value.
    pub(super) fn flag(self) -> Result<Option<bool>, A::Error> {
        Ok(match self.map.next_value_seed(ScalarSeed)? {
            Scalar::Flag(flag) => Some(flag),
            _ => None,
        })
    }

    /// The JSON of it, whatever it is.
    pub(super) fn json(self) -> Result<&'de str, A::Error> {
        let raw: &'de RawValue = self.map.next_value()?;
        Ok(raw.get())
    }

    /// The JSON of anything but `null`, `false`, and an empty string or list, with which some servers say that there
    /// is nothing.
    pub(super) fn raw(self) -> Result<Option<&'de str>, A::Error> {
        Ok(Some(self.json()?).filter(|raw| !matches!(*raw, "null" | "false" | "\"\"" | "[]")))
    }

    /// The fields of an object; whether there is one.
    pub(super) fn object(self, fields: &mut impl Fields<'de>) -> Result<bool, A::Error> {
        self.map.next_value_seed(Object(fields))
    }

    /// The fields of each object of an array, or of the one object that stands in its place. A string in its
    /// place is returned.
    pub(super) fn objects<F: Fields<'de>>(
        self,
        elements: &mut impl Elements<F>,
    ) -> Result<Text<'de>, A::Error> {
        self.map.next_value_seed(Objects(elements, PhantomData))
    }

    /// Passes over it.
    pub(super) fn skip(self) -> Result<(), A::Error> {
        self.map.next_value().map(|IgnoredAny| ())
    }
}

// === impl Few ===

impl<T> Few<T> {
    pub(super) fn first(&self) -> Option<&T> {
        self.first.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().chain(&self.more)
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self { first: None, more: Vec::new() }
    }
}

impl<T: Default> Elements<T> for Few<T> {
    fn add(&mut self) -> &mut T {
        match &mut self.first {
            Some(_) => self.more.add(),
            first => first.insert(T::default()),
        }
    }

    fn take_back(&mut self) {
        if self.more.pop().is_none() {
            self.first = None;
        }
    }
}

impl<T: Default> Elements<T> for Vec<T> {
    fn add(&mut self) -> &mut T {
        let place = self.len();
        self.push(T::default());
        &mut self[place]
    }

    fn take_back(&mut self) {
        self.pop();
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

/// Reads an object into fields; passes over anything else, and says so.
struct Object<'f, F>(&'f mut F);

/// Reads an array of objects, each into fields of its own.
struct Objects<'e, L, F>(&'e mut L, PhantomData<fn() -> F>);

/// Reads one of them: asked only if there is one.
struct Element<'e, L, F>(&'e mut L, PhantomData<fn() -> F>);

/// The methods of a visitor that are alike in all of ours: other types are passed over.
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
        // Beyond 2^53 a float no longer tells one count from the next.
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
            self.0.field(&key, Value { map: &mut map, input: PhantomData })?;
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
