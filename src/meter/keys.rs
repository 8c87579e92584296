//! Whether an event can matter, told without parsing it.
//!
//! What is looked for are keys. In JSON text a quote inside a string has a backslash before it, so the characters
//! `usage":` can only be the end of a key: no content, however it speaks of `"usage":{`, is taken for one. A key
//! could be written with escapes, as in `"us\u0061ge"`; nobody does, and an event with escaped ASCII letters
//! counts as one that matters.

use memchr::memmem::Finder;

/// Keys that make an event matter, unless their values are `null` or `false`.
pub(super) struct Keys {
    /// Each with the closing quote.
    finders: Box<[Finder<'static>]>,
    words: Box<[Finder<'static>]>,
    escape: Finder<'static>,
}

impl Keys {
    /// Keys, each as `name"`.
    pub(super) fn new(names: &[&'static str]) -> Self {
        Self { finders: finders(names), words: Box::default(), escape: Finder::new(b"\\u00") }
    }

    /// And values: strings that end in one of `words`, each as `word"`, make an event matter, too.
    pub(super) fn or_words(self, words: &[&'static str]) -> Self {
        Self { words: finders(words), ..self }
    }

    /// Whether one of the keys stands somewhere in `json` with another value than `null` and `false`, or one of
    /// the words.
    /// May say so wrongly, of a longer key or word that ends in one of these; never the reverse.
    #[inline]
    pub(super) fn stand_in(&self, json: &[u8]) -> bool {
        self.finders.iter().any(|finder| has_value(finder, json))
            || self.words.iter().any(|finder| finder.find(json).is_some())
            || self.has_escaped_letters(json)
    }

    fn has_escaped_letters(&self, json: &[u8]) -> bool {
        // U+0040 to U+007F, and the hyphen.
        let letters =
            |at: usize| matches!(json.get(at + 4..at + 6), Some([b'4'..=b'7', _] | [b'2', b'd' | b'D']));
        self.escape.find_iter(json).any(letters)
    }
}

fn finders(needles: &[&'static str]) -> Box<[Finder<'static>]> {
    debug_assert!(needles.iter().all(|needle| needle.ends_with('"')));
    needles.iter().map(|needle| Finder::new(needle.as_bytes())).collect()
}

/// Whether the key that `finder` finds stands in `json` with another value than `null` and `false`.
fn has_value(finder: &Finder<'_>, json: &[u8]) -> bool {
    finder.find_iter(json).any(|at| {
        let rest = json[at + finder.needle().len()..].trim_ascii_start();
        // No colon: it is the end of a string.
        rest.strip_prefix(b":")
            .is_some_and(|value| !matches!(value.trim_ascii_start().first(), Some(b'n' | b'f')))
    })
}
