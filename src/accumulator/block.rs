//! One block of the log: a run of words that holds chunks, each behind a header.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::link::Link;
use super::pool::{self, Pool};
use super::words::{self, AtomicU64, Words};

/// Chunks of at least this many bytes are kept by reference, smaller ones are copied.
///
/// A reference costs the same whatever the size, but pins the buffer that the chunk was cut from; a copy
/// costs its bytes. From about 1 KiB on the copy alone takes longer than a lock-free queue takes for a
/// reference (`cargo bench --bench accumulator`).
pub(super) const BY_REFERENCE: usize = 1024;

/// A block of the log. See the invariants in the [module](super).
#[derive(Debug)]
pub(super) struct Block {
    place: Place,
    words: Words,
    tail: AtomicU64,
    has_references: AtomicBool,
    next: Link,
    /// Where it goes in the end.
    pool: Option<Arc<Pool>>,
}

/// Where in its log a block stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// Bytes of content before it.
    pub(super) base: u64,
    /// Chunks before it.
    pub(super) first: u64,
    /// Bytes of content that it takes.
    pub(super) room: u64,
}

/// How much of a block is claimed: one word, so that one exchange claims it all.
///
/// Bits: 0–33 bytes of content, 34–47 words, 48–61 chunks, 63 closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tail(u64);

/// A chunk's header: bit 0 published, bit 1 by reference, 2–24 the length of a copied chunk, the rest its
/// arrival in units of 1,024 ns, which are enough for 6 days.
#[derive(Clone, Copy)]
struct Header(u64);

/// Where a reader stands in a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    word: usize,
    /// Chunks before it in this block.
    pub(super) chunks: u64,
}

/// What a reader found at its cursor.
pub(super) enum Entry<'a> {
    Chunk(Found<'a>),
    /// The block ends here and another follows.
    Next(&'a Link),
    /// Nothing more is published yet.
    End,
}

/// A published chunk. Only [`Block::read`] makes one.
pub(super) struct Found<'a> {
    header: Header,
    words: &'a [AtomicU64],
}

/// Keeps a block, and with it all that follow, until it is dropped.
#[derive(Clone, Debug, Default)]
pub(super) struct Chain(Option<Arc<Block>>);

// === impl Block ===

impl Block {
    /// A block of no log.
    pub(super) fn new(bytes: usize) -> Self {
        Self::with(words::zeroed(bytes))
    }

    fn with(words: Words) -> Self {
        Self {
            place: Place::default(),
            words,
            tail: AtomicU64::new(0),
            has_references: AtomicBool::new(false),
            next: Link::new(),
            pool: None,
        }
    }

    /// Puts it where it is to stand. With the words of an earlier log it is for a lone writer only.
    pub(super) fn place(&mut self, place: Place, pool: Option<Arc<Pool>>) {
        self.place = Place { room: place.room.min(Tail::BYTES), ..place };
        self.pool = pool;
    }

    /// Bytes that a block needs at least to take a chunk of `len` bytes.
    pub(super) fn needed(len: usize) -> usize {
        words_of(len) * 8
    }

    /// Bytes that its words take.
    pub(super) fn capacity(&self) -> usize {
        self.words.len() * 8
    }

    /// Bytes of content in the log before this block.
    pub(super) fn base(&self) -> u64 {
        self.place.base
    }

    /// Chunks in the log before this block.
    pub(super) fn first(&self) -> u64 {
        self.place.first
    }

    /// Bytes and chunks in the log up to what is claimed of this block.
    pub(super) fn end(&self) -> (u64, u64) {
        self.end_at(self.tail(Ordering::Acquire))
    }

    /// As [`end`](Self::end), for whoever knows the tail.
    pub(super) fn end_at(&self, tail: Tail) -> (u64, u64) {
        (self.place.base + tail.bytes(), self.place.first + tail.chunks())
    }

    pub(super) fn next(&self) -> &Link {
        &self.next
    }

