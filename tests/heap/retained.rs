//! What a record keeps on the heap, and that all of it comes back.

use std::task::Poll;

use streaming_accumulator::Capture;

use crate::body::cut;
use crate::heap;
use crate::stage::{MIB, Reader, Stage, allocated, poll};

/// What is on the heap while a record is held, and what is charged to the budget.
pub(crate) struct Retained {
    bytes: i64,
    charged: u64,
}

/// A record of 1 MiB in chunks of `size`, held; each chunk has its own read buffer if they are `sparse`.
pub(crate) async fn retained(capture: Capture, size: usize, sparse: bool) -> Retained {
    let body = cut(size, MIB, sparse);
    let mut stage = Stage::new(capture);
    let before = heap::live();
    let mut body = Box::pin(stage.open(body).await);
    while let Poll::Ready(Some(frame)) = poll(body.as_mut()) {
        drop(frame.unwrap());
    }
    drop(body);
    let record = stage.record().await;
    let bytes = heap::live() - before;
    assert_eq!(record.content().len(), MIB);
    let charged = stage.recorder.handle().audit().memory_used();
    drop(record);
    assert_eq!(stage.recorder.handle().audit().memory_used(), 0);
    stage.end().await;
    Retained { bytes, charged }
}

pub(crate) async fn a_record_retains_little_more_than_its_content() {
    let of_content = |bytes: f64| bytes / MIB as f64;
    for (limit, name) in [(MIB, "all(1 MiB)"), (64 * MIB, "all(64 MiB)")] {
        for size in [16, 100, 256, 1000, 1024, 4096] {
            let Retained { bytes, charged } = retained(Capture::all(limit), size, false).await;
            let (heap, budget) = (of_content(bytes as f64), of_content(charged as f64));
            println!("{name}, 1 MiB in chunks of {size} B: {heap:.3} MiB on the heap, {budget:.3} charged");
            if size == 100 && limit == MIB {
                assert!(heap <= 1.15, "{heap}");
            }
            // The stream itself, and what the shared read buffers take beside their bytes.
            assert!((heap - budget).abs() < 0.01, "the budget must know: {heap}, {budget}");
        }
    }
    // Not bounded: a chunk that is kept by reference keeps all of the buffer that it was cut from.
    let Retained { bytes, charged } = retained(Capture::all(MIB), 1024, true).await;
    let (heap, budget) = (of_content(bytes as f64), of_content(charged as f64));
    println!(
        "1 MiB in chunks of 1024 B, each of its own 64 KiB: {heap:.3} MiB on the heap, {budget:.3} charged"
    );
}

/// Once a record and its layer are gone, so is all that they held.
pub(crate) async fn memory_comes_back() {
    let turn = async |streams: usize| {
        let mut stage = Stage::new(Capture::head_tail(64 * 1024, 64 * 1024));
        for n in 0..streams {
            // Copied ones, then references.
            let size = if n % 2 == 0 { 100 } else { 2000 };
            allocated(&mut stage, size, 1500, Reader::Tap).await;
            drop(stage.record().await);
        }
        stage.end().await;
    };
    turn(2).await;
    let start = heap::live();
    turn(2).await;
    let few = heap::live() - start;
    turn(300).await;
    let many = heap::live() - start;
    println!("left after 2 streams: {few} bytes, after 300: {many}");
    // The list of streams frees its nodes, of some 100 bytes, when some hundred have gathered.
    assert!((0..1024).contains(&few), "{few}");
    assert!(many < 32 * 1024, "{many}");
}
