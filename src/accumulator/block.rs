//! One block of the log: a run of words that holds small chunks, and a few slots for large ones.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use once_cell::race::OnceBox;

use super::pool::{self, Pool, Words};
use super::words::{self, AtomicU64};

/// Chunks of at least this many bytes are kept by reference, smaller ones are copied.
///
/// A reference costs a slot and two words whatever the size, but pins the buffer that the chunk was cut
/// from; a copy costs its bytes. Copying 2 KiB takes about as long as the queue operations of a
/// reference would (`cargo bench --bench accumulator`), and at this size a 64 KiB read buffer is pinned by
/// a thirtieth of it at the worst.
pub(super) const BY_REFERENCE: usize = 2048;

/// Slots for large chunks in one block.
const SLOTS: usize = 32;

/// A block of the log. See the invariants in the [module](super).
#[derive(Debug)]
pub(super) struct Block {
    /// Bytes of content in the log before this block.
    base: u64,
    /// Bytes of content beyond which a second chunk is not taken.
    most: u64,
    words: Words,
    /// Where the words go in the end.
    pool: Option<Arc<Pool>>,
    slots: OnceBox<[OnceLock<Bytes>; SLOTS]>,
    tail: AtomicU64,
    /// Set once.
    next: OnceBox<Arc<Block>>,
}

/// What [`Block::append`] did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Appended {
    /// The chunk is in the log.
    Yes,
    /// The block is closed: go on with the next one.
    Full,
    /// The content's limit leaves room for so many bytes only; nothing was appended.
    OverLimit(u64),
}

/// What is to be done with a chunk.
enum Plan {
    /// The tail with the chunk in it.
    Append(Tail),
    Close,
    Nothing(Appended),
}

/// How many bytes and words of a block are claimed: one word, so that one exchange claims both.
///
/// Bits: 0–39 bytes of content, 40–55 words, 56–62 slots, 63 closed.
#[derive(Clone, Copy, Debug)]
struct Tail(u64);

/// A chunk's header: bit 0 published, bit 1 by reference, the rest its length, or the slot it is in.
#[derive(Clone, Copy)]
struct Header(u64);

/// Where a reader stands in a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    word: usize,
}

/// A published chunk in the words of a block. Only [`Block::read`] makes one.
pub(super) struct Copied<'a> {
    words: &'a [AtomicU64],
    len: usize,
}