    /// The last block of the chain that `first` begins.
    pub(super) fn last(first: &Arc<Self>) -> Arc<Self> {
        let mut last = Arc::clone(first);
        while let Some(next) = last.next.cloned() {
            last = next;
        }
        last
    }

    /// Whether the words of a chunk of `len` bytes still fit, whatever its room says.
    pub(super) fn has_words_for(&self, len: usize) -> bool {
        let tail = self.tail(Ordering::Acquire);
        !tail.is_closed() && tail.words() + words_of(len) <= self.words.len()
    }

    /// The tail with a chunk of `len` bytes in it, if that fits.
    #[inline]
    fn claim(&self, tail: Tail, len: usize) -> Option<Tail> {
        // Looked at first, because no more than the room fits into a tail's bits.
        if len as u64 > self.place.room - tail.bytes() || tail.is_closed() {
            return None;
        }
        let claim = tail.with(len);
        (claim.words() <= self.words.len()).then_some(claim)
    }

    /// Claims room for a chunk of `len` bytes, if it fits: for [`fill`](Self::fill), which must follow. Any
    /// number of threads.
    #[inline]
    pub(super) fn claim_shared(&self, len: usize) -> Option<Tail> {
        // Acquire is not needed: what a claim protects is written after it, by its owner alone.
        let mut tail = self.tail(Ordering::Relaxed);
        loop {
            let claim = self.claim(tail, len)?;
            // Release pairs with the Acquire in `end`: whoever sees the claim sees the earlier ones.
            match self.tail.compare_exchange_weak(tail.0, claim.0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(tail),
                Err(found) => tail = Tail(found),
            }
        }
    }

    /// Fills what was claimed behind `tail`.
    #[inline]
    pub(super) fn fill(&self, tail: Tail, chunk: Bytes, at: u64) {
        if chunk.len() < BY_REFERENCE {
            self.publish(tail, &chunk, at);
        } else {
            self.publish_reference(tail, chunk, at);
        }
    }

    /// Copies a chunk to behind `tail`, for the only writer that the log has: without a locked operation,
    /// and the claim comes after the chunk, so that all that is claimed is published. The tail with the
    /// chunk in it, if it fits.
    #[inline]
    pub(super) fn append_alone(&self, tail: Tail, chunk: &[u8], at: u64) -> Option<Tail> {
        // Else the claim would be for the words of a reference.
        assert!(chunk.len() < BY_REFERENCE);
        let claim = self.claim(tail, chunk.len())?;
        self.publish(tail, chunk, at);
        // Release pairs with the Acquire in `end`: the claimed chunks are seen.
        self.tail.store(claim.0, Ordering::Release);
        Some(claim)
    }

    /// As [`append_alone`](Self::append_alone), for a chunk that is kept by reference.
    #[inline]
    pub(super) fn refer_alone(&self, tail: Tail, chunk: &Bytes, at: u64) -> Option<Tail> {
        // Else the claim would be for the words of a copy.
        assert!(chunk.len() >= BY_REFERENCE);
        let claim = self.claim(tail, chunk.len())?;
        // Cloned here, where its place is known: to move a clone that was just made stalls.
        self.publish_reference(tail, chunk.clone(), at);
        // As in `append_alone`.
        self.tail.store(claim.0, Ordering::Release);
        Some(claim)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.tail(Ordering::Acquire).is_closed()
    }

    /// Whether nothing will ever stand at `cursor`.
    pub(super) fn is_over(&self, cursor: Cursor) -> bool {
        let tail = self.tail(Ordering::Acquire);
        tail.is_closed() && cursor.word >= tail.words()
    }

    /// Lets no chunk in any more. The tail is then final.
    pub(super) fn close(&self) {
        // Release, as each write of the tail.
        self.tail.fetch_or(Tail::CLOSED, Ordering::AcqRel);
    }

