//! The accumulator of one stream: what its capture keeps, and what its taps are to read.
//!
//! Two logs follow each other. The *head* takes chunks up to the capture's limit and keeps them all. Then
//! the *live* log goes on: it is trimmed as it grows, to what a tail is to keep and to what taps may still
//! read. A stream that is only captured from its head never has a live log, and one that is neither
//! captured nor tapped has none of the two. What a head holds may be moved on, to an archive.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use bytes::Bytes;

use super::archive::{Archive, SpillWorker};
use super::block::Block;
use super::capture::Capture;
use super::content::{Content, Piece};
use super::log::{Log, Refused, Rules, Writer};
use super::pool::Pool;
use crate::accumulator::budget::Mark;

/// Bytes of the tail that a stream keeps in place of its head while memory is short.
const SHORT_TAIL: u64 = 16 * 1024;

/// Bytes of chunks for taps by which the blocks of a live log are sized that keeps no tail.
const FOR_TAPS: u64 = 64 * 1024;

/// Bytes of chunks that stay readable for taps that nobody waits for.
const READABLE: u64 = 1024 * 1024;

/// What the accumulators of a layer's streams are made by.
#[derive(Clone, Debug)]
pub(crate) struct BufferConfig {
    pub(crate) capture: Capture,
    pub(crate) pool: Arc<Pool>,
    pub(crate) buffer_limit: u64,
    pub(crate) drops_oldest: bool,
    /// Who moves content out of memory, where that is wanted.
    pub(crate) spill: Option<Arc<SpillWorker>>,
}

/// The accumulator of one stream.
#[derive(Debug)]
pub(crate) struct StreamBuffer {
    keeping: Arc<BufferConfig>,
    head: Head,
    live: OnceLock<Box<Log>>,
    /// Bytes of the live log that are part of the content.
    keep: AtomicU64,
    watched: AtomicBool,
    /// Chunks of the stream up to the last that found no room for taps.
    lost: AtomicU64,
    is_complete: AtomicBool,
    /// Chunks before this one every reader has read that is waited for.
    needed: AtomicU64,
}

/// The writing end of a [`StreamBuffer`], for the one task that polls the body.
#[derive(Debug, Default)]
pub(crate) struct BufferWriter {
    writer: Writer,
    place: Place,
}

/// The log of the first chunks.
#[derive(Debug)]
enum Head {
    None,
    Plain(Log),
    Archived(Arc<Archive>),
    /// A [`ContentAccumulator`](super::ContentAccumulator)'s: it takes chunks whole or not at all, and no tail
    /// follows it.
    Shared(Arc<Log>),
}

/// Where chunks go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    Head,
    /// To the live log, which keeps a tail of them.
    Tail,
    /// To the live log, for taps alone.
    Taps,
    #[default]
    Nowhere,
}

impl BufferConfig {
    pub(crate) fn in_memory(capture: Capture, pool: Arc<Pool>, buffer_limit: u64, drops_oldest: bool) -> Self {
        Self { capture, pool, buffer_limit, drops_oldest, spill: None }
    }
}

// === impl StreamBuffer ===

impl StreamBuffer {
    pub(crate) fn new(keeping: &Arc<BufferConfig>) -> Self {
        let (head, keep) = keeping.capture.limits();
        Self {
            keeping: Arc::clone(keeping),
            head: match &keeping.spill {
                _ if head == 0 => Head::None,
                None => Head::Plain(Log::limited(head)),
                Some(archivist) => Head::Archived(Arc::new(Archive::new(archivist, &keeping.pool, head))),
            },
            live: OnceLock::new(),
            keep: AtomicU64::new(keep),
            watched: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            is_complete: AtomicBool::new(false),
            needed: AtomicU64::new(u64::MAX),
        }
    }

    /// As [`new`](Self::new), with `log` for a head.
    pub(crate) fn into(keeping: &Arc<BufferConfig>, log: &Arc<Log>) -> Self {
        let capturing = Self::new(keeping);
        Self { head: Head::Shared(Arc::clone(log)), ..capturing }
    }

    /// The writing end. There must be one only.
    pub(crate) fn writer(&self) -> BufferWriter {
        let place = match self.head {
            Head::None if self.keep() > 0 => Place::Tail,
            Head::None => Place::Nowhere,
            _ => Place::Head,
        };
        BufferWriter { writer: Writer::default(), place }
    }

    /// Whether somebody reads chunks while the stream runs.
    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    pub(crate) fn set_watched(&self, watched: bool) {
        self.watched.store(watched, Ordering::SeqCst);
    }

    /// Chunks before `chunks` are needed by no reader that is waited for.
    #[inline]
    pub(crate) fn set_needed(&self, chunks: u64) {
        self.needed.store(chunks, Ordering::Relaxed);
    }

