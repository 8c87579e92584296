//! What is moved out of a stream's log while it grows: compressed, or spilled to a file.
//!
//! The archive is a reader of the log like any other. A thread of the layer's own works for it, never one
//! of the runtime's: the writer hands it a note that there is something to do, at most one at a time. What
//! it has moved, the log lets go of. So memory holds at most what the archive is behind by.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread;

use atomic_waker::AtomicWaker;
use flume::Sender;

use super::block::{Block, Chain, Cursor, Entry};
use super::content::Part;
use super::log::{Log, Rules};
use super::pool::Pool;
use super::unit::{Packing, SpillFile, Unit};

/// Bytes of a unit: pieces of this size are written as fast as the kernel takes them, and compress as
/// well as larger ones.
const UNIT: usize = 256 * 1024;

/// Bytes of sealed blocks from which compressing is worth while; smaller pieces compress badly.
const WORTHWHILE: u64 = 32 * 1024;

/// Bytes that a log may be ahead of its file, whatever its chunks' number; less under a small budget.
const AHEAD: u64 = 1024 * 1024;

/// How a layer's archives are kept, and the thread that works for them.
#[derive(Debug)]
pub(crate) struct SpillWorker {
    /// Bytes of content from which a stream is spilled.
    pub(crate) spill_after: Option<u64>,
    directory: PathBuf,
    compress: bool,
    jobs: Sender<Arc<Archive>>,
}

/// The head of one stream: its log, and what was moved out of that.
#[derive(Debug)]
pub(crate) struct Archive {
    archivist: Arc<SpillWorker>,
    pool: Arc<Pool>,
    log: Log,
    moved: Mutex<Moved>,
    /// Chunks and bytes that were moved.
    chunks: AtomicU64,
    bytes: AtomicU64,
    is_queued: AtomicBool,
    spills: AtomicBool,
    /// Nothing is appended any more: the rest may be moved, too.
    is_complete: AtomicBool,
    has_failed: AtomicBool,
    /// It did not become smaller, or there was no memory to do it.
    is_incompressible: AtomicBool,
    body: AtomicWaker,
}

/// What was moved, and where the log goes on from there.
#[derive(Debug, Default)]
struct Moved {
    units: Arc<Vec<Unit>>,
    file: Option<Arc<SpillFile>>,
    rest: Chain,
    cursor: Cursor,
    error: Option<Arc<str>>,
}

// === impl SpillWorker ===

impl SpillWorker {
    /// Looks whether `spill`'s directory can be written to, and starts the thread. `jobs` is how many streams
    /// there may be.
    pub(crate) fn start(spill: Option<(u64, PathBuf)>, compress: bool, jobs: usize) -> io::Result<Arc<Self>> {
        if let Some((_, directory)) = &spill {
            // Better now than with the first stream.
            SpillFile::create(directory)?.check()?;
        }
        let (sender, receiver) = flume::bounded::<Arc<Archive>>(jobs);
        thread::Builder::new().name("stream-archivist".into()).spawn(move || {
            for archive in receiver {
                let work = AssertUnwindSafe(|| archive.work());
                if catch_unwind(work).is_err() {
                    // Else its body might wait for it for ever.
                    archive.fail("a panic, which is a bug in this crate");
                }
            }
        })?;
        let (spill_after, directory) = spill.unzip();
        Ok(Arc::new(Self { spill_after, directory: directory.unwrap_or_default(), compress, jobs: sender }))
    }
}

// === impl Archive ===