    /// Copies the chunk to where `at` points, which its caller owns, and publishes it.
    #[inline]
    fn publish(&self, tail: Tail, chunk: &[u8], at: u64) {
        let Some((header, words)) = self.words[tail.words()..].split_first() else {
            return;
        };
        // SAFETY: the claim made these words ours (invariant 1), and nobody reads them before the header
        // is published (invariant 2).
        unsafe { words::write(words, chunk) };
        // Release pairs with the Acquire in `read`: the chunk's bytes are seen before its header.
        header.store(Header::copied(chunk.len(), at).0, Ordering::Release);
    }

    #[inline]
    fn publish_reference(&self, tail: Tail, chunk: Bytes, at: u64) {
        let Some((header, words)) = self.words[tail.words()..].split_first() else {
            return;
        };
        if !self.has_references.load(Ordering::Relaxed) {
            self.has_references.store(true, Ordering::Relaxed);
        }
        // SAFETY: as in `publish`. It is taken out in `clear`.
        unsafe { words::put(words, chunk) };
        // As in `publish`.
        header.store(Header::referenced(at).0, Ordering::Release);
    }

    /// The entry at `cursor`, and the cursor behind it.
    pub(super) fn read(&self, cursor: Cursor) -> (Entry<'_>, Cursor) {
        // Beyond what is claimed, words from a pool hold anything.
        let tail = self.tail(Ordering::Acquire);
        if cursor.word >= tail.words() {
            let ended = tail.is_closed() && !self.next.as_ptr().is_null();
            return (if ended { Entry::Next(&self.next) } else { Entry::End }, cursor);
        }
        // Acquire pairs with the Release that published the chunk.
        let header = Header(self.words[cursor.word].load(Ordering::Acquire));
        if !header.is_published() {
            // Claimed, and not published yet: it stands between the reader and what follows.
            return (Entry::End, cursor);
        }
        let start = cursor.word + 1;
        let end = start + header.words();
        let next = Cursor { word: end, chunks: cursor.chunks + 1 };
        (Entry::Chunk(Found { header, words: &self.words[start..end] }), next)
    }

    fn tail(&self, order: Ordering) -> Tail {
        Tail(self.tail.load(order))
    }

    /// Makes it a block of no log, and gives up what it holds: the next block, and its pool.
    fn clear(&mut self) -> (Option<Arc<Block>>, Option<Arc<Pool>>) {
        let referenced = if *self.has_references.get_mut() { self.drop_references() } else { 0 };
        *self.has_references.get_mut() = false;
        let pool = self.pool.take();
        if let Some(pool) = &pool {
            pool.release(pool::charge_of(self.capacity()) + referenced);
            if pool.is_zeroed {
                let claimed = self.tail(Ordering::Acquire).words();
                self.words[..claimed].iter_mut().for_each(words::zero);
            }
        }
        self.tail.store(0, Ordering::Relaxed);
        (self.next.take(), pool)
    }

    /// Drops the chunks that are kept by reference; how many bytes they are, which the budget was charged.
    fn drop_references(&mut self) -> u64 {
        // Acquire, because the last append may have been another thread's.
        let claimed = self.tail(Ordering::Acquire).words();
        let (mut word, mut referenced) = (0, 0);
        while word < claimed {
            let header = Header(self.words[word].load(Ordering::Acquire));
            if header.is_reference() {
                // SAFETY: published by `publish_reference`; `clear` has the block to itself and visits each
                // chunk once, because the tail is 0 afterwards.
                let chunk = unsafe { words::take(&mut self.words[word + 1..]) };
                referenced += chunk.len() as u64;
            }
            word += 1 + header.words();
        }
        referenced
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let (next, pool) = self.clear();
        if let Some(pool) = pool {
            pool.keep(Arc::new(Block::with(std::mem::take(&mut self.words))));
        }
        drop(Chain(next));
    }
}

/// Words of a chunk of `len` bytes, its header included.
#[inline]
fn words_of(len: usize) -> usize {
    1 + if len < BY_REFERENCE { len.div_ceil(8) } else { words::REFERENCE }
}

