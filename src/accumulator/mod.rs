//! The lock-free accumulator: what is kept of a stream, written while it is read.
//!
//! A log of blocks. A block holds small chunks as words, each behind a header, and has slots for large
//! chunks, which are kept by reference. Blocks are linked by a pointer that is set once; their memory comes
//! from a pool that the streams of a layer share, and goes back to it.
//!
//! The design this replaces was a mutex around one growing string: a reader that copied it stalled the
//! writer for milliseconds. Here any number of readers take snapshots and none is ever waited for.
//!
//! # Invariants
//!
//! 1. *Claim, then write.* A writer claims bytes, words and a chunk of a block in one exchange of its tail.
//!    Claims never overlap, and never exceed the limit: the exchange that would is not made.
//!    A body's capture has one writer, which needs no exchange: it writes first and claims last.
//! 2. *Write, then publish.* A chunk's header is stored with Release after its bytes; a reader that sees
//!    the header with Acquire sees the bytes. Until then the header is 0.
//! 3. *A prefix.* A reader stops at the first header that is 0, never looks beyond what is claimed, and
//!    passes to the next block only at the exact word at which the block was closed. A lone writer claims
//!    what it has published, so its words need not be 0 before. So it sees no chunk without all that were
//!    claimed before.
//! 4. *Closed is final.* A closed tail never changes, so the next block's place in the log is exact.
//! 5. *Once over, always over.* After a chunk was refused none is taken, so content never has a hole.
//!    (Writers that race with the first refusal may still get a smaller chunk in; it is part of the
//!    order that the claims made.)
//! 6. *Links are set once.* A link owns a count of its block until whoever has the link's own block to
//!    itself takes it out. Blocks are reused only by who has them to themselves.
//! 7. *What many write stays.* A log with many writers is never trimmed, so each of its blocks lives as
//!    long as the log.
//! 8. *Freeing is a loop.* Dropping a chain never recurses, and readers keep what they stand on alive.
//!
//! The only `unsafe` code copies content in and out of words (`words`), owns the count behind a link
//! (`link`), and follows the pointer to the last block of many writers (`log`); each cites these invariants.

mod archive;
mod block;
pub(crate) mod budget;
pub use self::budget::MemoryBudget;
pub(crate) use self::budget::Mark;
mod capture;
mod capturing;
mod content;
mod link;
mod log;
#[cfg(all(test, accumulator_loom))]
mod models;
mod pool;
mod reader;
#[cfg(all(test, not(accumulator_loom)))]
mod tests;
mod unit;
mod words;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::content::Piece;
pub(crate) use self::log::Log;
use self::log::Writers;
use crate::stream::error::StreamError;

pub(crate) use self::archive::SpillWorker;
pub use self::capture::Capture;
pub(crate) use self::capturing::{BufferWriter, StreamBuffer, BufferConfig};
pub use self::content::{Content, StreamChunk};
pub(crate) use self::pool::Pool;
pub(crate) use self::reader::{Read, Reader};
pub use self::writer::{ContentReader, ContentWriter};

/// A bounded, lock-free accumulator of chunks with any number of writers and readers.
///
/// Writers never wait for readers, nor readers for writers. Small chunks are copied, so they never pin
/// the read buffer that they were cut from; chunks from 1 KiB are kept by reference.
///
/// ```
/// use bytes::Bytes;
/// use streaming_accumulator::{ContentAccumulator, StreamError};
///
/// let accumulator = ContentAccumulator::new(8);
/// accumulator.append(Bytes::from_static(b"12345")).unwrap();
/// let error = accumulator.append(Bytes::from_static(b"6789")).unwrap_err();
/// assert!(matches!(error, StreamError::ContentTooLarge { limit: 8, .. }));
/// assert_eq!(accumulator.snapshot().to_bytes(), "12345");
/// ```
#[derive(Debug)]
pub struct ContentAccumulator {
    log: Kind,
}

#[derive(Debug)]
enum Kind {
    Shared(Writers),
    /// Somebody else is its only writer.
    Written(Arc<Log>),
}

// === impl ContentAccumulator ===

impl ContentAccumulator {
    /// An accumulator for at most `max_size` bytes of content. It holds no block until the first chunk.
    pub fn new(max_size: usize) -> Self {
        Self { log: Kind::Shared(Writers::new(max_size as u64, &pool::ZEROED)) }
    }

    /// What a lone writer keeps: it takes no chunks itself.
    pub(crate) fn written(log: Arc<Log>) -> Self {
        Self { log: Kind::Written(log) }
    }

    /// Appends a chunk.
    ///
    /// Lock-free, from any thread. Chunks of one thread keep their order.
    ///
    /// # Errors
    ///
    /// [`StreamError::ContentTooLarge`] where the chunk would take the content beyond the limit. The
    /// chunk is not appended, not even in part, and neither is any later one: content never has a hole.
    /// [`StreamError::NotTheWriter`] where it belongs to a [`StreamPipeline`](crate::StreamPipeline).
    pub fn append(&self, chunk: Bytes) -> Result<(), StreamError> {
        self.append_at(chunk, Duration::ZERO)
    }

    /// As [`append`](Self::append), with the time at which the chunk arrived: reading a clock takes longer
    /// than appending, so that is left to whoever needs the times. Kept to 1.024 µs, up to 6 days.
    #[inline]
    pub fn append_at(&self, chunk: Bytes, arrival: Duration) -> Result<(), StreamError> {
        let at = content::units(arrival);
        match &self.log {
            Kind::Shared(log) if log.append(chunk, at) => Ok(()),
            Kind::Shared(log) => Err(StreamError::ContentTooLarge { limit: log.limit() }),
            Kind::Written(_) => Err(StreamError::NotTheWriter),
        }
    }

    /// Bytes appended; a chunk that is being appended right now may be counted.
    pub fn len(&self) -> usize {
        match &self.log {
            Kind::Shared(log) => log.len() as usize,
            Kind::Written(log) => log.end() as usize,
        }
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was appended so far: a prefix, in an order that all snapshots agree on.
    ///
    /// Copies no content; walks the chunks once.
    pub fn snapshot(&self) -> Content {
        match &self.log {
            Kind::Shared(log) => Content::new(log.published().map(Piece::Part), None, log.have_overflowed()),
            Kind::Written(log) => log.snapshot(),
        }
    }
}