impl Archive {
    pub(super) fn new(archivist: &Arc<SpillWorker>, pool: &Arc<Pool>, limit: u64) -> Self {
        Self {
            archivist: Arc::clone(archivist),
            pool: Arc::clone(pool),
            log: Log::moving(Rules { most: UNIT as u64, ..Rules::limited(limit) }),
            moved: Mutex::default(),
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

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// Whether content goes to a file.
    pub(super) fn spills(&self) -> bool {
        self.spills.load(Relaxed) && !self.has_failed()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Acquire)
    }

    /// The log has grown by a block, to `bytes` of content. `short` says that memory is.
    pub(super) fn grown(self: &Arc<Self>, bytes: u64, short: bool) {
        if self.has_failed() {
            return;
        }
        if self.archivist.spill_after.is_some_and(|after| short || bytes > after) {
            self.spills.store(true, Relaxed);
        }
        let worthwhile = self.compresses() && bytes - self.bytes.load(Relaxed) >= WORTHWHILE;
        if self.spills() || worthwhile {
            self.queue();
        }
    }

    /// The stream has ended.
    pub(super) fn complete(self: &Arc<Self>) {
        self.is_complete.store(true, Release);
        if self.spills() || (self.compresses() && self.len() >= WORTHWHILE) {
            self.queue();
        }
    }

    fn compresses(&self) -> bool {
        self.archivist.compress && !self.is_incompressible.load(Relaxed)
    }

    /// Notes that there is something to do.
    pub(super) fn queue(self: &Arc<Self>) {
        if self.has_failed() || self.is_queued.swap(true, AcqRel) {
            return;
        }
        if self.archivist.jobs.try_send(Arc::clone(self)).is_err() {
            // Each stream is in the queue once at the most, and there is room for all that may be in flight. Those
            // that have ended come on top of that.
            self.fail("too many streams wait for it");
        }
    }

    /// Bytes of content, moved or not.
    pub(super) fn len(&self) -> u64 {
        // The log lets go of what was counted before.
        self.log.end().max(self.bytes.load(Acquire))
    }

    /// How far the file is behind a log that ends at so many bytes and chunks: in chunks, or what stands for
    /// as much of `limit` where it is many bytes.
    pub(super) fn lag(&self, (bytes, chunks): (u64, u64), limit: u64) -> u64 {
        let ahead = self.pool.limit().map_or(AHEAD, |limit| AHEAD.min(limit / 4).max(1));
        let bytes = bytes.saturating_sub(self.bytes.load(Relaxed));
        let chunks = chunks.saturating_sub(self.chunks.load(Relaxed));
        chunks.max((u128::from(bytes) * u128::from(limit) / u128::from(ahead)) as u64)
    }

    /// Has `waker` woken when the file comes nearer.
    pub(super) fn wake(&self, waker: &Waker) {
        self.body.register(waker);
    }

    /// Moves nothing any more. What is in the log stays there.
    pub(super) fn fail(&self, error: &str) {
        self.moved().error.get_or_insert_with(|| error.into());
        self.has_failed.store(true, Release);
        self.body.wake();
    }

    /// Why content could not be spilled.
    pub(super) fn error(&self) -> Option<Arc<str>> {
        self.moved().error.clone()
    }

    /// What was moved, and the rest up to `bytes` of content.
    pub(super) fn holdings(&self, bytes: u64) -> (Arc<Vec<Unit>>, Option<Part>) {
        let moved = self.moved();
        // Changed under the lock only.
        let left = bytes.saturating_sub(self.bytes.load(Relaxed));
        let rest = match moved.rest.block() {
            Some(block) => Some(Part::starting(Arc::clone(block), moved.cursor, left)),
            None if left == 0 => None,
            None => self.log.first().map(|first| Part::new(first, left)),
        };
        (Arc::clone(&moved.units), rest)
    }

    fn moved(&self) -> MutexGuard<'_, Moved> {
        // Held for a few instructions, never while a file is read or written.
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what there is to move. For the archivist's thread.
    fn work(self: &Arc<Self>) {
        // First: what is appended from now on is worth another note. An exchange, so that what was written before a
        // note that is not needed is seen.
        self.is_queued.swap(false, AcqRel);
        while !self.has_failed() {
            match self.move_unit() {
                Ok(true) => self.body.wake(),
                Ok(false) => return,
                Err(error) => self.fail(&error.to_string()),
            }
        }
    }

    /// Moves one unit, if there is enough for one.
    fn move_unit(&self) -> io::Result<bool> {
        let (spills, is_complete) = (self.spills(), self.is_complete.load(Acquire));
        if spills {
            self.move_units_to_file()?;
        }
        let (start, cursor) = {
            let moved = self.moved();
            (moved.rest.block().cloned(), moved.cursor)
        };
        let Some(start) = start.or_else(|| self.log.first()) else {
            return Ok(false);
        };
        let everything = spills || is_complete;
        let (packing, end, cursor) = collect(start, cursor, everything);
        if packing.chunks() == 0 && is_complete {
            self.let_go_of_all(end, cursor);
            return Ok(false);
        }
        if packing.chunks() == 0 || (!everything && (packing.size() as u64) < WORTHWHILE) {
            return Ok(false);
        }
        let unit = if spills {
            packing.write(&self.file()?, self.compresses())?
        } else {
            match packing.compressed(&self.pool) {
                Some(unit) => unit,
                None => {
                    self.is_incompressible.store(true, Relaxed);
                    return Ok(false);
                }
            }
        };
        let mut moved = self.moved();
        Arc::make_mut(&mut moved.units).push(unit);
        self.bytes.fetch_add(packing.content(), Release);
        self.chunks.fetch_add(packing.chunks(), Relaxed);
        let before = std::mem::replace(&mut moved.rest, Chain::new(Arc::clone(&end)));
        moved.cursor = cursor;
        drop(moved);
        drop(before);
        self.log.let_go_before(&end);
        Ok(true)
    }

    /// Lets go of the last block, too, once the stream has ended and all of it is moved.
    fn let_go_of_all(&self, end: Arc<Block>, cursor: Cursor) {
        let rest = std::mem::take(&mut self.moved().rest);
        self.log.clear();
        drop(rest);
        // A stream that was stopped from outside may have got one more chunk in this very moment. Who counted it
        // shall find it.
        if Block::last(&end).end().0 != self.bytes.load(Relaxed) {
            let mut moved = self.moved();
            (moved.rest, moved.cursor) = (Chain::new(end), cursor);
        }
    }

    /// What was compressed in memory before the stream began to spill.
    fn move_units_to_file(&self) -> io::Result<()> {
        let units = Arc::clone(&self.moved().units);
        if !units.iter().any(Unit::is_in_memory) {
            return Ok(());
        }
        let file = self.file()?;
        let units = units.iter().map(|unit| unit.moved(&file)).collect::<io::Result<Vec<_>>>()?;
        self.moved().units = Arc::new(units);
        Ok(())
    }

    fn file(&self) -> io::Result<Arc<SpillFile>> {
        if let Some(file) = &self.moved().file {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(SpillFile::create(&self.archivist.directory)?);
        self.moved().file = Some(Arc::clone(&file));
        Ok(file)
    }
}

/// The chunks of about one unit behind `cursor`, and where they end: of closed blocks, or of all.
fn collect(mut block: Arc<Block>, mut cursor: Cursor, all: bool) -> (Packing, Arc<Block>, Cursor) {
    let mut packing = Packing::default();
    while packing.size() < UNIT && (all || block.is_closed()) {
        let (entry, next) = block.read(cursor);
        match entry {
            Entry::Chunk(chunk) => {
                packing.push(chunk.bytes(), chunk.at());
                cursor = next;
            }
            Entry::Next(next) => match next.cloned() {
                Some(next) => (block, cursor) = (next, Cursor::default()),
                None => break,
            },
            Entry::End => break,
        }
    }
    (packing, block, cursor)
}
