//! What the layer takes of the heap: for a frame, for a record, and for ten thousand streams that are open at
//! once.
//!
//! The counts are the whole process's: whatever runs beside would be counted too. Hence there is one `#[test]`,
//! which takes the measurements in turn. `-- --nocapture` shows the figures.

#[path = "../support/heap.rs"]
mod heap;
#[path = "../support/mod.rs"]
mod support;

mod allocations;
mod body;
mod retained;
mod stage;
mod streams;

#[test]
fn the_heap_is_used_as_documented() {
    allocations::measure();
    streams::measure();
}
