//! The bits of a block: its claim word and the headers of its chunks.

use super::raw;

/// Chunks of at least this many bytes are kept by reference, smaller ones are copied.
///
/// A reference costs the same whatever the size, but pins the buffer that the chunk was cut from. A copy costs its
/// bytes. From about 1 KiB on the copy alone takes longer than a lock-free queue takes for a reference
/// (`cargo bench --bench accumulator`).
pub(super) const BY_REFERENCE: usize = 1024;

/// How much of a block is claimed: one word, so that one exchange claims it all.
///
/// Bits: 0–33 bytes of content, 34–47 words, 48–61 chunks, 63 closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Claim(u64);

/// The word before each chunk.
///
/// Bits: 0 published, 1 by reference, 2–24 the length of a copied chunk, 25–63 its arrival in units of 1,024 ns, which
/// are enough for 6 days.
#[derive(Clone, Copy)]
pub(super) struct ChunkHeader(u64);

/// Words that a chunk of `len` bytes takes, with its header.
#[inline]
pub(super) fn words_of(len: usize) -> usize {
    1 + if len < BY_REFERENCE { len.div_ceil(8) } else { raw::REFERENCE }
}

// === impl Claim ===

impl Claim {
    pub(super) const CLOSED: u64 = 1 << 63;
    /// The most bytes of content that a claim can count.
    pub(super) const MAX_BYTES: u64 = (1 << 34) - 1;

    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline]
    pub(super) fn bits(self) -> u64 {
        self.0
    }

    pub(super) fn bytes(self) -> u64 {
        self.0 & Self::MAX_BYTES
    }

    #[inline]
    pub(super) fn words(self) -> usize {
        (self.0 >> 34) as usize & 0x3fff
    }

    pub(super) fn chunks(self) -> u64 {
        self.0 >> 48 & 0x3fff
    }

    #[inline]
    pub(super) fn is_closed(self) -> bool {
        self.0 & Self::CLOSED != 0
    }

    /// The same claim, with which no further chunk can be claimed.
    pub(super) fn closed(self) -> Self {
        Self(self.0 | Self::CLOSED)
    }

    /// The claim with another chunk of `len` bytes, which must fit into its bits.
    #[inline]
    pub(super) fn with(self, len: usize) -> Self {
        Self(self.0 + len as u64 + ((words_of(len) as u64) << 34) + (1 << 48))
    }
}

// === impl ChunkHeader ===

impl ChunkHeader {
    const PUBLISHED: u64 = 0b01;
    const REFERENCE: u64 = 0b10;
    const LATEST: u64 = (1 << 39) - 1;

    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline]
    pub(super) fn bits(self) -> u64 {
        self.0
    }

    /// The header of a chunk of `len` bytes that is copied.
    #[inline]
    pub(super) fn copied(len: usize, at: u64) -> Self {
        Self(at.min(Self::LATEST) << 25 | (len as u64) << 2 | Self::PUBLISHED)
    }

    /// The header of a chunk that is kept by reference.
    pub(super) fn referenced(at: u64) -> Self {
        Self(at.min(Self::LATEST) << 25 | Self::REFERENCE | Self::PUBLISHED)
    }

    pub(super) fn is_published(self) -> bool {
        self.0 & Self::PUBLISHED != 0
    }

    pub(super) fn is_reference(self) -> bool {
        self.0 & Self::REFERENCE != 0
    }

    /// The length of a copied chunk.
    pub(super) fn len(self) -> usize {
        (self.0 >> 2) as usize & 0x7f_ffff
    }

    /// Words behind the header.
    pub(super) fn words(self) -> usize {
        if self.is_reference() { raw::REFERENCE } else { self.len().div_ceil(8) }
    }

    /// When the chunk arrived, in units of 1,024 ns.
    pub(super) fn at(self) -> u64 {
        self.0 >> 25
    }
}
