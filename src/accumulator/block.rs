//! One block of the log: a run of words that holds chunks, each behind a header.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use once_cell::sync::Lazy;

use super::budget::Mark;
use super::layout::{BY_REFERENCE, ChunkHeader, Claim, words_of};
use super::link::Link;
use super::pool::{self, SizeClassPool};
use super::raw::{self, AtomicU64, Words};

/// A pool of blocks.
pub(crate) type Pool = SizeClassPool<Block>;

/// A block of the log. See the invariants in the [module](super).
#[derive(Debug)]
pub(crate) struct Block {
    origin: Origin,
    words: Words,
    claim: AtomicU64,
    has_references: AtomicBool,
    next: Link<Block>,
    /// The pool that it goes back to.
    pool: Option<Arc<Pool>>,
}

/// Where in its log a block stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Origin {
    /// The position of its first byte in the stream.
    pub(super) base: u64,
    /// Chunks before it.
    pub(super) first: u64,
    /// The most bytes of content that it takes.
    pub(super) room: u64,
}

/// Where a reader stands in a block: the word of the next header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor(usize);

/// What stands at a cursor.
pub(super) enum Entry<'a> {
    Chunk(ChunkRef<'a>),
    /// The block ends here, and another one follows.
    Next(&'a Link<Block>),
    /// Nothing more is published yet.
    End,
}

/// A published chunk. Only [`Block::read`] makes one.
pub(super) struct ChunkRef<'a> {
    header: ChunkHeader,
    words: &'a [AtomicU64],
}

/// Keeps a block, and with it all that follow, until it is dropped.
#[derive(Clone, Debug, Default)]
pub(super) struct Chain(Option<Arc<Block>>);

// === impl Block ===

impl Block {
    /// A block that belongs to no log.
    pub(super) fn new(bytes: usize) -> Self {
        Self::with(raw::zeroed(bytes))
    }

    fn with(words: Words) -> Self {
        Self {
            origin: Origin::default(),
            words,
            claim: AtomicU64::new(0),
            has_references: AtomicBool::new(false),
            next: Link::new(),
            pool: None,
        }
    }

    /// Gives the block its place in a log. If its words were used before, the log must have a lone writer.
    pub(super) fn place(&mut self, origin: Origin, pool: Option<Arc<Pool>>) {
        self.origin = Origin { room: origin.room.min(Claim::MAX_BYTES), ..origin };
        self.pool = pool;
    }

    /// Bytes that a block must have to take a chunk of `len` bytes.
    pub(super) fn needed(len: usize) -> usize {
        words_of(len) * 8
    }

    /// Bytes of its words.
    pub(super) fn capacity(&self) -> usize {
        self.words.len() * 8
    }

    /// The position of its first byte in the stream.
    pub(super) fn base(&self) -> u64 {
        self.origin.base
    }

    /// Chunks in the log before this block.
    pub(super) fn first(&self) -> u64 {
        self.origin.first
    }

    /// The position in the stream, and the chunks in the log, up to what is claimed of this block.
    pub(super) fn end(&self) -> (u64, u64) {
        self.end_of(self.claimed(Ordering::Acquire))
    }

    /// As [`end`](Self::end), for a caller that knows the claim.
    pub(super) fn end_of(&self, claim: Claim) -> (u64, u64) {
        (self.origin.base + claim.bytes(), self.origin.first + claim.chunks())
    }

    pub(super) fn next(&self) -> &Link<Block> {
        &self.next
    }

    /// The last block of the chain that `first` begins.
    pub(super) fn last(first: &Arc<Self>) -> &Self {
        let mut last = &**first;
        while let Some(next) = last.next.get() {
            last = next;
        }
        last
    }

    /// Whether a chunk of `len` bytes still fits into the words, whatever the room allows.
    pub(super) fn has_words_for(&self, len: usize) -> bool {
        let claim = self.claimed(Ordering::Acquire);
        !claim.is_closed() && claim.words() + words_of(len) <= self.words.len()
    }

    /// `claim` with a chunk of `len` bytes, if that fits.
    #[inline]
    fn extended(&self, claim: Claim, len: usize) -> Option<Claim> {
        // Checked first, because no more than the room fits into the bits of a claim.
        if len as u64 > self.origin.room - claim.bytes() || claim.is_closed() {
            return None;
        }
        let claim = claim.with(len);
        (claim.words() <= self.words.len()).then_some(claim)
    }

