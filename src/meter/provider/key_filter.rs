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

use crate::meter::report_builder::ReportBuilder;

/// The start of an escape that could be one of an ASCII character.
const ESCAPE: &str = "\\u00";

/// The keys by which a dialect tells the events that matter.
pub(super) struct KeyFilter {
    /// Each name with its closing quote; the escape.
    patterns: Vec<(String, PatternRole)>,
    /// Of the needles, by their places. None where the processor has no SIMD.
    searcher: Option<Searcher>,
}

/// What a needle that was found says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PatternRole {
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

// === impl KeyFilter ===

impl KeyFilter {
    /// Events with one of these keys matter, unless its value is `null`, `false`, or an empty string or list.
    pub(super) fn new(names: &[&str]) -> Self {
        let patterns = vec![(ESCAPE.to_owned(), PatternRole::Escape)];
        Self { patterns, searcher: None }.and(names, PatternRole::Key)
    }

    /// Those with these keys do while a first text is awaited.
    pub(super) fn text(self, names: &[&str]) -> Self {
        self.and(names, PatternRole::Text)
    }

    /// Those with these keys do while first reasoning is awaited.
    pub(super) fn reasoning(self, names: &[&str]) -> Self {
        self.and(names, PatternRole::Reasoning)
    }

    /// Those with these keys do while a first tool call is awaited.
    pub(super) fn tool_call(self, names: &[&str]) -> Self {
        self.and(names, PatternRole::ToolCall)
    }

    /// Those with these keys do, and those in which a string ends so.
    pub(super) fn string_ends(self, words: &[&str]) -> Self {
        self.and(words, PatternRole::End)
    }

    /// Those with these keys do, unless the value is 0.
    pub(super) fn index(self, names: &[&str]) -> Self {
        self.and(names, PatternRole::Index)
    }

    fn and(mut self, names: &[&str], sign: PatternRole) -> Self {
        self.patterns.extend(names.iter().map(|name| (format!("{name}\""), sign)));
        let mut searcher = Config::new().match_kind(MatchKind::LeftmostFirst).builder();
        searcher.extend(self.patterns.iter().map(|(pattern, _)| pattern));
        self.searcher = searcher.build();
        self
    }

    /// Whether `json` may hold anything that `reading` is to be told. May say so wrongly, of a longer key that ends
    /// in one of these; never the reverse.
    #[inline]
    pub(super) fn may_match(&self, json: &[u8], report: &ReportBuilder) -> bool {
        report.wants_text() || self.is_found_in(json, report)
    }

    /// As [`may_match`](Self::matter), whether texts are wanted or not.
    pub(super) fn is_found_in(&self, json: &[u8], report: &ReportBuilder) -> bool {
        let matters = |pattern: usize, end: usize| {
            self.patterns.get(pattern).is_some_and(|(_, sign)| sign.holds(&json[end..], report))
        };
        match &self.searcher {
            Some(searcher) => {
                searcher.find_iter(json).any(|found| matters(found.pattern().as_usize(), found.end()))
            }
            None => self.patterns.iter().enumerate().any(|(at, (pattern, _))| {
                memmem::find_iter(json, pattern).any(|start| matters(at, start + pattern.len()))
            }),
        }
    }
}

// === impl PatternRole ===

impl PatternRole {
    /// Whether what was found matters; `rest` is what follows it.
    #[inline]
    fn holds(self, rest: &[u8], report: &ReportBuilder) -> bool {
        let interest = report.interest();
        match self {
            Self::Key => has_value(rest),
            Self::Text => interest.text && has_value(rest),
            Self::Reasoning => interest.reasoning && has_value(rest),
            Self::ToolCall => interest.tool_call && has_value(rest),
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
