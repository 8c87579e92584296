//! Whether an event can matter, told without parsing it.
//!
//! What is looked for are keys. In JSON text a quote inside a string has a backslash before it, so the characters
//! `usage":` can only be the end of a key: no content, however it speaks of `"usage":{`, is taken for one. A key
//! could be written with escapes, as in `"us\u0061ge"`; nobody does, and an event with escaped ASCII letters
//! counts as one that matters.
//!
//! All keys of a dialect are looked for in one pass, by SIMD where the processor has it.

use aho_corasick::packed::{Config, MatchKind, Searcher};
use memchr::memmem;

use super::Reading;

/// The start of an escape that could be one of an ASCII character.
const ESCAPE: &str = "\\u00";

/// The keys by which a dialect tells the events that matter.
pub(super) struct Keys {
    /// Each name with its closing quote; the escape.
    needles: Vec<(String, Sign)>,
    /// Of the needles, by their places. None where the processor has no SIMD.
    searcher: Option<Searcher>,
}

/// What a needle that was found says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// Matters if it is a key whose value is something: neither `null` nor `false`, nor an empty string or list.
    Key,
    /// As `Key`, while a first text is awaited.
    Text,
    /// As `Key`, while first reasoning is.
    Reasoning,
    /// As `Key`, while a first tool call is.
    ToolCall,
    /// Matters as the end of a string, too.
    End,
    /// Matters if it is a key whose value is no zero: the number of another choice than the first.
    Index,
    /// Matters if it is an ASCII letter's.
    Escape,
}

// === impl Keys ===

impl Keys {
    /// Events with one of these keys matter, unless its value is `null`, `false`, or an empty string or list.
    pub(super) fn new(names: &[&str]) -> Self {
        let needles = vec![(ESCAPE.to_owned(), Sign::Escape)];
        Self { needles, searcher: None }.and(names, Sign::Key)
    }

    /// Those with these keys do while a first text is awaited.
    pub(super) fn text(self, names: &[&str]) -> Self {
        self.and(names, Sign::Text)
    }

    /// Those with these keys do while first reasoning is awaited.
    pub(super) fn reasoning(self, names: &[&str]) -> Self {
        self.and(names, Sign::Reasoning)
    }

    /// Those with these keys do while a first tool call is awaited.
    pub(super) fn tool_call(self, names: &[&str]) -> Self {
        self.and(names, Sign::ToolCall)
    }

    /// Those with these keys do, and those in which a string ends so.
    pub(super) fn or_ends(self, words: &[&str]) -> Self {
        self.and(words, Sign::End)
    }

    /// Those with these keys do, unless the value is 0.
    pub(super) fn index(self, names: &[&str]) -> Self {
        self.and(names, Sign::Index)
    }

    fn and(mut self, names: &[&str], sign: Sign) -> Self {
        self.needles.extend(names.iter().map(|name| (format!("{name}\""), sign)));
        let mut searcher = Config::new().match_kind(MatchKind::LeftmostFirst).builder();
        searcher.extend(self.needles.iter().map(|(needle, _)| needle));
        self.searcher = searcher.build();
        self
    }

    /// Whether `json` may hold anything that `reading` is to be told. May say so wrongly, of a longer key that ends
    /// in one of these; never the reverse.
    #[inline]
    pub(super) fn matter(&self, json: &[u8], reading: &Reading) -> bool {
        reading.wants_text() || self.stand_in(json, reading)
    }

    /// As [`matter`](Self::matter), whether texts are wanted or not.
    pub(super) fn stand_in(&self, json: &[u8], reading: &Reading) -> bool {
        let matters = |needle: usize, end: usize| {
            self.needles.get(needle).is_some_and(|(_, sign)| sign.holds(&json[end..], reading))
        };
        match &self.searcher {
            Some(searcher) => {
                searcher.find_iter(json).any(|found| matters(found.pattern().as_usize(), found.end()))
            }
            None => self.needles.iter().enumerate().any(|(at, (needle, _))| {
                memmem::find_iter(json, needle).any(|start| matters(at, start + needle.len()))
            }),
        }
    }
}

// === impl Sign ===

impl Sign {
    /// Whether what was found matters; `rest` is what follows it.
    #[inline]
    fn holds(self, rest: &[u8], reading: &Reading) -> bool {
        let awaits = reading.awaits();
        match self {
            Self::Key => has_value(rest),
            Self::Text => awaits.text && has_value(rest),
            Self::Reasoning => awaits.reasoning && has_value(rest),
            Self::ToolCall => awaits.tool_call && has_value(rest),
            Self::End => value_of(rest).is_none() || has_value(rest),
            Self::Index => value_of(rest).is_some_and(|value| value.first() != Some(&b'0')),
            // U+0040 to U+007F, and the hyphen.
            Self::Escape => matches!(rest, [b'4'..=b'7', ..] | [b'2', b'd' | b'D', ..]),
        }
    }
}

/// What the value begins with, if what stands before `rest` is a key, and not the end of a string.
#[inline]
fn value_of(rest: &[u8]) -> Option<&[u8]> {
    rest.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start)
}

/// Whether what stands before `rest` is a key, and its value something.
#[inline]
fn has_value(rest: &[u8]) -> bool {
    value_of(rest)
        .is_some_and(|value| !matches!(value, [b'n' | b'f', ..] | [b'"', b'"', ..] | [b'[', b']', ..]))
}
