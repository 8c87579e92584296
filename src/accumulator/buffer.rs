//! The accumulator of one stream: what its capture keeps, and what its taps are to read.
//!
//! Two logs follow each other. The *head* takes chunks up to the capture's limit and keeps them all. Then the *live*
//! log goes on. It is trimmed as it grows, to what a tail keeps and to what taps may still read. A stream that is only
//! captured from its head never has a live log, and one that is neither captured nor tapped has neither. What a head
//! holds may be moved to segments.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use bytes::Bytes;

use super::block::{Block, Pool};
use super::budget::Mark;
use super::capture::Capture;
use super::content::{Content, ContentPart};
use super::log::{Log, LogLimits, LogWriter, Refusal};
use super::spill::{SegmentedLog, SpillWorker};

/// Bytes of the tail that a stream keeps in place of its head while memory is short.
const SHORT_TAIL: u64 = 16 * 1024;

/// Bytes of chunks for taps after which the blocks of a live log without a tail are sized.
const FOR_TAPS: u64 = 64 * 1024;

/// Bytes of chunks that stay readable for taps that are not lossless.
const READABLE: u64 = 1024 * 1024;

/// What the buffers of a layer's streams have in common.
#[derive(Clone, Debug)]
pub(crate) struct BufferConfig {
    pub(crate) capture: Capture,
    pub(crate) pool: Arc<Pool>,
    /// Chunks by which a file may be behind. That many also stay readable for a tap that is not lossless, unless they
    /// are large.
    pub(crate) buffer_limit: u64,
    /// Whether the stream gives up a file that is too far behind, rather than wait for it.
    pub(crate) drops_oldest: bool,
    /// The thread that moves content out of memory, if that is wanted.
    pub(crate) spill: Option<Arc<SpillWorker>>,
}

/// The accumulator of one stream.
#[derive(Debug)]
pub(crate) struct StreamBuffer {
    config: Arc<BufferConfig>,
    head: Head,
    live: OnceLock<Box<Log>>,
    /// Bytes of the live log that are part of the content.
    keep: AtomicU64,
    watched: AtomicBool,
    /// Chunks of the stream up to the last that found no room for taps.
    lost: AtomicU64,
    /// The length of the stream once it has ended, `u64::MAX` before.
    completed: AtomicU64,
    /// Every lossless reader has read the chunks before this one.
    needed: AtomicU64,
}

/// The writing end of a [`StreamBuffer`], for the one task that polls the body.
#[derive(Debug, Default)]
pub(crate) struct BufferWriter {
    writer: LogWriter,
    target: Target,
}

/// The log of the first chunks.
#[derive(Debug)]
enum Head {
    None,
    Plain(Log),
    Segmented(Arc<SegmentedLog>),
}

/// Where chunks go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Target {
    Head,
    /// The live log, which keeps a tail of them.
    Tail,
    /// The live log, for taps alone.
    Taps,
    #[default]
    Nowhere,
}

// === impl BufferConfig ===

impl BufferConfig {
    /// A configuration that moves nothing out of memory.
    pub(crate) fn in_memory(
        capture: Capture,
        pool: Arc<Pool>,
        buffer_limit: u64,
        drops_oldest: bool,
    ) -> Self {
        Self { capture, pool, buffer_limit, drops_oldest, spill: None }
    }
}

// === impl StreamBuffer ===

impl StreamBuffer {
    pub(crate) fn new(config: &Arc<BufferConfig>) -> Self {
        let (head, keep) = config.capture.limits();
        Self {
            config: Arc::clone(config),
            head: match &config.spill {
                _ if head == 0 => Head::None,
                None => Head::Plain(Log::limited(head)),
                Some(worker) => Head::Segmented(worker.log(&config.pool, head)),
            },
            live: OnceLock::new(),
            keep: AtomicU64::new(keep),
            watched: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            completed: AtomicU64::new(u64::MAX),
            needed: AtomicU64::new(u64::MAX),
        }
    }

    /// The writing end. There must be only one.
    pub(crate) fn writer(&self) -> BufferWriter {
        let target = match self.head {
            Head::None if self.keep() > 0 => Target::Tail,
            Head::None => Target::Nowhere,
            _ => Target::Head,
        };
        BufferWriter { writer: LogWriter::default(), target }
    }

    /// Whether there are taps.
    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    pub(crate) fn set_watched(&self, watched: bool) {
        self.watched.store(watched, Ordering::SeqCst);
    }

    /// Tells that every lossless reader has read the first `chunks`.
    #[inline]
    pub(crate) fn set_needed(&self, chunks: u64) {
        self.needed.store(chunks, Ordering::Relaxed);
    }

    /// Keeps what the capture and the taps want of `chunk`, which is not empty and arrived `at`, in units of 1,024 ns.
    /// `writer` must come from this buffer.
    #[inline]
    pub(crate) fn append(&self, writer: &mut BufferWriter, chunk: &Bytes, at: u64) {
        if !writer.writer.append(chunk, at) {
            self.append_slowly(writer, chunk, at);
        }
    }

