//! Why a stream was stopped.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

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

impl StopReason {
    /// The reason as a text: `cancelled`, `shutdown`, or the user's own.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Shutdown => "shutdown",
            Self::Other(text) => text,
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for StopReason {
    type Err = Infallible;

    /// Reads what [`as_str`](Self::as_str) gives. An own reason that reads `cancelled` comes back as
    /// [`Cancelled`](Self::Cancelled).
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "cancelled" => Self::Cancelled,
            "shutdown" => Self::Shutdown,
            text => Self::Other(text.to_owned().into()),
        })
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

crate::words::serde_as_word!(StopReason);
