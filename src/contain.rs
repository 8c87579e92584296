//! Calls of foreign code, whose panics go no further.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `f`, which calls foreign code. `None` if it panicked: the process's panic hook has said so.
///
/// It works in a drop while the thread unwinds, too: a panic that does not leave the drop does not abort.
pub(crate) fn contain<T>(f: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(value) => Some(value),
        Err(payload) => {
            // A payload may panic when it is dropped. Then it is leaked rather than allowed to do more harm.
            if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(second);
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct PanicsInDrop;

    impl Drop for PanicsInDrop {
        fn drop(&mut self) {
            assert!(contain(|| panic!("while it unwinds")).is_none());
            panic!("scripted panic in a drop");
        }
    }

    #[test]
    fn panics_are_contained() {
        assert_eq!(contain(|| 1), Some(1));
        assert_eq!(contain(|| drop(PanicsInDrop)), None);
        assert_eq!(contain(|| std::panic::panic_any(PanicsInDrop)), None);
    }
}
