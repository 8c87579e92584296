//! Memory for blocks, kept between streams.

use crossbeam_queue::ArrayQueue;

use super::words::AtomicU64;

/// The memory of one block.
pub(super) type Words = Box<[AtomicU64]>;

/// The two sizes of blocks, in bytes. Any chunk that is copied fits in the smaller one.
pub(super) const SMALL: usize = 4 * 1024;
pub(super) const LARGE: usize = 16 * 1024;

/// Pieces of each size that are kept: at most 5 MiB in all.
const KEPT: usize = 256;

/// A bounded lock-free pool of the blocks of a layer's streams.
///
/// What it hands out holds the bytes of earlier streams. That is why only a log with a lone writer may
/// use it: its readers never look beyond what the writer has claimed.
#[derive(Debug)]
pub(crate) struct Pool {
    small: ArrayQueue<Words>,
    large: ArrayQueue<Words>,
}

/// New words, all zero.
pub(super) fn zeroed(bytes: usize) -> Words {
    (0..bytes / 8).map(|_| AtomicU64::new(0)).collect()
}

// === impl Pool ===

impl Pool {
    pub(super) fn take(&self, bytes: usize) -> Words {
        self.of(bytes).and_then(ArrayQueue::pop).unwrap_or_else(|| zeroed(bytes))
    }

    pub(super) fn give(&self, words: Words) {
        if let Some(kept) = self.of(words.len() * 8) {
            // What does not fit is freed.
            let _ = kept.push(words);
        }
    }

    fn of(&self, bytes: usize) -> Option<&ArrayQueue<Words>> {
        match bytes {
            SMALL => Some(&self.small),
            LARGE => Some(&self.large),
            _ => None,
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self { small: ArrayQueue::new(KEPT), large: ArrayQueue::new(KEPT) }
    }
}
