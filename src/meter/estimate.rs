//! Estimates of token counts.

#[cfg(test)]
mod tests;
#[cfg(feature = "llm-estimate")]
mod tokens;

#[cfg(feature = "llm-estimate")]
pub use self::tokens::TokenEstimator;
use super::Found;

/// Characters a token, where only their number is known.
const CHARS: u64 = 4;

/// Guesses how many tokens a text is, for streams that were cut before their usage was reported.
///
/// What it says is always marked [`Estimated`](crate::UsageBasis::Estimated), and never stands in the place of
/// a number that was reported. It runs on the worker that delivers the record, not in the body.
///
/// The text may not be all that there was: a stream's text is kept up to a limit only. What the estimator says of
/// the part is then scaled up to the whole. Reasoning, refusals and tool calls are never kept, and count as a
/// token for every four characters.
pub trait Estimator: Send + Sync + 'static {
    /// About how many tokens `text` is to `model`.
    fn tokens(&self, model: Option<&str>, text: &str) -> u64;
}

/// Estimates tokens by the number of characters, whatever the model is.
///
/// | characters | a token is |
/// |---|---|
/// | Latin letters, digits, ASCII, general punctuation | 4 of them |
/// | Chinese, Japanese and Korean ones, full-width forms, emoji | 1 of them |
/// | all others: Cyrillic, Greek, Arabic, Devanagari, Thai ... | 3 of them |
///
/// The sum is rounded up. Against OpenAI's `o200k_base`, sentences in sixteen languages, program text and JSON
/// come out between a third too low (digits) and a half too high (Korean, Japanese). Older vocabularies take
/// several times as many tokens for alphabets other than Latin.
///
/// # Examples
///
/// ```
/// use streaming_accumulator::{CharsPerToken, Estimator, MeterSet};
///
/// assert_eq!(CharsPerToken.tokens(None, "eighteen letters !"), 5);
/// assert_eq!(CharsPerToken.tokens(None, "計量器"), 3);
///
/// let meters = MeterSet::detect().estimate(CharsPerToken);
/// # let _ = meters;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct CharsPerToken;

// === impl CharsPerToken ===

impl Estimator for CharsPerToken {
    fn tokens(&self, _model: Option<&str>, text: &str) -> u64 {
        text.chars().map(twelfths).sum::<u64>().div_ceil(12)
    }
}

/// How many twelfths of a token a character is.
fn twelfths(char: char) -> u64 {
    match char {
        // Latin, and the general punctuation.
        '\0'..'\u{250}' | '\u{1e00}'..'\u{1f00}' | '\u{2000}'..'\u{2070}' => 3,
        // Hangul; kana and ideographs; full-width forms; emoji; rare ideographs.
        '\u{1100}'..'\u{1200}'
        | '\u{2e80}'..'\u{a000}'
        | '\u{ac00}'..='\u{d7ff}'
        | '\u{f900}'..'\u{fb00}'
        | '\u{ff00}'..'\u{fff0}'
        | '\u{1f000}'..'\u{1fb00}'
        | '\u{20000}'..'\u{40000}' => 12,
        _ => 4,
    }
}

/// The output tokens of what was found, about. `None` where texts were not looked at, or nothing was read.
pub(super) fn output(found: &Found, estimator: &dyn Estimator) -> Option<u64> {
    let reading = found.reading().filter(|reading| reading.wants_text())?;
    let (texts, len, hidden) = reading.output();
    if len == 0 && hidden == 0 {
        // Nothing came of what was read. Of what was not read, nobody knows.
        let known = reading.known();
        let is_read = known.protocol.is_some() || known.time_to_first_event.is_some();
        return (is_read && reading.stopped().is_none()).then_some(0);
    }
    Some(scaled(texts, len, found.model(), estimator).saturating_add(hidden.div_ceil(CHARS)))
}

/// The input tokens of what was asked for, about. `None` where the request was not read, or has no prompt.
pub(super) fn input(found: &Found, estimator: &dyn Estimator) -> Option<u64> {
    let request = found.request().filter(|request| request.prompt_len > 0)?;
    Some(scaled([&*request.prompt], request.prompt_len, found.model(), estimator))
}

/// The tokens of `kept` texts, scaled up to all `len` characters.
fn scaled<'a>(
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
        0 => len.div_ceil(CHARS),
        chars if chars >= len => tokens,
        chars => {
            let all = (u128::from(tokens) * u128::from(len)).div_ceil(chars.into());
            u64::try_from(all).unwrap_or(u64::MAX)
        }
    }
}
