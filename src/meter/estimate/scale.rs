//! Estimates for texts of which only a part is kept.

use super::estimator::Estimator;

/// Characters per token, where only their number is known.
const CHARS_PER_TOKEN: u64 = 4;

/// The tokens of text of which only the number of characters is known.
pub(crate) fn tokens_of_chars(chars: u64) -> u64 {
    chars.div_ceil(CHARS_PER_TOKEN)
}

/// The tokens of `kept` texts, scaled up to all `len` characters.
pub(crate) fn scaled_tokens<'a>(
    kept: impl IntoIterator<Item = &'a str>,
    len: u64,
    model: Option<&str>,
    estimator: &dyn Estimator,
) -> u64 {
    let (mut tokens, mut chars) = (0_u64, 0);
    for text in kept.into_iter().filter(|text| !text.is_empty()) {
        tokens = tokens.saturating_add(estimator.tokens(model, text));
        chars += text.chars().count() as u64;
    }
    match chars {
        0 => tokens_of_chars(len),
        chars if chars >= len => tokens,
        chars => {
            let all = (u128::from(tokens) * u128::from(len)).div_ceil(chars.into());
            u64::try_from(all).unwrap_or(u64::MAX)
        }
    }
}
