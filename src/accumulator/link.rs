//! A pointer to the next block that is set once.

use std::fmt;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::block::Block;
use super::words::AtomicPtr;

/// Holds a block from the moment that it is set until it is dropped or taken out.
///
/// Lock-free, unlike a `OnceLock`, and without an allocation of its own, unlike a `OnceBox`: there is one
/// for each block.
pub(super) struct Link(AtomicPtr<Block>);

// === impl Link ===

impl Link {
    pub(super) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Sets the link, or gives the block back where it is set already.
    pub(super) fn set(&self, block: Arc<Block>) -> Result<(), Arc<Block>> {
        let raw = Arc::into_raw(block).cast_mut();
        // Release pairs with the Acquire in `get`: the block is seen whole.
        match self.0.compare_exchange(ptr::null_mut(), raw, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            // SAFETY: `raw` came from `into_raw` just now and was not stored.
            Err(_) => Err(unsafe { Arc::from_raw(raw) }),
        }
    }

    /// The block, by its address: for comparisons, and for whoever knows that it stays.
    pub(super) fn as_ptr(&self) -> *mut Block {
        self.0.load(Ordering::Acquire)
    }

    /// The block.
    pub(super) fn get(&self) -> Option<&Block> {
        // SAFETY: a pointer that is set came from `into_raw` and stays set, and so owns a count, until the
        // link is taken out of or dropped, which needs it exclusively (invariant 6).
        unsafe { self.as_ptr().as_ref() }
    }

    /// Another count of the block.
    pub(super) fn cloned(&self) -> Option<Arc<Block>> {
        let raw = self.as_ptr();
        if raw.is_null() {
            return None;
        }
        // SAFETY: as in `get`: the count that the link owns stays while `self` is borrowed.
        unsafe {
            Arc::increment_strong_count(raw);
            Some(Arc::from_raw(raw))
        }
    }

    /// Takes the block out.
    pub(super) fn take(&mut self) -> Option<Arc<Block>> {
        let raw = self.0.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: it came from `into_raw`, and the count that it owns goes over to the caller.
        (!raw.is_null()).then(|| unsafe { Arc::from_raw(raw) })
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Link").field(&self.as_ptr()).finish()
    }
}
