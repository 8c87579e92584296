//! Estimates of token counts.

use super::Found;

/// Guesses how many tokens a text is, for streams that were cut before their usage was reported.
///
/// What it says is always marked [`Estimated`](crate::UsageBasis::Estimated), and never stands in the place of
/// a number that was reported. It runs on the worker that delivers the record, not in the body.
pub trait Estimator: Send + Sync + 'static {
    /// About how many tokens `text` is to `model`.
    fn tokens(&self, model: Option<&str>, text: &str) -> u64;
}

/// The output tokens of what was found, about.
pub(super) fn output(_found: &Found, _estimator: &dyn Estimator) -> Option<u64> {
    None
}

/// The input tokens of what was asked for, about.
pub(super) fn input(_found: &Found, _estimator: &dyn Estimator) -> Option<u64> {
    None
}