    /// Begins to write for taps, where nothing was written so far. The stream stands at `bytes` and `chunks`.
    #[cold]
    pub(crate) fn resume(&self, writer: &mut BufferWriter, bytes: u64, chunks: u64) {
        let (at_bytes, at_chunks) = writer.writer.end();
        writer.writer.leave(bytes.saturating_sub(at_bytes), chunks.saturating_sub(at_chunks));
        writer.target = Target::Taps;
    }

    /// Stops writing for taps, because the last one is gone.
    #[cold]
    pub(crate) fn pause(&self, writer: &mut BufferWriter) {
        writer.writer.leave(0, 0);
        writer.target = Target::Nowhere;
        if let Some(live) = self.live.get() {
            live.clear();
        }
    }

    /// Whether the body must look at its readers, or at the file, before it is polled.
    #[inline]
    pub(crate) fn is_gated(&self) -> bool {
        self.is_watched() || matches!(&self.head, Head::Segmented(log) if log.spills())
    }

    /// How many chunks the file is behind, 0 if that is less than `mark`. From there on `waker` is woken when it has
    /// come nearer.
    pub(crate) fn spill_lag(&self, writer: &BufferWriter, mark: u64, waker: &Waker) -> u64 {
        let Head::Segmented(log) = &self.head else {
            return 0;
        };
        if !log.spills() || writer.target != Target::Head {
            return 0;
        }
        let lag = || log.lag(writer.writer.end(), self.config.buffer_limit);
        if lag() < mark {
            return 0;
        }
        log.wake(waker);
        log.queue();
        // Sees what was moved, or given up, before there was a waker.
        if log.spills() { lag() } else { 0 }
    }

    /// Tells that the stream has ended after `pulled` bytes.
    pub(crate) fn complete(&self, pulled: u64) {
        // Relaxed: the fence in `trim_to_tail` orders it.
        self.completed.store(pulled, Ordering::Relaxed);
        self.trim_to_tail();
        if let Head::Segmented(log) = &self.head {
            log.complete();
        }
    }

    /// Releases what only taps needed, once there are none and the stream has ended.
    pub(crate) fn trim_to_tail(&self) {
        // SeqCst: pairs with itself. Of the last reader that leaves and the stream that ends, one sees the other.
        // Without it both could leave the blocks to the other.
        fence(Ordering::SeqCst);
        let end = self.completed.load(Ordering::Relaxed);
        if self.is_watched() || end == u64::MAX {
            return;
        }
        match (self.live.get(), self.keep()) {
            (None, _) => {}
            (Some(live), 0) => live.clear(),
            (Some(live), keep) => live.trim(|before, _| end.saturating_sub(before) >= keep),
        }
    }

    /// What is kept of the first `pulled` bytes of the stream, and never more than that.
    ///
    /// The content is what the capture keeps of a stream of `pulled` bytes, if the stream is at most one chunk further.
    /// If it has gone on since it was at `pulled`, bytes of the tail may be missing.
    pub(crate) fn snapshot(&self, pulled: u64) -> Content {
        // The live log first: once there is one the head is complete, so there is no hole between the two.
        let keep = self.keep();
        let live = self.live.get().filter(|_| keep > 0).and_then(|live| live.span(pulled, keep));
        let head = match &self.head {
            Head::None => None,
            Head::Plain(log) => log.span(pulled, u64::MAX).map(ContentPart::Span),
            Head::Segmented(log) => Some(ContentPart::segmented(log, log.len().min(pulled))),
        };
        let tail = live.map(ContentPart::Span);
        let kept = [&head, &tail].into_iter().flatten().map(ContentPart::len).sum::<u64>();
        Content::new(head, tail, kept < pulled)
    }

    /// Chunks of the stream up to the last that found no room for taps.
    pub(super) fn lost(&self) -> u64 {
        // Acquire: pairs with the Release in `append_to_live`. Without it the blocks before it could seem to be there.
        self.lost.load(Ordering::Acquire)
    }

    /// The first block of the head, and of the live log.
    pub(super) fn firsts(&self) -> [Option<Arc<Block>>; 2] {
        let live = self.live.get().and_then(|live| live.first());
        [self.head.log().and_then(Log::first), live]
    }

    fn keep(&self) -> u64 {
        self.keep.load(Ordering::Relaxed)
    }

    #[cold]
    fn append_slowly(&self, writer: &mut BufferWriter, chunk: &Bytes, at: u64) {
        let mut chunk = chunk.clone();
        while !chunk.is_empty() {
            match (writer.target, self.head.log()) {
                (Target::Head, Some(head)) => chunk = self.append_to_head(writer, head, chunk, at),
                (Target::Tail | Target::Taps, _) => return self.append_to_live(writer, &chunk, at),
                _ => return,
            }
        }
    }

