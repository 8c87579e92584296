//! Why a stream was stopped.

use std::borrow::Cow;
use std::fmt;

/// Why a stream was stopped on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopReason {
    /// [`Handle::cancel`](crate::Handle::cancel) or [`StreamHandle::cancel`](crate::StreamHandle::cancel).
    Cancelled,
    /// The deadline of [`Handle::shutdown`](crate::Handle::shutdown) had come.
    Shutdown,
    /// A reason of the user's own, from `on_chunk`.
    Other(Cow<'static, str>),
}

// === impl StopReason ===

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("cancelled"),
            Self::Shutdown => f.write_str("shutdown"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl From<&'static str> for StopReason {
    fn from(text: &'static str) -> Self {
        Self::Other(Cow::Borrowed(text))
    }
}

impl From<String> for StopReason {
    fn from(text: String) -> Self {
        Self::Other(Cow::Owned(text))
    }
}
