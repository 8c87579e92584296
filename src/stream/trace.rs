//! Spans and events, in one place: without feature `tracing` every function here does nothing.
//!
//! A subscriber is foreign code, which may panic (one that writes to a closed standard error does), so every call of
//! it is contained. None is called per frame.

#![cfg_attr(not(feature = "tracing"), allow(unused_variables, reason = "nothing is traced"))]

use super::outcome::{Evidence, Outcome};
#[cfg(feature = "tracing")]
use crate::contain::contain;
use crate::id::StreamId;

/// The span of one stream.
#[derive(Debug, Default)]
pub(crate) struct Span {
    /// `None` where nobody subscribes to it, and while it is dropped.
    #[cfg(feature = "tracing")]
    span: Option<tracing::Span>,
}

/// An event in the span `$span`.
#[cfg(feature = "tracing")]
macro_rules! event {
    ($level:ident, $span:expr, $($fields:tt)+) => {
        contain(|| match &$span.span {
            Some(span) => tracing::$level!(parent: span, $($fields)+),
            None => tracing::$level!($($fields)+),
        })
    };
}

#[cfg(not(feature = "tracing"))]
macro_rules! event {
    ($($fields:tt)+) => {
        ()
    };
}

/// Opens the span of a stream.
pub(crate) fn stream(id: StreamId, method: &http::Method, path: &str) -> Span {
    #[cfg(feature = "tracing")]
    let span = contain(|| tracing::info_span!("stream", %id, %method, path));
    #[cfg(feature = "tracing")]
    return Span { span: span.filter(|span| !span.is_disabled()) };
    #[cfg(not(feature = "tracing"))]
    Span {}
}

/// The stream has ended.
pub(crate) fn ended(span: &Span, id: StreamId, outcome: &Outcome, evidence: Evidence, bytes: u64) {
    event!(
        info, span, %id, %outcome, %evidence, bytes,
        error = outcome.error().map(tracing::field::display), "stream ended"
    );
}

/// The content could not be spilled: the capture ends there.
pub(crate) fn spill_failed(span: &Span, id: StreamId, error: &str) {
    event!(error, span, %id, error, "cannot spill: the capture is truncated");
}

/// An attempt to deliver a record failed, and another will follow.
pub(crate) fn retrying(span: &Span, id: StreamId, hook: &str, attempt: u32, error: &str) {
    event!(warn, span, %id, hook, attempt, error, "hook failed, will retry");
}

/// The last attempt to deliver a record failed.
pub(crate) fn dead_letter(span: &Span, id: StreamId, hook: &str, attempt: u32, error: &str) {
    event!(error, span, %id, hook, attempt, error, "hook gave up: record is a dead letter");
}

/// The store of dead letters was full, and let its oldest go.
pub(crate) fn dead_letter_evicted(id: StreamId, hook: &str) {
    event!(error, Span::default(), %id, hook, "dead letters are full: the oldest can no longer be redelivered");
}

/// Records are queued, and nothing runs that could deliver them.
pub(crate) fn undelivered(hook: &str, left: u64) {
    event!(error, Span::default(), hook, left, "no worker runs: records are left undelivered");
}

/// A callback of the user's panicked: what it was meant to do did not happen.
pub(crate) fn callback_panicked(id: Option<StreamId>, callback: &str) {
    event!(error, Span::default(), id = id.map(tracing::field::display), callback, "callback panicked");
}

// === impl Span ===

impl Span {
    /// Runs `f` inside the span. Where the subscriber panics, `f` runs all the same.
    pub(crate) fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        if let Some(span) = &self.span {
            let entered = contain(|| span.enter());
            let result = f();
            contain(|| drop(entered));
            return result;
        }
        f()
    }
}

impl Clone for Span {
    fn clone(&self) -> Self {
        Self {
            #[cfg(feature = "tracing")]
            span: self.span.as_ref().and_then(|span| contain(|| span.clone())),
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        #[cfg(feature = "tracing")]
        if let Some(span) = self.span.take() {
            contain(|| drop(span));
        }
    }
}
