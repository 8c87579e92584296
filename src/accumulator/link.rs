//! A pointer that is set once.

use std::fmt;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::raw::AtomicPtr;

/// Owns one strong count of its target from the moment that it is set until [`take`](Self::take).
///
/// It is lock-free, unlike a `OnceLock`, and has no allocation of its own, unlike a `OnceBox`: each block has one.
/// It has no `Drop`, because blocks are freed in a loop: whoever owns a link takes its target out.
pub(super) struct Link<T> {
    target: AtomicPtr<T>,
    /// It is `Send` and `Sync` if an `Arc<T>` is.
    owned: PhantomData<Arc<T>>,
}

// === impl Link ===

impl<T> Link<T> {
    pub(super) fn new() -> Self {
        Self { target: AtomicPtr::new(ptr::null_mut()), owned: PhantomData }
    }

    /// Sets the link. Gives `target` back if the link was set before.
    pub(super) fn set(&self, target: Arc<T>) -> Result<(), Arc<T>> {
        let raw = Arc::into_raw(target).cast_mut();
        // Release: pairs with the Acquire in `as_ptr`. Without it a reader could follow the link to a target that it
        // does not see whole.
        match self.target.compare_exchange(ptr::null_mut(), raw, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            // SAFETY: `raw` came from `into_raw` just now and was not stored.
            Err(_) => Err(unsafe { Arc::from_raw(raw) }),
        }
    }

    /// The address of the target, null if the link is not set.
    pub(super) fn as_ptr(&self) -> *mut T {
        // Acquire: pairs with the Release in `set`.
        self.target.load(Ordering::Acquire)
    }

    /// The target, if the link is set.
    pub(super) fn get(&self) -> Option<&T> {
        // SAFETY: a pointer that is set came from `into_raw` and owns a count until `take`, which needs the link
        // exclusively (invariant 6).
        unsafe { self.as_ptr().as_ref() }
    }

    /// A new strong count of the target, if the link is set.
    pub(super) fn cloned(&self) -> Option<Arc<T>> {
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

    /// Takes the target out.
    pub(super) fn take(&mut self) -> Option<Arc<T>> {
        // Acquire: pairs with the Release in `set`.
        let raw = self.target.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: it came from `into_raw`, and the count that it owns goes over to the caller.
        (!raw.is_null()).then(|| unsafe { Arc::from_raw(raw) })
    }
}

impl<T> fmt::Debug for Link<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Link").field(&self.as_ptr()).finish()
    }
}
