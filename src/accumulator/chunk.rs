//! One chunk of a stream, as readers see it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// One chunk of a stream.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[non_exhaustive]
pub struct StreamChunk {
    /// Its bytes.
    #[cfg_attr(feature = "serde", serde(with = "super::chunk_bytes"))]
    pub bytes: Bytes,
    /// When it arrived, counted from the stream's opening: rounded down to a multiple of 1.024 µs, at most 6 days.
    pub arrival: Duration,
}

/// A time in the units in which chunks keep it, of 1,024 ns.
pub(super) fn units(arrival: Duration) -> u64 {
    (arrival.as_nanos() >> 10) as u64
}

// === impl StreamChunk ===

impl StreamChunk {
    /// A chunk that arrived `at`, in units of 1,024 ns.
    pub(super) fn new(bytes: Bytes, at: u64) -> Self {
        Self { bytes, arrival: Duration::from_nanos(at << 10) }
    }
}

impl fmt::Debug for StreamChunk {
    /// Without the content, which may be anything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamChunk").field("len", &self.bytes.len()).field("arrival", &self.arrival).finish()
    }
}
