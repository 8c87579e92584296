//! Estimates by the vocabularies of OpenAI's models.

use bpe_openai::{Tokenizer, cl100k_base, o200k_base};

use super::chars_per_token::CharsPerToken;
use super::estimator::Estimator;

/// The vocabularies by the beginning of a model's name. The longest beginning that fits decides.
const VOCABULARIES: [(&str, Vocabulary); 12] = [
    ("chatgpt-", o200k_base),
    ("gpt-3.5", cl100k_base),
    ("gpt-35", cl100k_base), // Azure's name for it: a deployment's has no dots.
    ("gpt-4", cl100k_base),
    ("gpt-4.1", o200k_base),
    ("gpt-4o", o200k_base),
    ("gpt-5", o200k_base),
    ("gpt-oss", o200k_base),
    ("o1", o200k_base),
    ("o3", o200k_base),
    ("o4", o200k_base),
    ("text-embedding-", cl100k_base),
];

type Vocabulary = fn() -> &'static Tokenizer;

/// Counts tokens by the vocabularies of OpenAI's models, and estimates those of all others.
///
/// | model | estimate |
/// |---|---|
/// | `gpt-4o*`, `gpt-4.1*`, `gpt-5*`, `gpt-oss*`, `o1*`, `o3*`, `o4*`, `chatgpt-*` | tokens of `o200k_base` |
/// | `gpt-4*`, `gpt-3.5*`, `gpt-35*`, `text-embedding-*` | tokens of `cl100k_base` |
/// | any other, or none | as by [`CharsPerToken`] |
///
/// A prefix of the name is ignored, as in `openai/gpt-4o` or `ft:gpt-4o:org`. The count is exact for a text by
/// itself. It is still an estimate, because a provider also counts roles, tools and images, and
/// **fit OpenAI's models only**: other vendors do not publish theirs, or count otherwise.
///
/// Each vocabulary is loaded on first use, once for the process, which takes tens of milliseconds and megabytes. The
/// time for a text grows linearly with its length, even without any spaces.
///
/// # Examples
///
/// ```
/// use streaming_accumulator::meter::{Estimator, MeterSet, TokenEstimator};
///
/// let estimator = TokenEstimator::new();
/// assert_eq!(estimator.tokens(Some("openai/gpt-4o-mini"), "Hello, world!"), 4);
///
/// let meters = MeterSet::detect().estimate(estimator);
/// # let _ = meters;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenEstimator(());

// === impl TokenEstimator ===

impl TokenEstimator {
    /// Makes an estimator, and loads nothing yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Estimator for TokenEstimator {
    fn tokens(&self, model: Option<&str>, text: &str) -> u64 {
        match model.and_then(vocabulary) {
            Some(vocabulary) => vocabulary().count(text) as u64,
            None => CharsPerToken.tokens(model, text),
        }
    }
}

fn vocabulary(model: &str) -> Option<Vocabulary> {
    let name = model.rsplit('/').next().unwrap_or(model);
    let name = name.strip_prefix("ft:").unwrap_or(name);
    let fitting = VOCABULARIES.into_iter().filter(|(prefix, _)| name.starts_with(prefix));
    fitting.max_by_key(|(prefix, _)| prefix.len()).map(|(_, vocabulary)| vocabulary)
}
