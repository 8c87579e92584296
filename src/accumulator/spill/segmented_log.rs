//! The log of one stream, and the segments that were moved out of it.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use atomic_waker::AtomicWaker;
use flume::Sender;

use super::file::SpillFile;
use super::segment::{Segment, SegmentBuilder};
use crate::accumulator::block::{Block, Chain, Cursor, Entry, Pool};
use crate::accumulator::log::{Log, LogLimits};
use crate::accumulator::span::LogSpan;

/// Bytes of a segment. The kernel writes segments of this size as fast as larger ones, and they compress as well.
const SEGMENT: usize = 256 * 1024;

/// Bytes in closed blocks from which compressing them pays. Smaller segments compress badly.
const WORTHWHILE: u64 = 32 * 1024;

/// Bytes that a log may be ahead of its file, however many chunks they are; less under a small budget.
const AHEAD: u64 = 1024 * 1024;

/// How the content of a layer's streams is moved.
#[derive(Debug)]
pub(super) struct SegmentConfig {
    /// Bytes of content from which a stream is spilled.
    pub(super) spill_after: Option<u64>,
    pub(super) directory: PathBuf,
    pub(super) compress: bool,
}

/// The log of one stream, and the segments that were moved out of it.
#[derive(Debug)]
pub(in crate::accumulator) struct SegmentedLog {
    config: Arc<SegmentConfig>,
    jobs: Sender<Arc<SegmentedLog>>,
    pool: Arc<Pool>,
    log: Log,
    stored: Mutex<Stored>,
    /// Chunks and bytes that were moved.
    chunks: AtomicU64,
    bytes: AtomicU64,
    is_queued: AtomicBool,
    spills: AtomicBool,
    /// Nothing is appended any more: the rest may be moved, too.
    is_complete: AtomicBool,
    has_failed: AtomicBool,
    /// It did not become smaller, or there was no memory for it.
    is_incompressible: AtomicBool,
    body: AtomicWaker,
}

/// What was moved, and where the log goes on from there.
#[derive(Debug, Default)]
struct Stored {
    segments: Arc<Vec<Segment>>,
    file: Option<Arc<SpillFile>>,
    rest: Chain,
    cursor: Cursor,
    error: Option<Arc<str>>,
}

// === impl SegmentedLog ===

impl SegmentedLog {
    pub(super) fn new(
        config: &Arc<SegmentConfig>,
        jobs: &Sender<Arc<Self>>,
        pool: &Arc<Pool>,
        limit: u64,
    ) -> Self {
        let limits = LogLimits { block_content: SEGMENT as u64, ..LogLimits::limited(limit) };
        Self {
            config: Arc::clone(config),
            jobs: jobs.clone(),
            pool: Arc::clone(pool),
            log: Log::trimmable(limits),
            stored: Mutex::default(),
            chunks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            is_queued: AtomicBool::new(false),
            spills: AtomicBool::new(false),
            is_complete: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            is_incompressible: AtomicBool::new(false),
            body: AtomicWaker::new(),
        }
    }

    pub(in crate::accumulator) fn log(&self) -> &Log {
        &self.log
    }

    /// Whether content goes to a file.
    pub(in crate::accumulator) fn spills(&self) -> bool {
        self.spills.load(Relaxed) && !self.has_failed()
    }

    pub(in crate::accumulator) fn has_failed(&self) -> bool {
        // Acquire: pairs with the Release in `fail`.
        self.has_failed.load(Acquire)
    }

    /// Tells that the log has grown by a block, to `bytes` of content, and whether memory is `short`.
    pub(in crate::accumulator) fn grown(self: &Arc<Self>, bytes: u64, short: bool) {
        if self.has_failed() {
            return;
        }
        if self.config.spill_after.is_some_and(|after| short || bytes > after) {
            self.spills.store(true, Relaxed);
        }
        let is_worthwhile = self.compresses() && bytes - self.bytes.load(Relaxed) >= WORTHWHILE;
        if self.spills() || is_worthwhile {
            self.queue();
        }
    }

    /// Tells that the stream has ended.
    pub(in crate::accumulator) fn complete(self: &Arc<Self>) {
        // Release: pairs with the Acquire in `move_segment`. Without it the last chunks could be missed.
        self.is_complete.store(true, Release);
        if self.spills() || (self.compresses() && self.len() >= WORTHWHILE) {
            self.queue();
        }
    }

    fn compresses(&self) -> bool {
        self.config.compress && !self.is_incompressible.load(Relaxed)
    }

    /// Notes that there is something to move.
    pub(in crate::accumulator) fn queue(self: &Arc<Self>) {
        if self.has_failed() || self.is_queued.swap(true, AcqRel) {
            return;
        }
        if self.jobs.try_send(Arc::clone(self)).is_err() {
            // Each stream is in the queue at most once, and there is room for all that may be in flight. Streams that
            // have ended come on top of that.
            self.fail("too many streams wait for it");
        }
    }

    /// Bytes of content, moved or not.
    pub(in crate::accumulator) fn len(&self) -> u64 {
        // Acquire: pairs with the Release in `move_segment`. The log releases only what was counted before.
        self.log.end().max(self.bytes.load(Acquire))
    }

    /// How far the segments are behind a log that ends at `bytes` and `chunks`: in chunks, or, if they are many bytes,
    /// in the same part of `limit`.
    pub(in crate::accumulator) fn lag(&self, (bytes, chunks): (u64, u64), limit: u64) -> u64 {
        let ahead = self.pool.limit().map_or(AHEAD, |limit| AHEAD.min(limit / 4).max(1));
        let bytes = bytes.saturating_sub(self.bytes.load(Relaxed));
        let chunks = chunks.saturating_sub(self.chunks.load(Relaxed));
        chunks.max((u128::from(bytes) * u128::from(limit) / u128::from(ahead)) as u64)
    }

