//! What an estimator does.

/// Estimates the tokens of a text, for streams that were cut before they reported their usage.
///
/// Its counts are always marked [`Estimated`](crate::meter::UsageBasis::Estimated), and never replace a count that
/// was reported. It runs on the worker that delivers the record, not in the body.
///
/// The text may be only a part: a stream's text is kept up to a limit. The estimate of the part is then scaled up to
/// the whole. Reasoning, refusals and tool calls are never kept, and count as one token for every four characters.
pub trait Estimator: Send + Sync + 'static {
    /// Estimates how many tokens `text` is to `model`.
    fn tokens(&self, model: Option<&str>, text: &str) -> u64;
}
