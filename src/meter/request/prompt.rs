//! The text of a prompt.

use super::bounded_string::BoundedString;

/// Text with this beginning is an image, a sound or a file.
const DATA_URL: &str = "data:";

/// The prompt's text: several strings, one after the other.
#[derive(Debug)]
pub(super) struct Prompt {
    kept: BoundedString,
    len: u64,
    string: PromptString,
}

/// What the current string has shown so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PromptString {
    /// This many bytes have come, all of them as in [`DATA_URL`].
    Opening(usize),
    Text,
    Data,
}

// === impl Prompt ===

impl Prompt {
    /// Keeps the first `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self { kept: BoundedString::new(max), len: 0, string: PromptString::Opening(0) }
    }

    /// What was kept.
    pub(super) fn kept(&self) -> &str {
        self.kept.as_str()
    }

    /// The length of the whole text, in Unicode scalar values.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The bytes that it holds.
    pub(super) fn held(&self) -> usize {
        self.kept.held()
    }

    /// Starts a string.
    pub(super) fn begin(&mut self) {
        self.string = PromptString::Opening(0);
    }

    /// Adds text to the string.
    pub(super) fn push(&mut self, mut text: &str) {
        if let PromptString::Opening(seen) = self.string {
            let same = DATA_URL[seen..].bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
            text = &text[same..];
            match seen + same {
                seen if seen == DATA_URL.len() => self.string = PromptString::Data,
                seen if text.is_empty() => self.string = PromptString::Opening(seen),
                seen => self.settle(seen),
            }
        }
        if self.string == PromptString::Text {
            self.keep(text);
        }
    }

    /// Decides that the string is text, and adds what was seen of it.
    fn settle(&mut self, seen: usize) {
        self.string = PromptString::Text;
        if self.len > 0 {
            self.kept.push("\n");
        }
        self.keep(&DATA_URL[..seen]);
    }

    /// Ends the string.
    pub(super) fn end(&mut self) {
        if let PromptString::Opening(seen @ 1..) = self.string {
            self.settle(seen);
        }
    }

    fn keep(&mut self, text: &str) {
        self.len += text.chars().count() as u64;
        self.kept.push(text);
    }
}
