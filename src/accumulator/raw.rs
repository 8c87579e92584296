//! The raw memory of a block: copies bytes into and out of its words, and keeps large chunks in them.
//!
//! A block's words are atomics because headers and content share them. Content is written before, and
//! read after, an atomic header says that it is there, and needs no atomic access of its own: one copy of the whole
//! run takes a third of the time of as many relaxed stores (256 bytes: 4 instead of 13 ns, `cargo bench
//! --bench frames`). Under loom, which does not see such copies, words are written and read one by one: then it
//! checks that very order.

use std::ops::Range;

use bytes::Bytes;

#[cfg(not(accumulator_loom))]
pub(super) use std::sync::atomic::{AtomicPtr, AtomicU64};

#[cfg(accumulator_loom)]
pub(super) use loom::sync::atomic::{AtomicPtr, AtomicU64};

/// The memory of one block.
pub(super) type Words = Box<[AtomicU64]>;

/// Words that a chunk which is kept by reference takes.
pub(super) const REFERENCE: usize = size_of::<Bytes>() / 8;

const _: () = assert!(size_of::<Bytes>().is_multiple_of(8) && align_of::<Bytes>() <= align_of::<u64>());

/// New words, all zero.
pub(super) fn zeroed(bytes: usize) -> Words {
    (0..bytes / 8).map(|_| AtomicU64::new(0)).collect()
}

/// Makes a word zero.
#[cfg(not(accumulator_loom))]
pub(super) fn zero(word: &mut AtomicU64) {
    *word.get_mut() = 0;
}

#[cfg(accumulator_loom)]
pub(super) fn zero(word: &mut AtomicU64) {
    word.with_mut(|word| *word = 0);
}

/// Copies `bytes` into `words`.
///
/// # Safety
///
/// No other thread may read or write `words` until the caller has published them with a Release store.
#[cfg(not(accumulator_loom))]
#[inline]
pub(super) unsafe fn write(words: &[AtomicU64], bytes: &[u8]) {
    assert!(bytes.len() <= size_of_val(words));
    let target = words.as_ptr().cast::<u8>().cast_mut();
    // SAFETY: in bounds by the assertion; an atomic may be written through a shared reference; the caller
    // vouches that nobody else uses the words meanwhile. The two do not overlap: nobody can have a `&[u8]`
    // of the words.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) }
}

/// A copy of the first `len` bytes of `words`.
///
/// # Safety
///
/// As for [`copy`].
pub(super) unsafe fn read(words: &[AtomicU64], len: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(len);
    // SAFETY: the caller vouches for the same.
    unsafe { copy(words, 0..len, &mut bytes) };
    bytes.into()
}

/// Appends these bytes of `words` to `buffer`.
///
/// # Safety
///
/// The bytes must have been published, seen with an Acquire load, and not be written again while `words`
/// is borrowed.
#[cfg(not(accumulator_loom))]
pub(super) unsafe fn copy(words: &[AtomicU64], within: Range<usize>, buffer: &mut Vec<u8>) {
    assert!(within.end <= size_of_val(words));
    // SAFETY: in bounds by the assertion, initialised because words always are, and not written while the
    // slice lives, for which the caller vouches.
    let bytes = unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), within.end) };
    buffer.extend_from_slice(&bytes[within.start..]);
}

/// Moves `chunk` into `words`. Whoever owns the words must [`take`] it out again, or it leaks.
///
/// # Safety
///
/// As for [`write`].
#[cfg(not(accumulator_loom))]
#[inline]
pub(super) unsafe fn put(words: &[AtomicU64], chunk: Bytes) {
    assert!(words.len() >= REFERENCE);
    let target = words.as_ptr().cast::<Bytes>().cast_mut();
    // SAFETY: large enough by the assertion and aligned by the one above; otherwise as in `write`.
    unsafe { target.write(chunk) }
}

/// The chunk in `words`.
///
/// # Safety
///
/// It must have been [`put`] there, its publication been seen with an Acquire load, and it must not be
/// taken out while `words` is borrowed.
#[cfg(not(accumulator_loom))]
pub(super) unsafe fn get(words: &[AtomicU64]) -> Bytes {
    assert!(words.len() >= REFERENCE);
    // SAFETY: the caller vouches that there is a chunk, which nobody changes meanwhile.
    unsafe { &*words.as_ptr().cast::<Bytes>() }.clone()
}

/// Takes the chunk out of `words`.
///
/// # Safety
///
/// It must have been [`put`] there, and not been taken out before.
#[cfg(not(accumulator_loom))]
pub(super) unsafe fn take(words: &mut [AtomicU64]) -> Bytes {
    assert!(words.len() >= REFERENCE);
    // SAFETY: the caller vouches that there is a chunk that nobody else takes; the exclusive borrow, that
    // nobody reads it.
    unsafe { words.as_mut_ptr().cast::<Bytes>().read() }
}

#[cfg(accumulator_loom)]
pub(super) use self::one_by_one::{copy, get, put, take, write};

#[cfg(accumulator_loom)]
mod one_by_one {
    use std::sync::atomic::Ordering::Relaxed;

    use super::{AtomicU64, Bytes, Range};

    pub(in super::super) unsafe fn write(words: &[AtomicU64], bytes: &[u8]) {
        for (word, bytes) in words.iter().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(padded), Relaxed);
        }
    }

    pub(in super::super) unsafe fn copy(words: &[AtomicU64], within: Range<usize>, buffer: &mut Vec<u8>) {
        let load = |word: &AtomicU64| word.load(Relaxed).to_ne_bytes();
        let bytes: Vec<u8> = words.iter().flat_map(load).collect();
        buffer.extend_from_slice(&bytes[within]);
    }

    pub(in super::super) unsafe fn put(words: &[AtomicU64], chunk: Bytes) {
        words[0].store(Box::into_raw(Box::new(chunk)) as u64, Relaxed);
    }

    pub(in super::super) unsafe fn get(words: &[AtomicU64]) -> Bytes {
        // SAFETY: made by `put`; the caller vouches that it was not taken.
        unsafe { &*(words[0].load(Relaxed) as *const Bytes) }.clone()
    }

    pub(in super::super) unsafe fn take(words: &mut [AtomicU64]) -> Bytes {
        // SAFETY: made by `put`; the caller vouches that it was not taken.
        *unsafe { Box::from_raw(words[0].load(Relaxed) as *mut Bytes) }
    }
}
