//! Copying bytes in and out of a block's words: the only `unsafe` code of the crate.
//!
//! A block's words are atomics because headers and content share them. Content is written before, and
//! read after, an atomic header says that it is there, so it needs no atomic access: one copy of the whole
//! run takes a third of the time of as many relaxed stores (256 bytes: 4 instead of 13 ns, `cargo bench
//! --bench frames`). Under loom, which does not see such copies, words are written and read one by one,
//! so that it checks that very order.

#[cfg(not(accumulator_loom))]
pub(super) use std::sync::atomic::AtomicU64;

#[cfg(accumulator_loom)]
pub(super) use loom::sync::atomic::AtomicU64;

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

/// The first `len` bytes of `words`.
///
/// # Safety
///
/// The bytes must have been published, seen with an Acquire load, and never be written again.
#[cfg(not(accumulator_loom))]
pub(super) unsafe fn read(words: &[AtomicU64], len: usize) -> Vec<u8> {
    assert!(len <= size_of_val(words));
    // SAFETY: in bounds by the assertion, initialised because words always are, and not written while the
    // slice lives, for which the caller vouches.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), len) }.to_vec()
}

#[cfg(accumulator_loom)]
pub(super) unsafe fn write(words: &[AtomicU64], bytes: &[u8]) {
    for (word, bytes) in words.iter().zip(bytes.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_ne_bytes(padded), std::sync::atomic::Ordering::Relaxed);
    }
}

#[cfg(accumulator_loom)]
pub(super) unsafe fn read(words: &[AtomicU64], len: usize) -> Vec<u8> {
    let load = |word: &AtomicU64| word.load(std::sync::atomic::Ordering::Relaxed).to_ne_bytes();
    let mut bytes: Vec<u8> = words.iter().flat_map(load).collect();
    bytes.truncate(len);
    bytes
}