    /// Keeps what is to be kept of `chunk`, which is not empty and arrived `at`, in units of 1,024 ns.
    /// `writer` is the one that was made here.
    #[inline]
    pub(crate) fn append(&self, writer: &mut BufferWriter, chunk: &Bytes, at: u64) {
        if !writer.writer.append(chunk, at) {
            self.append_slowly(writer, chunk, at);
        }
    }

    /// Begins to write for taps, where nothing was written so far: the stream stands at so many bytes and
    /// chunks.
    #[cold]
    pub(crate) fn resume(&self, writer: &mut BufferWriter, bytes: u64, chunks: u64) {
        let (at_bytes, at_chunks) = writer.writer.end();
        writer.writer.leave(bytes.saturating_sub(at_bytes), chunks.saturating_sub(at_chunks));
        writer.place = Place::Taps;
    }

    /// The last tap is gone, and what is written for taps is written for nobody.
    #[cold]
    pub(crate) fn pause(&self, writer: &mut BufferWriter) {
        writer.writer.leave(0, 0);
        writer.place = Place::Nowhere;
        if let Some(live) = self.live.get() {
            live.clear();
        }
    }

    #[cold]
    fn append_slowly(&self, writer: &mut BufferWriter, chunk: &Bytes, at: u64) {
        let mut chunk = chunk.clone();
        while !chunk.is_empty() {
            match (writer.place, self.head.log()) {
                (Place::Head, Some(head)) => chunk = self.append_to_head(writer, head, chunk, at),
                (Place::Tail | Place::Taps, _) => return self.append_to_live(writer, &chunk, at),
                _ => return,
            }
        }
    }

    /// What of `chunk` the head did not take.
    fn append_to_head(&self, writer: &mut BufferWriter, head: &Log, chunk: Bytes, at: u64) -> Bytes {
        let pool = &self.keeping.pool;
        let appended = writer.writer.append_to(head, pool, Mark::Head, &chunk, at);
        let rest = match appended {
            Ok(grown) => {
                if let Head::Archived(archive) = &self.head
                    && grown
                {
                    self.archive(archive, writer);
                }
                if self.archive_has_failed() {
                    // What could not be moved to the file stays, and the head ends there.
                    self.leave_head(writer);
                }
                return Bytes::new();
            }
            Err(_) if matches!(self.head, Head::Shared(_)) => chunk,
            Err(Refused::OverLimit(0)) => chunk,
            Err(Refused::OverLimit(room)) => {
                let first = chunk.slice(..room as usize);
                match writer.writer.append_to(head, pool, Mark::Head, &first, at) {
                    Ok(_) => chunk.slice(room as usize..),
                    Err(_) => {
                        self.keep_short(writer);
                        chunk
                    }
                }
            }
            Err(Refused::OverBudget) => {
                self.keep_short(writer);
                chunk
            }
        };
        self.leave_head(writer);
        rest
    }

    fn leave_head(&self, writer: &mut BufferWriter) {
        writer.writer.leave(0, 0);
        writer.place = match self.keep() {
            1.. => Place::Tail,
            0 if self.is_watched() => Place::Taps,
            0 => Place::Nowhere,
        };
    }

    /// Of the rest of the stream a short tail is kept, within the capture's limit.
    fn keep_short(&self, writer: &BufferWriter) {
        let (head, tail) = self.keeping.capture.limits();
        let left = head.saturating_add(tail) - writer.writer.end().0;
        self.keep.store(SHORT_TAIL.min(left), Ordering::Relaxed);
    }

    /// Has the archive move what it should.
    fn archive(&self, archive: &Arc<Archive>, writer: &BufferWriter) {
        let end = writer.writer.end();
        archive.grown(end.0, self.keeping.pool.is_beyond(Mark::Spill));
        let limit = self.keeping.buffer_limit;
        if self.keeping.drops_oldest && archive.spills() && archive.lag(end, limit) > limit {
            archive.fail("the disk was too slow, and the strategy is not to wait for it");
        }
    }

    fn archive_has_failed(&self) -> bool {
        matches!(&self.head, Head::Archived(archive) if archive.has_failed())
    }

    /// Whether the body goes through its gate.
    #[inline]
    pub(crate) fn is_gated(&self) -> bool {
        self.is_watched() || matches!(&self.head, Head::Archived(archive) if archive.spills())
    }

    /// How far the spilled file is behind, in chunks, and has it go on if that is far.
    pub(crate) fn spill_lag(&self, writer: &BufferWriter, mark: u64, waker: &Waker) -> u64 {
        let Head::Archived(archive) = &self.head else {
            return 0;
        };
        if !archive.spills() || writer.place != Place::Head {
            return 0;
        }
        let lag = || archive.lag(writer.writer.end(), self.keeping.buffer_limit);
        if lag() < mark {
            return 0;
        }
        archive.wake(waker);
        archive.queue();
        // What was moved, or given up, before there was a waker is seen here.
        if archive.spills() { lag() } else { 0 }
    }