    /// Returns what of `chunk` the head did not take.
    fn append_to_head(&self, writer: &mut BufferWriter, head: &Log, chunk: Bytes, at: u64) -> Bytes {
        let pool = &self.config.pool;
        let appended = writer.writer.append_to(head, pool, Mark::Head, &chunk, at);
        let rest = match appended {
            Ok(grown) => {
                if let Head::Segmented(log) = &self.head {
                    if grown {
                        self.move_out(log, writer);
                    }
                    if log.has_failed() {
                        // What could not be moved stays in the log, and the head ends there.
                        self.leave_head(writer);
                    }
                }
                return Bytes::new();
            }
            Err(Refusal::OverLimit(0)) => chunk,
            Err(Refusal::OverLimit(room)) => {
                let first = chunk.slice(..room as usize);
                match writer.writer.append_to(head, pool, Mark::Head, &first, at) {
                    Ok(_) => chunk.slice(room as usize..),
                    Err(_) => {
                        self.keep_short(writer);
                        chunk
                    }
                }
            }
            Err(Refusal::OverBudget) => {
                self.keep_short(writer);
                chunk
            }
        };
        self.leave_head(writer);
        rest
    }

    fn leave_head(&self, writer: &mut BufferWriter) {
        writer.writer.leave(0, 0);
        writer.target = match self.keep() {
            1.. => Target::Tail,
            0 if self.is_watched() => Target::Taps,
            0 => Target::Nowhere,
        };
    }

    /// Keeps a short tail of the rest of the stream, within the capture's limit.
    fn keep_short(&self, writer: &BufferWriter) {
        let (head, tail) = self.config.capture.limits();
        let left = head.saturating_add(tail) - writer.writer.end().0;
        self.keep.store(SHORT_TAIL.min(left), Ordering::Relaxed);
    }

    /// Asks the worker to move what it should.
    fn move_out(&self, log: &Arc<SegmentedLog>, writer: &BufferWriter) {
        let end = writer.writer.end();
        log.grown(end.0, self.config.pool.is_beyond(Mark::Spill));
        let limit = self.config.buffer_limit;
        if self.config.drops_oldest && log.spills() && log.lag(end, limit) > limit {
            log.fail("the disk was too slow, and the strategy is not to wait for it");
        }
    }

    fn append_to_live(&self, writer: &mut BufferWriter, chunk: &Bytes, at: u64) {
        let (watched, keep) = (self.is_watched(), self.keep());
        let live = self.live.get_or_init(|| {
            let limits = LogLimits::trimmed(if keep > 0 { keep } else { FOR_TAPS });
            Box::new(Log::trimmable(limits))
        });
        let before = writer.writer.end();
        // A tail has no use for more than its length. Without one this is for taps: if the last of them has left just
        // now, the next may come before `pause`, and must not find an empty chunk.
        let excess = if watched || keep == 0 { 0 } else { (chunk.len() as u64).saturating_sub(keep) };
        if excess > 0 {
            writer.writer.skip(excess);
        }
        let kept = chunk.slice(excess as usize..);
        let mark = if watched { Mark::Full } else { Mark::Tail };
        match writer.writer.append_to(live, &self.config.pool, mark, &kept, at) {
            Ok(grown) => {
                if grown {
                    self.trim(live, before, keep, watched);
                }
            }
            Err(_) => {
                // The tail would not be the stream's last bytes any more.
                self.keep.store(0, Ordering::Relaxed);
                live.clear();
                writer.writer.leave(kept.len() as u64, 1);
                // Release: pairs with the Acquire in `lost`.
                self.lost.store(writer.writer.end().1, Ordering::Release);
                writer.target = if watched { Target::Taps } else { Target::Nowhere };
            }
        }
    }

    /// Releases what neither the tail nor a tap needs. `end` is where the stream stood before its newest chunk, because
    /// a stream that ends meanwhile may end there.
    fn trim(&self, live: &Log, end: (u64, u64), keep: u64, watched: bool) {
        let needed = self.needed.load(Ordering::Relaxed);
        live.trim(|bytes_before, chunks_before| {
            let bytes = end.0.saturating_sub(bytes_before);
            let chunks = (end.1 + 1).saturating_sub(chunks_before);
            let is_read =
                chunks_before <= needed && (chunks >= self.config.buffer_limit || bytes >= READABLE);
            bytes >= keep && (is_read || !watched)
        });
    }
}

// === impl BufferWriter ===

impl BufferWriter {
    /// Whether chunks are written even if there are no taps.
    #[inline]
    pub(crate) fn keeps(&self) -> bool {
        matches!(self.target, Target::Head | Target::Tail)
    }

    /// Whether chunks are written nowhere.
    pub(crate) fn is_idle(&self) -> bool {
        self.target == Target::Nowhere
    }

    /// Chunks of the stream up to here, unless it is idle.
    pub(crate) fn chunks(&self) -> u64 {
        self.writer.end().1
    }
}

// === impl Head ===

impl Head {
    fn log(&self) -> Option<&Log> {
        match self {
            Self::None => None,
            Self::Plain(log) => Some(log),
            Self::Segmented(log) => Some(log.log()),
        }
    }
}
