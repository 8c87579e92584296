//! A bound for memory that many streams share, as meters see it.

use std::fmt;
use std::sync::Arc;

/// Memory is taken in steps of this size, so that a growing text does not ask for every word.
const STEP: u64 = 4 * 1024;

/// A bound for memory that many streams share.
///
/// Meters know their process by this trait alone: whoever runs them implements it.
pub(crate) trait Quota: Send + Sync {
    /// Takes this many bytes; false, and nothing is taken, if they do not fit.
    fn take(&self, bytes: u64) -> bool;

    /// Gives back bytes that were taken.
    fn give_back(&self, bytes: u64);
}

/// What one holder has taken from a quota. Dropping it gives everything back.
pub(crate) struct Charge {
    /// `None`: unlimited.
    quota: Option<Arc<dyn Quota>>,
    bytes: u64,
}

// === impl Charge ===

impl Charge {
    /// A charge of nothing. Without a quota, it covers everything.
    pub(crate) fn new(quota: Option<Arc<dyn Quota>>) -> Self {
        Self { quota, bytes: 0 }
    }

    /// Takes as much as is still needed to cover `held` bytes; false if that does not fit.
    pub(crate) fn cover(&mut self, held: usize) -> bool {
        let Some(quota) = &self.quota else {
            return true;
        };
        let wanted = (held as u64).next_multiple_of(STEP);
        if wanted <= self.bytes {
            return true;
        }
        let fits = quota.take(wanted - self.bytes);
        if fits {
            self.bytes = wanted;
        }
        fits
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(quota) = self.quota.as_ref().filter(|_| self.bytes > 0) {
            quota.give_back(self.bytes);
        }
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct TwoSteps(Mutex<u64>);

    impl Quota for TwoSteps {
        fn take(&self, bytes: u64) -> bool {
            let mut used = self.0.lock().unwrap();
            let fits = *used + bytes <= 2 * STEP;
            *used += if fits { bytes } else { 0 };
            fits
        }

        fn give_back(&self, bytes: u64) {
            *self.0.lock().unwrap() -= bytes;
        }
    }

    #[test]
    fn charge_grows_in_steps_and_returns_all() {
        let quota = Arc::new(TwoSteps(Mutex::new(0)));
        let mut charge = Charge::new(Some(quota.clone()));
        assert!(charge.cover(1));
        assert_eq!(*quota.0.lock().unwrap(), STEP);
        assert!(charge.cover(2 * STEP as usize));
        assert!(!charge.cover(2 * STEP as usize + 1));
        assert_eq!(*quota.0.lock().unwrap(), 2 * STEP);
        drop(charge);
        assert_eq!(*quota.0.lock().unwrap(), 0);
    }

    #[test]
    fn without_quota_everything_is_covered() {
        assert!(Charge::new(None).cover(usize::MAX));
    }
}
