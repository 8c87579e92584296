//! An accumulator for one writer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::block::Pool;
use super::budget::Mark;
use super::chunk;
use super::content::{Content, ContentPart};
use super::error::AppendError;
use super::log::{Log, LogWriter};

/// A [`ContentAccumulator`](crate::ContentAccumulator) with one writer: what the layer itself uses for a body. It is
/// faster, because nobody else writes.
///
/// [`reader`](Self::reader) gives a handle for snapshots from other threads while it is written.
///
/// ```
/// use bytes::Bytes;
/// use streaming_accumulator::capture::ContentWriter;
///
/// # fn main() -> std::io::Result<()> {
/// let mut writer = ContentWriter::new(1024);
/// let reader = writer.reader();
/// writer.append(&Bytes::from_static(b"hello")).unwrap();
/// assert_eq!(reader.len(), 5);
/// assert_eq!(reader.snapshot().to_bytes()?, "hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ContentWriter {
    log: Arc<Log>,
    writer: LogWriter,
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
        Self { log: Arc::new(Log::limited(max_size as u64)), writer: LogWriter::default() }
    }

    /// Appends a chunk: a copy if it is shorter than 1 KiB, otherwise a reference.
    ///
    /// # Errors
    ///
    /// If the chunk would take the content beyond the limit. Neither the chunk, nor a part of it, nor a later chunk is
    /// appended: content never has a hole.
    #[inline]
    pub fn append(&mut self, chunk: &Bytes) -> Result<(), AppendError> {
        self.append_at(chunk, Duration::ZERO)
    }

    /// As [`append`](Self::append), with the time at which the chunk arrived: kept to 1.024 µs, up to 6 days.
    #[inline]
    pub fn append_at(&mut self, chunk: &Bytes, arrival: Duration) -> Result<(), AppendError> {
        let at = chunk::units(arrival);
        // The pool has no budget that a reference would have to be charged to.
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
    fn append_slowly(&mut self, chunk: &Bytes, at: u64) -> Result<(), AppendError> {
        if chunk.is_empty() {
            return Ok(());
        }
        let appended = !self.log.has_overflowed()
            && self.writer.append_to(&self.log, &Pool::shared(), Mark::Full, chunk, at).is_ok();
        if appended {
            return Ok(());
        }
        // Releases the block, so that nothing is appended to it.
        self.writer.leave(0, 0);
        Err(AppendError::new(self.log.limit()))
    }
}

// === impl ContentReader ===

impl ContentReader {
    /// Bytes appended.
    pub fn len(&self) -> usize {
        self.log.end() as usize
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was appended so far: a prefix. Copies no content, and never waits for the writer.
    pub fn snapshot(&self) -> Content {
        let appended = self.log.span(u64::MAX, u64::MAX);
        Content::new(appended.map(ContentPart::Span), None, self.log.has_overflowed())
    }
}
