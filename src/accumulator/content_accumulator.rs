//! An accumulator for any number of writers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use once_cell::sync::Lazy;

use super::block::Pool;
use super::chunk;
use super::content::{Content, ContentPart};
use super::error::AppendError;
use super::shared_log::SharedLog;

/// The pool of these accumulators. It keeps zeroed blocks and has no budget.
static ZEROED: Lazy<Arc<Pool>> = Lazy::new(|| Arc::new(Pool::with(None, true)));

/// A bounded, lock-free accumulator of chunks with any number of writers and readers.
///
/// Writers never wait for readers, nor readers for writers. Small chunks are copied, and never pin the read buffer that
/// they were cut from. Chunks from 1 KiB are kept by reference.
///
/// ```
/// use bytes::Bytes;
/// use streaming_accumulator::ContentAccumulator;
///
/// # fn main() -> std::io::Result<()> {
/// let accumulator = ContentAccumulator::new(8);
/// accumulator.append(Bytes::from_static(b"12345")).unwrap();
/// let error = accumulator.append(Bytes::from_static(b"6789")).unwrap_err();
/// assert_eq!(error.limit(), 8);
/// assert_eq!(accumulator.snapshot().to_bytes()?, "12345");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ContentAccumulator {
    log: SharedLog,
}

// === impl ContentAccumulator ===

impl ContentAccumulator {
    /// An accumulator for at most `max_size` bytes of content. It holds no block until the first chunk.
    pub fn new(max_size: usize) -> Self {
        Self { log: SharedLog::new(max_size as u64, &ZEROED) }
    }

    /// Appends a chunk.
    ///
    /// Lock-free, from any thread. The chunks of one thread keep their order.
    ///
    /// # Errors
    ///
    /// If the chunk would take the content beyond the limit. Neither the chunk, nor a part of it, nor a later chunk is
    /// appended: content never has a hole.
    pub fn append(&self, chunk: Bytes) -> Result<(), AppendError> {
        self.append_at(chunk, Duration::ZERO)
    }

    /// As [`append`](Self::append), with the time at which the chunk arrived: kept to 1.024 µs, up to 6 days.
    ///
    /// Reading a clock takes longer than appending, so it is left to callers that need the times.
    #[inline]
    pub fn append_at(&self, chunk: Bytes, arrival: Duration) -> Result<(), AppendError> {
        if self.log.append(chunk, chunk::units(arrival)) {
            Ok(())
        } else {
            Err(AppendError::new(self.log.limit()))
        }
    }

    /// Bytes appended. A chunk that is being appended right now may be counted.
    pub fn len(&self) -> usize {
        self.log.len() as usize
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was appended so far: a prefix, in an order on which all snapshots agree.
    ///
    /// Copies no content, and walks the chunks once.
    pub fn snapshot(&self) -> Content {
        Content::new(self.log.published().map(ContentPart::Span), None, self.log.has_overflowed())
    }
}
