//! Cutting text where a character ends.

/// The longest beginning of `text` that has at most `max` bytes and ends with a whole character.
pub(super) fn cut(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    // At most three steps: a character has at most four bytes.
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_end_with_whole_characters() {
        let text = "a\u{e9}\u{20ac}\u{1f600}";
        let cuts: Vec<_> = (0..=11).map(|max| cut(text, max).len()).collect();
        assert_eq!(cuts, [0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 10]);
    }
}