    /// Registers `waker`, which is woken when more was moved.
    pub(in crate::accumulator) fn wake(&self, waker: &Waker) {
        self.body.register(waker);
    }

    /// Moves nothing any more. What is in the log stays there.
    pub(in crate::accumulator) fn fail(&self, error: &str) {
        self.stored().error.get_or_insert_with(|| error.into());
        // Release: pairs with the Acquire in `has_failed`. Without it a reader could see the failure and not the error.
        self.has_failed.store(true, Release);
        self.body.wake();
    }

    /// Why content could not be moved.
    pub(in crate::accumulator) fn error(&self) -> Option<Arc<str>> {
        self.stored().error.clone()
    }

    /// Where the first `len` bytes of content are at this moment: in the segments, and in what follows them.
    pub(in crate::accumulator) fn contents(&self, len: u64) -> (Arc<Vec<Segment>>, Option<LogSpan>) {
        let stored = self.stored();
        // Changed under the lock only.
        let moved = self.bytes.load(Relaxed);
        let rest = if moved >= len {
            None
        } else if let Some(block) = stored.rest.block() {
            Some(LogSpan::new(Arc::clone(block), stored.cursor, moved..len))
        } else {
            self.log.span(len, u64::MAX)
        };
        (Arc::clone(&stored.segments), rest)
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        // Held for a few instructions, never while a file is read or written.
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what there is to move. Called by the worker's thread.
    pub(super) fn work(&self) {
        // Done first, because what is appended from now on needs another note. AcqRel: pairs with the swap in `queue`.
        // Without it a writer could skip its note, and what it wrote before would not be seen here.
        self.is_queued.swap(false, AcqRel);
        while !self.has_failed() {
            match self.move_segment() {
                Ok(true) => self.body.wake(),
                Ok(false) => return,
                Err(error) => self.fail(&error.to_string()),
            }
        }
    }

    /// Moves one segment. Returns false if there is not enough for one.
    fn move_segment(&self) -> io::Result<bool> {
        let (spills, is_complete) = (self.spills(), self.is_complete.load(Acquire));
        if spills {
            self.move_segments_to_file()?;
        }
        let (start, cursor) = {
            let stored = self.stored();
            (stored.rest.block().cloned(), stored.cursor)
        };
        let Some(start) = start.or_else(|| self.log.first()) else {
            return Ok(false);
        };
        let everything = spills || is_complete;
        let (chunks, end, cursor) = collect(start, cursor, everything);
        if chunks.chunks() == 0 && is_complete {
            self.release_all(&end);
            return Ok(false);
        }
        if chunks.chunks() == 0 || (!everything && (chunks.size() as u64) < WORTHWHILE) {
            return Ok(false);
        }
        let segment = if spills {
            chunks.written_to(&self.file()?, self.compresses())?
        } else {
            match chunks.compressed(&self.pool) {
                Some(segment) => segment,
                None => {
                    self.is_incompressible.store(true, Relaxed);
                    return Ok(false);
                }
            }
        };
        let mut stored = self.stored();
        Arc::make_mut(&mut stored.segments).push(segment);
        // Release: pairs with the Acquire in `len`. Without it the log could seem empty before the bytes are counted.
        self.bytes.fetch_add(chunks.content(), Release);
        self.chunks.fetch_add(chunks.chunks(), Relaxed);
        let before = std::mem::replace(&mut stored.rest, Chain::new(Arc::clone(&end)));
        stored.cursor = cursor;
        drop(stored);
        drop(before);
        self.log.release_before(&end);
        Ok(true)
    }

    /// Releases the last block, too, once the stream has ended and all of it was moved.
    fn release_all(&self, end: &Arc<Block>) {
        let mut stored = self.stored();
        // A stream stopped from another thread may have appended one more chunk. Its block stays then.
        if Block::last(end).end().0 > self.bytes.load(Relaxed) {
            return;
        }
        let rest = std::mem::take(&mut stored.rest);
        drop(stored);
        self.log.clear();
        drop(rest);
    }

    /// Moves what was compressed in memory before the stream began to spill.
    fn move_segments_to_file(&self) -> io::Result<()> {
        let segments = Arc::clone(&self.stored().segments);
        if !segments.iter().any(Segment::is_in_memory) {
            return Ok(());
        }
        let file = self.file()?;
        let moved = segments.iter().map(|segment| segment.moved_to(&file)).collect::<io::Result<Vec<_>>>()?;
        self.stored().segments = Arc::new(moved);
        Ok(())
    }

    fn file(&self) -> io::Result<Arc<SpillFile>> {
        if let Some(file) = &self.stored().file {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(SpillFile::create(&self.config.directory)?);
        self.stored().file = Some(Arc::clone(&file));
        Ok(file)
    }
}

/// The chunks of about one segment behind `cursor`, and where they end: those of closed blocks, or of all.
fn collect(mut block: Arc<Block>, mut cursor: Cursor, all: bool) -> (SegmentBuilder, Arc<Block>, Cursor) {
    let mut chunks = SegmentBuilder::default();
    while chunks.size() < SEGMENT && (all || block.is_closed()) {
        let (entry, next) = block.read(cursor);
        match entry {
            Entry::Chunk(chunk) => {
                chunks.push(chunk.bytes(), chunk.at());
                cursor = next;
            }
            Entry::Next(next) => match next.cloned() {
                Some(next) => (block, cursor) = (next, Cursor::default()),
                None => break,
            },
            Entry::End => break,
        }
    }
    (chunks, block, cursor)
}
