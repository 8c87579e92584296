//! Estimates of token counts, for streams that were cut before they reported any.

mod chars_per_token;
mod estimator;
mod scale;
#[cfg(test)]
mod tests;
#[cfg(feature = "llm-estimate")]
mod token_estimator;

pub use self::chars_per_token::CharsPerToken;
pub use self::estimator::Estimator;
pub(crate) use self::scale::{scaled_tokens, tokens_of_chars};
#[cfg(feature = "llm-estimate")]
pub use self::token_estimator::TokenEstimator;
