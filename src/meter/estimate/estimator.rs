//! What an estimator does.

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