// === impl Chain ===

impl Chain {
    pub(super) fn new(block: Arc<Block>) -> Self {
        Self(Some(block))
    }

    #[inline]
    pub(super) fn block(&self) -> Option<&Arc<Block>> {
        self.0.as_ref()
    }
}

impl Drop for Chain {
    /// Frees, or keeps for reuse, the blocks that nobody else holds, in a loop: a chain of a million must
    /// not recurse.
    fn drop(&mut self) {
        let mut chain = self.0.take();
        while let Some(mut block) = chain {
            chain = match Arc::get_mut(&mut block) {
                Some(owned) => {
                    let (next, pool) = owned.clear();
                    if let Some(pool) = pool {
                        pool.keep(block);
                    }
                    next
                }
                // Somebody else has it, or let go of it just now: then one of the two gets it here.
                None => Arc::into_inner(block).and_then(|mut block| block.next.take()),
            };
        }
    }
}

// === impl Found ===

impl Found<'_> {
    pub(super) fn len(&self) -> usize {
        if self.header.is_reference() { self.bytes().len() } else { self.header.len() }
    }

    /// When it arrived, in units of 1,024 ns.
    pub(super) fn at(&self) -> u64 {
        self.header.at()
    }

    /// The chunk: copied out, or shared.
    pub(super) fn bytes(&self) -> Bytes {
        if self.header.is_reference() {
            // SAFETY: a `Found` is made of a header that was seen, so its words were written before
            // (invariant 2) and never will be again while the block is borrowed (invariant 1).
            unsafe { words::get(self.words) }
        } else {
            // SAFETY: as above.
            unsafe { words::read(self.words, self.header.len()) }
        }
    }

    /// Appends these of its bytes to `buffer`.
    pub(super) fn copy_to(&self, within: Range<usize>, buffer: &mut Vec<u8>) {
        if self.header.is_reference() {
            buffer.extend_from_slice(&self.bytes()[within]);
        } else {
            // SAFETY: as in `bytes`.
            unsafe { words::copy(self.words, within, buffer) }
        }
    }
}

// === impl Tail ===

impl Tail {
    const CLOSED: u64 = 1 << 63;
    const BYTES: u64 = (1 << 34) - 1;

    pub(super) fn bytes(self) -> u64 {
        self.0 & Self::BYTES
    }

    fn words(self) -> usize {
        (self.0 >> 34) as usize & 0x3fff
    }

    fn chunks(self) -> u64 {
        self.0 >> 48 & 0x3fff
    }

    fn is_closed(self) -> bool {
        self.0 & Self::CLOSED != 0
    }

    #[inline]
    fn with(self, len: usize) -> Self {
        Self(self.0 + len as u64 + ((words_of(len) as u64) << 34) + (1 << 48))
    }
}

// === impl Header ===

impl Header {
    const PUBLISHED: u64 = 0b01;
    const REFERENCE: u64 = 0b10;
    const LATEST: u64 = (1 << 39) - 1;

    #[inline]
    fn copied(len: usize, at: u64) -> Self {
        Self(at.min(Self::LATEST) << 25 | (len as u64) << 2 | Self::PUBLISHED)
    }

    fn referenced(at: u64) -> Self {
        Self(at.min(Self::LATEST) << 25 | Self::REFERENCE | Self::PUBLISHED)
    }

    fn is_published(self) -> bool {
        self.0 & Self::PUBLISHED != 0
    }

    fn is_reference(self) -> bool {
        self.0 & Self::REFERENCE != 0
    }

    fn len(self) -> usize {
        (self.0 >> 2) as usize & 0x7f_ffff
    }

    /// Words behind the header.
    fn words(self) -> usize {
        if self.is_reference() { words::REFERENCE } else { self.len().div_ceil(8) }
    }

    fn at(self) -> u64 {
        self.0 >> 25
    }
}
