//! An allocator that counts: every call and every live byte of the process. For test binaries that
//! measure, each with one `#[test]` only: tests that run side by side would count each other.

#![allow(dead_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

struct Counting;

#[global_allocator]
static HEAP: Counting = Counting;

static CALLS: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicI64 = AtomicI64::new(0);
/// The next call is to say where it comes from.
static TRACED: AtomicBool = AtomicBool::new(false);

/// Calls that got memory, or more of it, so far.
pub(crate) fn calls() -> u64 {
    CALLS.load(Relaxed)
}

/// Bytes in use, as they were asked for; what the allocator adds is not in it.
pub(crate) fn live() -> i64 {
    LIVE.load(Relaxed)
}

/// How many calls `f` makes. With `HEAP_TRACE=1` in the environment it prints where the first one comes from.
pub(crate) fn calls_of<T>(f: impl FnOnce() -> T) -> (u64, T) {
    static WANTED: OnceLock<bool> = OnceLock::new();
    let wanted = *WANTED.get_or_init(|| std::env::var_os("HEAP_TRACE").is_some());
    let before = calls();
    TRACED.store(wanted, Relaxed);
    let result = f();
    TRACED.store(false, Relaxed);
    (calls() - before, result)
}

fn called(more: i64) {
    CALLS.fetch_add(1, Relaxed);
    LIVE.fetch_add(more, Relaxed);
    // Off before the backtrace is made: that allocates too.
    if TRACED.load(Relaxed) && TRACED.swap(false, Relaxed) {
        eprintln!("{}", Backtrace::force_capture());
    }
}

#[allow(unsafe_code, reason = "a global allocator is an unsafe trait")]
// SAFETY: hands on to `System`, and counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        called(layout.size() as i64);
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        called(layout.size() as i64);
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        called(size as i64 - layout.size() as i64);
        // SAFETY: the caller's contract is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as i64, Relaxed);
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}
