//! The accumulator's face for a single writer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::content::{self, Content};
use super::log::{Log, Writer};
use super::pool::USED;
use crate::accumulator::budget::Mark;
use crate::stream::error::StreamError;

/// A [`ContentAccumulator`](crate::ContentAccumulator) for a single writer: what the layer itself uses for a
/// body, faster because nobody else writes.
///
/// [`reader`](Self::reader) gives a handle for snapshots from other threads, while it is written.
///
/// ```
/// use bytes::Bytes;
/// use streaming_accumulator::ContentWriter;
///
/// let mut writer = ContentWriter::new(1024);
/// let reader = writer.reader();
/// writer.append(&Bytes::from_static(b"hello")).unwrap();
/// assert_eq!(reader.snapshot().to_bytes(), "hello");
/// ```
#[derive(Debug)]
pub struct ContentWriter {
    log: Arc<Log>,
    writer: Writer,
}

/// Reads what a [`ContentWriter`] writes.
#[derive(Clone, Debug)]
pub struct ContentReader {
    log: Arc<Log>,
}

// === impl ContentWriter ===

impl ContentWriter {
    /// A writer of at most `max_size` bytes of content. It holds no block until the first chunk.
    pub fn new(max_size: usize) -> Self {
        Self { log: Arc::new(Log::limited(max_size as u64)), writer: Writer::default() }
    }

    /// Appends a chunk. Copies it if it is shorter than 1 KiB, else keeps a reference.
    ///
    /// # Errors
    ///
    /// [`StreamError::ContentTooLarge`] where the chunk would take the content beyond the limit. The
    /// chunk is not appended, not even in part, and neither is any later one: content never has a hole.
    #[inline]
    pub fn append(&mut self, chunk: &Bytes) -> Result<(), StreamError> {
        self.append_at(chunk, Duration::ZERO)
    }

    /// As [`append`](Self::append), with the time at which the chunk arrived. Kept to 1.024 µs, up to 6 days.
    #[inline]
    pub fn append_at(&mut self, chunk: &Bytes, arrival: Duration) -> Result<(), StreamError> {
        let at = content::units(arrival);
        // Its pool has no budget that a reference would have to be charged to.
        if self.writer.put(chunk, at) { Ok(()) } else { self.append_slowly(chunk, at) }
    }

    /// Bytes appended.
    pub fn len(&self) -> usize {
        self.writer.end().0 as usize
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A handle for snapshots.
    pub fn reader(&self) -> ContentReader {
        ContentReader { log: Arc::clone(&self.log) }
    }

    #[cold]
    fn append_slowly(&mut self, chunk: &Bytes, at: u64) -> Result<(), StreamError> {
        if chunk.is_empty() {
            return Ok(());
        }
        let appended = !self.log.has_overflowed()
            && self.writer.append_to(&self.log, &USED, Mark::Full, chunk, at).is_ok();
        if appended {
            return Ok(());
        }
        // Lets go of the block, so that nothing is appended to it.
        self.writer.leave(0, 0);
        Err(StreamError::ContentTooLarge { limit: self.log.limit() })
    }
}

// === impl ContentReader ===

impl ContentReader {
    /// What was appended so far: a prefix. Copies no content, and never waits for the writer.
    pub fn snapshot(&self) -> Content {
        self.log.snapshot()
    }
}
