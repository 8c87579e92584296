//! The error of reading a meter's enum from its word.

use std::error::Error;
use std::fmt;

/// A text that is not the word for any value of the type that was parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    text: Box<str>,
}

// === impl ParseError ===

impl ParseError {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.into() }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown word: {:?}", self.text)
    }
}

impl Error for ParseError {}