    /// The stream has ended: nothing more will be appended.
    pub(crate) fn complete(&self) {
        self.is_complete.store(true, Ordering::Release);
        self.trim_to_tail();
        if let Head::Archived(archive) = &self.head {
            archive.complete();
        }
    }

    fn append_to_live(&self, writer: &mut BufferWriter, chunk: &Bytes, at: u64) {
        let (watched, keep) = (self.is_watched(), self.keep());
        let live = self
            .live
            .get_or_init(|| Box::new(Log::moving(Rules::trimmed(if keep > 0 { keep } else { FOR_TAPS }))));
        // A tail has no use for more than its length. Without one this is for taps: where the last of them has gone
        // just now, the next may come before `pause`, and is not to find an empty chunk.
        let excess = if watched || keep == 0 { 0 } else { (chunk.len() as u64).saturating_sub(keep) };
        let kept = chunk.slice(excess as usize..);
        let mark = if watched { Mark::Full } else { Mark::Tail };
        match writer.writer.append_to(live, &self.keeping.pool, mark, &kept, at) {
            Ok(grown) => {
                if grown {
                    self.trim(live, writer.writer.end(), keep, watched);
                }
            }
            Err(_) => {
                // The tail would not be the stream's last bytes any more.
                self.keep.store(0, Ordering::Relaxed);
                live.clear();
                writer.writer.leave(chunk.len() as u64, 1);
                // Release pairs with the Acquire in `lost`: the blocks before it are seen to be gone.
                self.lost.store(writer.writer.end().1, Ordering::Release);
                writer.place = if watched { Place::Taps } else { Place::Nowhere };
            }
        }
    }

    fn trim(&self, live: &Log, end: (u64, u64), keep: u64, watched: bool) {
        let needed = self.needed.load(Ordering::Relaxed);
        live.trim(|bytes_before, chunks_before| {
            let (bytes, chunks) = (end.0 - bytes_before, end.1 - chunks_before);
            let is_read = chunks_before <= needed
                && (chunks >= self.keeping.buffer_limit || bytes >= READABLE);
            bytes >= keep && (is_read || !watched)
        });
    }

    /// Lets go of what only readers needed, once there are none and nothing is written any more.
    pub(crate) fn trim_to_tail(&self) {
        // Pairs with itself: of the last reader that goes and the stream that ends, one sees the other.
        fence(Ordering::SeqCst);
        if self.is_watched() || !self.is_complete.load(Ordering::Relaxed) {
            return;
        }
        match (self.live.get(), self.keep()) {
            (None, _) => {}
            (Some(live), 0) => live.clear(),
            (Some(live), keep) => {
                let end = live.end();
                live.trim(|bytes_before, _| end - bytes_before >= keep);
            }
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Acquire)
    }

    fn keep(&self) -> u64 {
        self.keep.load(Ordering::Relaxed)
    }

    /// The first block of the head, and of the live log.
    pub(super) fn firsts(&self) -> [Option<Arc<Block>>; 2] {
        let live = self.live.get().and_then(|live| live.first());
        [self.head.log().and_then(Log::first), live]
    }

    /// What is kept of a stream of `pulled` bytes.
    pub(crate) fn snapshot(&self, pulled: u64) -> Content {
        // The live log first: once there is one, the head is complete, and there is no hole between.
        let keep = self.keep();
        let live = self.live.get().filter(|_| keep > 0).and_then(|live| live.part());
        let head = match &self.head {
            Head::None => None,
            Head::Plain(log) => log.part().map(Piece::Part),
            Head::Shared(log) => log.part().map(Piece::Part),
            Head::Archived(archive) => Some(Piece::archived(archive)),
        };
        let content = Content::new(head, live.map(|live| Piece::Part(live.last(keep))), false);
        let kept = content.len() as u64;
        content.truncated(kept < pulled)
    }
}

// === impl Head ===

impl Head {
    fn log(&self) -> Option<&Log> {
        match self {
            Self::None => None,
            Self::Plain(log) => Some(log),
            Self::Shared(log) => Some(log),
            Self::Archived(archive) => Some(archive.log()),
        }
    }
}

// === impl BufferWriter ===

impl BufferWriter {
    /// Whether chunks are written whether there are taps or not.
    #[inline]
    pub(crate) fn keeps(&self) -> bool {
        matches!(self.place, Place::Head | Place::Tail)
    }

    /// Whether chunks are written nowhere.
    pub(crate) fn is_idle(&self) -> bool {
        self.place == Place::Nowhere
    }

    /// Chunks of the stream up to here, where it is not idle.
    pub(crate) fn chunks(&self) -> u64 {
        self.writer.end().1
    }
}