/// What a reader found at its cursor.
pub(super) enum Entry<'a> {
    Copied(Copied<'a>),
    Referenced(&'a Bytes),
    /// The block ends here and another follows.
    Next(&'a Arc<Block>),
    /// Nothing more is published yet.
    End,
}

// === impl Block ===

impl Block {
    /// A block for `bytes` bytes of small chunks, their headers included; 0 makes a closed one. Of
    /// content, large chunks included, it takes at most `most` bytes, or a single chunk.
    ///
    /// With words from a pool it is for a lone writer only.
    pub(super) fn new(base: u64, bytes: usize, most: u64, pool: Option<&Arc<Pool>>) -> Self {
        Self {
            base,
            most: most.min(Tail::BYTES),
            words: pool.map_or_else(|| pool::zeroed(bytes), |pool| pool.take(bytes)),
            pool: pool.cloned(),
            slots: OnceBox::new(),
            tail: AtomicU64::new(if bytes == 0 { Tail::CLOSED } else { 0 }),
            next: OnceBox::new(),
        }
    }

    /// Bytes that its words take.
    pub(super) fn capacity(&self) -> usize {
        self.words.len() * 8
    }

    /// Bytes of content in the log before this block.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Bytes of content in the log up to what is claimed of this block.
    pub(super) fn end(&self) -> u64 {
        self.base + self.tail(Ordering::Acquire).bytes()
    }

    pub(super) fn next(&self) -> Option<&Arc<Block>> {
        self.next.get()
    }

    /// The next block, made with `make` unless there is one. Any number of threads may race.
    pub(super) fn next_or(&self, make: impl FnOnce() -> Block) -> &Arc<Block> {
        self.next.get_or_init(|| Box::new(Arc::new(make())))
    }

    /// Appends a chunk, unless it would take the content beyond `limit` bytes. Any number of threads.
    pub(super) fn append(&self, chunk: &Bytes, limit: u64) -> Appended {
        let len = chunk.len();
        // Acquire is not needed: what a claim protects is written after it, by its owner alone.
        let mut tail = self.tail(Ordering::Relaxed);
        loop {
            let claim = match self.plan(tail, len, limit) {
                Plan::Append(claim) => claim,
                Plan::Close => tail.close(),
                Plan::Nothing(appended) => return appended,
            };
            // Release pairs with the Acquire in `end`: whoever sees the claim sees the earlier ones.
            match self.tail.compare_exchange_weak(tail.0, claim.0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) if claim.is_closed() => return Appended::Full,
                Ok(_) => {
                    self.publish(tail, chunk);
                    return Appended::Yes;
                }
                Err(found) => tail = Tail(found),
            }
        }
    }

    /// As [`append`](Self::append), for the only writer that the log has: without a locked operation, and
    /// the claim comes after the chunk, so that all that is claimed is published.
    #[inline]
    pub(super) fn append_alone(&self, chunk: &Bytes, limit: u64) -> Appended {
        let tail = self.tail(Ordering::Relaxed);
        match self.plan(tail, chunk.len(), limit) {
            Plan::Append(claim) => {
                self.publish(tail, chunk);
                // Release pairs with the Acquire in `end`: the claimed chunks are seen.
                self.tail.store(claim.0, Ordering::Release);
                Appended::Yes
            }
            Plan::Close => {
                self.tail.store(tail.close().0, Ordering::Release);
                Appended::Full
            }
            Plan::Nothing(appended) => appended,
        }
    }

    /// What to do with a chunk of `len` bytes when the tail is `tail`.
    #[inline]
    fn plan(&self, tail: Tail, len: usize, limit: u64) -> Plan {
        if tail.is_closed() {
            return Plan::Nothing(Appended::Full);
        }
        let room = limit.saturating_sub(self.base + tail.bytes());
        if len as u64 > room {
            return Plan::Nothing(Appended::OverLimit(room));
        }
        let by_reference = len >= BY_REFERENCE;
        let words = 1 + if by_reference { 0 } else { len.div_ceil(8) };
        let slots = usize::from(by_reference);
        let len = len as u64;
        let fits = tail.words() + words <= self.words.len()
            && tail.slots() + slots <= SLOTS
            && (tail.bytes() == 0 || tail.bytes() + len <= self.most);
        if !fits {
            return Plan::Close;
        }
        Plan::Append(Tail(tail.0 + len + ((words as u64) << 40) + ((slots as u64) << 56)))
    }

    /// Writes the chunk to where `at` points, which its caller owns, and then its header.
    #[inline]
    fn publish(&self, at: Tail, chunk: &Bytes) {
        let Some((header, words)) = self.words[at.words()..].split_first() else {
            return;
        };
        let published = if chunk.len() >= BY_REFERENCE {
            let slots = self.slots.get_or_init(|| Box::new([const { OnceLock::new() }; SLOTS]));
            // Never taken: the claim made this slot ours.
            let _ = slots[at.slots()].set(chunk.clone());
            Header::referenced(at.slots())
        } else {
            // SAFETY: the claim made these words ours (invariant 1), and nobody reads them before the
            // header below is published (invariant 2).
            unsafe { words::write(words, chunk) };
            Header::copied(chunk.len())
        };
        // Release pairs with the Acquire in `read`: the chunk's bytes are seen before its header.
        header.store(published.0, Ordering::Release);
    }

    /// The entry at `cursor`, and the cursor behind it.
    pub(super) fn read(&self, cursor: Cursor) -> (Entry<'_>, Cursor) {
        // Beyond what is claimed, words from a pool hold anything.
        let tail = self.tail(Ordering::Acquire);
        if cursor.word >= tail.words() {
            return match self.next() {
                Some(next) if tail.is_closed() => (Entry::Next(next), cursor),
                _ => (Entry::End, cursor),
            };
        }
        // Acquire pairs with the Release that published the chunk.
        let header = Header(self.words[cursor.word].load(Ordering::Acquire));
        let first = cursor.word + 1;
        if let Some(slot) = header.slot() {
            let slots = self.slots.get().expect("a published slot exists");
            let chunk = slots[slot].get().expect("a published slot is filled");
            return (Entry::Referenced(chunk), Cursor { word: first });
        }
        if let Some(len) = header.len() {
            let end = first + len.div_ceil(8);
            let words = &self.words[first..end];
            return (Entry::Copied(Copied { words, len }), Cursor { word: end });
        }
        // Claimed, and not published yet: it stands between the reader and what follows.
        (Entry::End, cursor)
    }

    fn tail(&self, order: Ordering) -> Tail {
        Tail(self.tail.load(order))
    }
}

impl Drop for Block {
    /// Frees the blocks behind this one in a loop: a chain of a million must not recurse.
    fn drop(&mut self) {
        let mut next = self.next().cloned();
        // The clone keeps the next block alive while this one's own pointer to it goes.
        self.next = OnceBox::new();
        while let Some(block) = next.and_then(Arc::into_inner) {
            next = block.next().cloned();
        }
        if let Some(pool) = &self.pool {
            pool.give(std::mem::take(&mut self.words));
        }
    }
}

// === impl Copied ===

impl Copied<'_> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        // SAFETY: a `Copied` is made of a header that was seen, so its words were written before
        // (invariant 2) and never will be again (invariant 1).
        unsafe { words::read(self.words, self.len) }
    }
}

// === impl Tail ===

impl Tail {
    const CLOSED: u64 = 1 << 63;
    const BYTES: u64 = (1 << 40) - 1;

    fn bytes(self) -> u64 {
        self.0 & Self::BYTES
    }

    fn words(self) -> usize {
        (self.0 >> 40) as usize & 0xffff
    }

    fn slots(self) -> usize {
        (self.0 >> 56) as usize & 0x7f
    }

    fn is_closed(self) -> bool {
        self.0 & Self::CLOSED != 0
    }

    fn close(self) -> Self {
        Self(self.0 | Self::CLOSED)
    }
}

// === impl Header ===

impl Header {
    fn copied(len: usize) -> Self {
        Self((len as u64) << 2 | 0b01)
    }

    fn referenced(slot: usize) -> Self {
        Self((slot as u64) << 2 | 0b11)
    }

    fn len(self) -> Option<usize> {
        (self.0 & 0b11 == 0b01).then_some((self.0 >> 2) as usize)
    }

    fn slot(self) -> Option<usize> {
        (self.0 & 0b11 == 0b11).then_some((self.0 >> 2) as usize)
    }
}
