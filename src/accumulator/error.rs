//! Why an accumulator refused a chunk.

use std::error::Error;
use std::fmt;

/// A chunk did not fit into an accumulator, and neither the chunk nor a later one was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppendError {
    limit: u64,
}

// === impl AppendError ===

impl AppendError {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit }
    }

    /// The limit of the accumulator in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the chunk would exceed the accumulator's limit of {} bytes: create it with a larger `max_size`",
            self.limit
        )
    }
}

impl Error for AppendError {}
