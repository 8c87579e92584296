//! Spans and events, in one place: with feature `tracing` off every function here does nothing.
//!
//! None is called per frame.

use std::fmt::Display;

use crate::id::StreamId;
use crate::stream::outcome::Outcome;

/// The span of one stream.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

/// Opens the span of a stream.
pub(crate) fn stream(id: StreamId, method: &http::Method, path: &str) -> Span {
    #[cfg(feature = "tracing")]
    return Span { span: tracing::info_span!("stream", %id, %method, path) };
    #[cfg(not(feature = "tracing"))]
    {
        let _ = (id, method, path);
        Span {}
    }
}

/// The stream has ended.
pub(crate) fn ended(span: &Span, outcome: &Outcome, evidence: impl Display, bytes: u64) {
    #[cfg(feature = "tracing")]
    match outcome.error() {
        Some(error) => {
            tracing::info!(parent: &span.span, %outcome, %evidence, bytes, %error, "stream ended")
        }
        None => tracing::info!(parent: &span.span, %outcome, %evidence, bytes, "stream ended"),
    }
    #[cfg(not(feature = "tracing"))]
    let _ = (span, outcome, evidence, bytes);
}

/// An attempt to deliver a record failed and another will follow.
pub(crate) fn retrying(span: &Span, hook: &str, attempt: u32, error: impl Display) {
    #[cfg(feature = "tracing")]
    tracing::warn!(parent: &span.span, hook, attempt, %error, "hook failed, will retry");
    #[cfg(not(feature = "tracing"))]
    let _ = (span, hook, attempt, error);
}

/// The last attempt to deliver a record failed.
pub(crate) fn dead_letter(span: &Span, hook: &str, attempt: u32, error: impl Display) {
    #[cfg(feature = "tracing")]
    tracing::error!(parent: &span.span, hook, attempt, %error, "hook gave up: record is a dead letter");
    #[cfg(not(feature = "tracing"))]
    let _ = (span, hook, attempt, error);
}

/// The store of dead letters was full and let its oldest go.
pub(crate) fn dead_letter_evicted(id: StreamId, hook: &str) {
    #[cfg(feature = "tracing")]
    tracing::error!(%id, hook, "dead letters are full: the oldest can no longer be redelivered");
    #[cfg(not(feature = "tracing"))]
    let _ = (id, hook);
}

/// Records are queued and nothing runs that could deliver them.
pub(crate) fn undelivered(hook: &str, left: u64) {
    #[cfg(feature = "tracing")]
    tracing::error!(hook, left, "no worker runs: records are left undelivered");
    #[cfg(not(feature = "tracing"))]
    let _ = (hook, left);
}

/// Spilled or compressed content cannot be read back.
pub(crate) fn unreadable(error: &std::io::Error) {
    #[cfg(feature = "tracing")]
    tracing::error!(%error, "content cannot be read back");
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}

/// A callback of the user's panicked; what it was meant to do did not happen.
pub(crate) fn callback_panicked(span: Option<&Span>, callback: &str) {
    #[cfg(feature = "tracing")]
    match span {
        Some(span) => tracing::error!(parent: &span.span, callback, "callback panicked"),
        None => tracing::error!(callback, "callback panicked"),
    }
    #[cfg(not(feature = "tracing"))]
    let _ = (span, callback);
}

impl Span {
    /// Runs `future` inside the span.
    pub(crate) async fn around<F: Future>(&self, future: F) -> F::Output {
        #[cfg(feature = "tracing")]
        return tracing::Instrument::instrument(future, self.span.clone()).await;
        #[cfg(not(feature = "tracing"))]
        future.await
    }
}
