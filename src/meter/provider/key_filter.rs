//! Whether an event can matter, decided without parsing it.
//!
//! The filter searches for keys. In JSON text, a quote inside a string has a backslash before it. The characters
//! `usage":` can therefore only be the end of a key: no content that mentions `"usage":{` is taken for one. A key
//! could be written with escapes, as in `"us\u0061ge"`. Nobody does that, but an event with escaped ASCII letters
//! counts as one that matters.
//!
//! One pass searches for all keys of a provider, with SIMD if the processor has it.

use aho_corasick::packed::{Config, MatchKind, Searcher};
use memchr::memmem;

use crate::meter::report_builder::ReportBuilder;

/// The start of an escape that could stand for an ASCII character.
const ESCAPE: &str = "\\u00";

/// Finds the events that can matter, by their keys.
pub(super) struct KeyFilter {
    /// Each key with its closing quote, and the start of an escape.
    patterns: Vec<(String, PatternRole)>,
    /// Searches for the patterns, which it knows by index. `None` if the processor has no SIMD.
    searcher: Option<Searcher>,
}

/// What a pattern that was found means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PatternRole {
    /// Matters if it is a key with a value other than `null`, `false`, and an empty string or list.
    Key,
    /// As `Key`, while the first text is awaited.
    Text,
    /// As `Key`, while the first reasoning is awaited.
    Reasoning,
    /// As `Key`, while the first tool call is awaited.
    ToolCall,
    /// As `Key`, and also as the end of a string.
    End,
    /// Matters if it is a key whose value is not zero: the number of a choice other than the first.
    Index,
    /// Matters if it stands for an ASCII letter.
    Escape,
}

// === impl KeyFilter ===

impl KeyFilter {
    /// Makes a filter for these keys, whose values must not be `null`, `false`, or an empty string or list.
    pub(super) fn new(names: &[&str]) -> Self {
        let patterns = vec![(ESCAPE.to_owned(), PatternRole::Escape)];
        Self { patterns, searcher: None }.and(names, PatternRole::Key)
    }

    /// Adds keys that matter while the first text is awaited.
    pub(super) fn text(self, names: &[&str]) -> Self {
        self.and(names, PatternRole::Text)
    }

    /// Adds keys that matter while the first reasoning is awaited.
    pub(super) fn reasoning(self, names: &[&str]) -> Self {
        self.and(names, PatternRole::Reasoning)
    }

    /// Adds keys that matter while the first tool call is awaited.
    pub(super) fn tool_call(self, names: &[&str]) -> Self {
        self.and(names, PatternRole::ToolCall)
    }

    /// Adds words that matter as keys and as the end of a string.
    pub(super) fn string_ends(self, words: &[&str]) -> Self {
        self.and(words, PatternRole::End)
    }

    /// Adds keys that matter unless their value is 0.
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

    /// Whether the event may matter. False positives are possible (a longer key with the same ending); false
    /// negatives are not.
    #[inline]
    pub(super) fn may_match(&self, json: &[u8], report: &ReportBuilder) -> bool {
        report.wants_text() || self.is_found_in(json, report)
    }

    /// As [`may_match`](Self::may_match), even if texts are wanted.
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
    /// Whether a pattern that was found matters. `rest` is what follows it.
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

/// The start of the value, if what stands before `rest` is a key and not the end of a string.
#[inline]
fn value_of(rest: &[u8]) -> Option<&[u8]> {
    rest.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start)
}

/// Whether what stands before `rest` is a key with a value.
#[inline]
fn has_value(rest: &[u8]) -> bool {
    value_of(rest)
        .is_some_and(|value| !matches!(value, [b'n' | b'f', ..] | [b'"', b'"', ..] | [b'[', b']', ..]))
}
