//! Text that is kept up to a limit.

use crate::meter::char_boundary;

/// Text that is kept up to a limit.
#[derive(Debug, Default)]
pub(super) struct BoundedString {
    text: String,
    max: usize,
    is_full: bool,
}

// === impl BoundedString ===

impl BoundedString {
    /// Keeps the first `max` bytes, or fewer if a character would be cut.
    pub(super) fn new(max: usize) -> Self {
        Self { text: String::new(), max, is_full: false }
    }

    pub(super) fn push(&mut self, text: &str) {
        if self.is_full {
            return;
        }
        let kept = char_boundary::cut(text, self.max - self.text.len());
        self.is_full = kept.len() < text.len();
        let wanted = self.text.len() + kept.len();
        if wanted > self.text.capacity() {
            // Grows as a string does, but not past the limit.
            let capacity = wanted.max(2 * self.text.capacity()).clamp(wanted, self.max);
            self.text.reserve_exact(capacity - self.text.len());
        }
        self.text.push_str(kept);
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.is_full = false;
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The bytes that it holds.
    pub(super) fn held(&self) -> usize {
        self.text.capacity()
    }
}
