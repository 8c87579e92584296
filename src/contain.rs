//! Calls of foreign code, whose panics go no further.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

/// A foreign waker, whose panic stays with it: whoever wakes several goes on to the next.
struct ContainedWaker(Waker);

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

/// A waker that wakes `waker` and does not panic.
///
/// tokio drops the rest of a batch of wakers when one of them panics: those who wait would never hear of it.
pub(crate) fn contained(waker: &Waker) -> Waker {
    Waker::from(Arc::new(ContainedWaker(waker.clone())))
}

/// The output of `future`, which waits where others wait, too. Allocates whenever it is polled.
pub(crate) async fn woken_alone<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| future.as_mut().poll(&mut Context::from_waker(&contained(cx.waker())))).await
}

impl Wake for ContainedWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        contain(|| self.0.wake_by_ref());
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
