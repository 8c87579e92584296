//! How long a stream may take.

use std::time::Duration;

/// Time limits of a stream. Each ends it as an outcome of its own.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TimeLimits {
    /// From the request to the first chunk.
    pub(crate) first_chunk: Option<Duration>,
    /// Without a frame from the inner body.
    pub(crate) idle: Option<Duration>,
    /// From the request to the end.
    pub(crate) total: Option<Duration>,
    /// Without anybody asking for a frame.
    pub(crate) stalled_reader: Option<Duration>,
}

// === impl TimeLimits ===

impl TimeLimits {
    pub(crate) fn any(&self) -> bool {
        self.shortest().is_some()
    }

    pub(crate) fn shortest(&self) -> Option<Duration> {
        [self.first_chunk, self.idle, self.total, self.stalled_reader].into_iter().flatten().min()
    }
}
