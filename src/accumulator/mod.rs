//! The lock-free accumulator: what is kept of a stream, written while it is read.
//!
//! A log of blocks. A block holds small chunks as words, each behind a header, and has slots for large chunks, which
//! are kept by reference. Blocks are linked by a pointer that is set once. Their memory comes from a pool that the
//! streams of a layer share, and goes back to it.
//!
//! A reader never stalls the writer: any number of readers take snapshots, and none waits for another. A mutex around
//! one growing string has the opposite property: a reader that copies it stalls the writer for milliseconds.
//!
//! # Invariants
//!
//! 1. *Claim, then write.* A writer claims bytes, words and a chunk of a block in one exchange of its claim word. Claims
//!    never overlap and never exceed the limit: the exchange that would is not made. A body's buffer has one writer,
//!    which needs no exchange: it writes first and claims last.
//! 2. *Write, then publish.* A chunk's header is stored with Release after its bytes, so a reader that sees the header
//!    with Acquire sees the bytes. Until then the header is 0.
//! 3. *A prefix.* A reader stops at the first header that is 0, never looks beyond what is claimed, and passes to the
//!    next block only at the exact word at which the block was closed. A lone writer claims what it has published, so
//!    its words need not be 0 before. No reader sees a chunk without all that were claimed before it.
//! 4. *Closed is final.* The claim of a closed block never changes, so the next block's place in the log is exact.
//! 5. *Once over, always over.* After a chunk was refused none is taken, so content never has a hole. (Writers that race
//!    with the first refusal may still append a smaller chunk; it is part of the order that the claims made.)
//! 6. *Links are set once.* A set link owns one strong count of its block, released by whoever has exclusive access to
//!    the block that contains the link. Blocks are reused only by an exclusive owner.
//! 7. *What many write stays.* A log with many writers is never trimmed, so each of its blocks lives as long as the log.
//! 8. *Freeing is a loop.* Dropping a chain never recurses, and readers keep alive what they stand on.
//! 9. *Positions are the stream's.* A block knows the position of its first byte in the stream. Where a writer left
//!    bytes out, the next block does not adjoin.
//!
//! `unsafe` code copies content in and out of words (`raw`, called by `block`), owns the count behind a link (`link`),
//! and follows the pointer to the last block of many writers (`shared_log`). Each use cites these invariants.

mod block;
mod budget;
mod buffer;
mod capture;
mod chunk;
#[cfg(feature = "serde")]
mod chunk_bytes;
mod content;
mod content_accumulator;
#[cfg(feature = "serde")]
mod content_serde;
mod content_writer;
mod error;
mod layout;
mod link;
mod log;
#[cfg(all(test, accumulator_loom))]
mod models;
mod pool;
mod raw;
mod reader;
mod shared_log;
mod span;
mod spill;
#[cfg(all(test, not(accumulator_loom)))]
mod tests;

pub use self::budget::MemoryBudget;
pub use self::capture::Capture;
pub use self::chunk::StreamChunk;
pub use self::content::Content;
pub use self::content_accumulator::ContentAccumulator;
pub use self::content_writer::{ContentReader, ContentWriter};
pub use self::error::AppendError;

pub(crate) use self::block::Pool;
pub(crate) use self::budget::Mark;
pub(crate) use self::buffer::{BufferConfig, BufferWriter, StreamBuffer};
pub(crate) use self::reader::{BufferReader, ReadStep};
pub(crate) use self::spill::SpillWorker;