    /// Claims room for a chunk of `len` bytes, if it fits. [`fill`](Self::fill) must follow. Any number of threads may
    /// call this.
    #[inline]
    pub(super) fn claim_shared(&self, len: usize) -> Option<Claim> {
        // Relaxed: what a claim protects is written after it, by its owner alone.
        let mut before = self.claimed(Ordering::Relaxed);
        loop {
            let claim = self.extended(before, len)?;
            // Release: pairs with the Acquire in `end`. Without it a reader of this claim could miss the earlier ones.
            let exchanged = self.claim.compare_exchange_weak(
                before.bits(),
                claim.bits(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            match exchanged {
                Ok(_) => return Some(before),
                Err(found) => before = Claim::from_bits(found),
            }
        }
    }

    /// Fills what [`claim_shared`](Self::claim_shared) claimed behind `before`.
    #[inline]
    pub(super) fn fill(&self, before: Claim, chunk: Bytes, at: u64) {
        if chunk.len() < BY_REFERENCE {
            self.publish(before, &chunk, at);
        } else {
            self.publish_reference(before, chunk, at);
        }
    }

    /// Copies a chunk behind `before`, and returns the claim with it, if it fits. For the lone writer of a log.
    ///
    /// There is no locked operation, and the claim comes after the chunk, so that all that is claimed is published.
    #[inline]
    pub(super) fn append_alone(&self, before: Claim, chunk: &[u8], at: u64) -> Option<Claim> {
        // Otherwise the claim would be for the words of a reference.
        assert!(chunk.len() < BY_REFERENCE);
        let claim = self.extended(before, chunk.len())?;
        self.publish(before, chunk, at);
        // Release: pairs with the Acquire in `read`. Without it a reader could look into words that are not written.
        self.claim.store(claim.bits(), Ordering::Release);
        Some(claim)
    }

    /// As [`append_alone`](Self::append_alone), for a chunk that is kept by reference.
    #[inline]
    pub(super) fn refer_alone(&self, before: Claim, chunk: &Bytes, at: u64) -> Option<Claim> {
        // Otherwise the claim would be for the words of a copy.
        assert!(chunk.len() >= BY_REFERENCE);
        let claim = self.extended(before, chunk.len())?;
        // Cloned where its place is known, because moving a clone that was just made stalls.
        self.publish_reference(before, chunk.clone(), at);
        // Release: as in `append_alone`.
        self.claim.store(claim.bits(), Ordering::Release);
        Some(claim)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.claimed(Ordering::Acquire).is_closed()
    }

    /// Whether nothing will ever stand at `cursor`.
    pub(super) fn is_over(&self, cursor: Cursor) -> bool {
        let claim = self.claimed(Ordering::Acquire);
        claim.is_closed() && cursor.0 >= claim.words()
    }

    /// Refuses every further chunk. The claim is then final.
    pub(super) fn close(&self) {
        // Release: as in `claim_shared`.
        self.claim.fetch_or(Claim::CLOSED, Ordering::AcqRel);
    }

    /// Copies the chunk behind `before`, which the caller owns, and publishes it.
    #[inline]
    fn publish(&self, before: Claim, chunk: &[u8], at: u64) {
        let Some((header, words)) = self.words[before.words()..].split_first() else {
            return;
        };
        // SAFETY: the caller owns these words (invariant 1), and nobody reads them before the header is published
        // (invariant 2).
        unsafe { raw::write(words, chunk) };
        // Release: pairs with the Acquire in `read`. Without it a reader could see the header before the bytes.
        header.store(ChunkHeader::copied(chunk.len(), at).bits(), Ordering::Release);
    }

    #[inline]
    fn publish_reference(&self, before: Claim, chunk: Bytes, at: u64) {
        let Some((header, words)) = self.words[before.words()..].split_first() else {
            return;
        };
        if !self.has_references.load(Ordering::Relaxed) {
            self.has_references.store(true, Ordering::Relaxed);
        }
        // SAFETY: as in `publish`. It is taken out in `drop_references`.
        unsafe { raw::put(words, chunk) };
        // Release: as in `publish`.
        header.store(ChunkHeader::referenced(at).bits(), Ordering::Release);
    }

    /// The entry at `cursor`, and the cursor behind it.
    pub(super) fn read(&self, cursor: Cursor) -> (Entry<'_>, Cursor) {
        // Acquire: pairs with the Release in `append_alone`. Beyond the claim, words from a pool hold anything.
        let claim = self.claimed(Ordering::Acquire);
        if cursor.0 >= claim.words() {
            let has_ended = claim.is_closed() && !self.next.as_ptr().is_null();
            return (if has_ended { Entry::Next(&self.next) } else { Entry::End }, cursor);
        }
        // Acquire: pairs with the Release in `publish`. Without it the bytes could be seen unwritten.
        let header = ChunkHeader::from_bits(self.words[cursor.0].load(Ordering::Acquire));
        if !header.is_published() {
            // Claimed and not published yet: the reader may not pass it.
            return (Entry::End, cursor);
        }
        let start = cursor.0 + 1;
        let end = start + header.words();
        (Entry::Chunk(ChunkRef { header, words: &self.words[start..end] }), Cursor(end))
    }

    fn claimed(&self, order: Ordering) -> Claim {
        Claim::from_bits(self.claim.load(order))
    }

    /// Takes the block out of its log, and returns what it held: the next block, and its pool.
    fn clear(&mut self) -> (Option<Arc<Block>>, Option<Arc<Pool>>) {
        let referenced = if *self.has_references.get_mut() { self.drop_references() } else { 0 };
        *self.has_references.get_mut() = false;
        let pool = self.pool.take();
        if let Some(pool) = &pool {
            pool.release(pool::charge_of(self.capacity()) + referenced);
            if pool.is_zeroed {
                let claimed = self.claimed(Ordering::Acquire).words();
                self.words[..claimed].iter_mut().for_each(raw::zero);
            }
        }
        self.claim.store(0, Ordering::Relaxed);
        (self.next.take(), pool)
    }

    /// Drops the chunks that are kept by reference. Returns their bytes, which the budget was charged.
    fn drop_references(&mut self) -> u64 {
        // Acquire: pairs with the Release of the last append, which may have been another thread's.
        let claimed = self.claimed(Ordering::Acquire).words();
        let (mut word, mut referenced) = (0, 0);
        while word < claimed {
            let header = ChunkHeader::from_bits(self.words[word].load(Ordering::Acquire));
            if header.is_reference() {
                // SAFETY: published by `publish_reference`. `clear` has the block to itself and visits each chunk
                // once, because the claim is 0 afterwards.
                let chunk = unsafe { raw::take(&mut self.words[word + 1..]) };
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
            let bytes = self.capacity();
            pool.push(bytes, Arc::new(Block::with(std::mem::take(&mut self.words))));
        }
        drop(Chain(next));
    }
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
    /// Frees the blocks that nobody else holds, or gives them back to their pool, in a loop: a chain of a million must
    /// not recurse (invariant 8).
    fn drop(&mut self) {
        let mut chain = self.0.take();
        while let Some(mut block) = chain {
            chain = match Arc::get_mut(&mut block) {
                Some(owned) => {
                    let (next, pool) = owned.clear();
                    if let Some(pool) = pool {
                        pool.push(block.capacity(), block);
                    }
                    next
                }
                // Somebody else holds it, or dropped it just now: then one of the two gets it here.
                None => Arc::into_inner(block).and_then(|mut block| block.next.take()),
            };
        }
    }
}

// === impl ChunkRef ===

impl ChunkRef<'_> {
    pub(super) fn len(&self) -> usize {
        if self.header.is_reference() { self.bytes().len() } else { self.header.len() }
    }

    /// When it arrived, in units of 1,024 ns.
    pub(super) fn at(&self) -> u64 {
        self.header.at()
    }

    /// The chunk: a copy, or a reference.
    pub(super) fn bytes(&self) -> Bytes {
        if self.header.is_reference() {
            // SAFETY: a `ChunkRef` comes from a header that was seen, so its words were written before (invariant 2),
            // and are not written again while the block is borrowed (invariant 1).
            unsafe { raw::get(self.words) }
        } else {
            // SAFETY: as above.
            unsafe { raw::read(self.words, self.header.len()) }
        }
    }

    /// Appends the bytes `within` the chunk to `buffer`.
    pub(super) fn copy_to(&self, within: Range<usize>, buffer: &mut Vec<u8>) {
        if self.header.is_reference() {
            buffer.extend_from_slice(&self.bytes()[within]);
        } else {
            // SAFETY: as in `bytes`.
            unsafe { raw::copy(self.words, within, buffer) }
        }
    }
}

// === impl SizeClassPool ===

impl SizeClassPool<Block> {
    /// The pool of accumulators that belong to no layer. It has no budget.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Lazy<Arc<Pool>> = Lazy::new(|| Arc::new(Pool::with(None, false)));
        Arc::clone(&SHARED)
    }

    /// A block of `bytes`, a power of two. `None` if the budget does not allow for it.
    pub(super) fn take(self: &Arc<Self>, origin: Origin, bytes: usize, mark: Mark) -> Option<Arc<Block>> {
        if !self.charge(pool::charge_of(bytes), mark) {
            return None;
        }
        let mut block = self.pop(bytes).unwrap_or_else(|| Arc::new(Block::new(bytes)));
        let owned = Arc::get_mut(&mut block).expect("nobody but the pool refers to a block that it keeps");
        owned.place(origin, Some(Arc::clone(self)));
        Some(block)
    }
}
