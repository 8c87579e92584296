//! What keeping one chunk costs, accumulator against accumulator: `cargo bench --bench accumulator`.
//!
//! One writer, nobody reads. A fresh accumulator for each round; its growth counts, its drop does not.

#[path = "support/rounds.rs"]
mod rounds;

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use streaming_accumulator::ContentAccumulator;
use tokio::time::Instant;

const ROUNDS: usize = 25;
/// Content per round: small enough that the pages stay the process's own, as in a server that has run for
/// a while.
const CONTENT: usize = 512 * 1024;
const SIZES: [usize; 8] = [16, 64, 256, 1024, 2048, 4096, 16 * 1024, 64 * 1024];

type Append = fn(&Bytes, usize) -> f64;

const CONTESTANTS: [(&str, Append); 4] = [
    ("ContentAccumulator", |chunk, times| {
        let accumulator = ContentAccumulator::new(usize::MAX);
        per_append(times, || accumulator.append(chunk.clone()).expect("no limit"))
    }),
    ("Mutex<String>", |chunk, times| {
        let accumulator = Mutex::new(String::new());
        let text = str::from_utf8(chunk).expect("it is ASCII");
        per_append(times, || accumulator.lock().unwrap_or_else(PoisonError::into_inner).push_str(text))
    }),
    ("Mutex<VecDeque<Bytes>>", |chunk, times| {
        let accumulator = Mutex::new(VecDeque::new());
        let bytes = AtomicUsize::new(0);
        per_append(times, || {
            accumulator.lock().unwrap_or_else(PoisonError::into_inner).push_back(chunk.clone());
            bytes.fetch_add(chunk.len(), Ordering::Relaxed);
        })
    }),
    ("Vec<u8>, owned", |chunk, times| {
        let mut accumulator = Vec::new();
        per_append(times, || black_box(&mut accumulator).extend_from_slice(chunk))
    }),
];

/// Nanoseconds that each of so many calls takes.
fn per_append(times: usize, mut append: impl FnMut()) -> f64 {
    let started = Instant::now();
    for _ in 0..times {
        append();
    }
    started.elapsed().as_nanos() as f64 / times as f64
}

fn main() {
    println!("ns per append, {CONTENT} bytes of content, best of {ROUNDS} rounds");
    print!("{:>8}", "bytes");
    CONTESTANTS.iter().for_each(|(name, _)| print!("{name:>24}"));
    println!();
    for size in SIZES {
        // Counted, as what comes from a socket is: a clone is an atomic add.
        let chunk = Bytes::from(vec![b'x'; size + 1]).slice(..size);
        let mut contestants = CONTESTANTS;
        let best = rounds::best_of(ROUNDS, &mut contestants, |(_, append)| [append(&chunk, CONTENT / size)]);
        print!("{size:>8}");
        best.iter().for_each(|[nanos]| print!("{nanos:>24.1}"));
        println!();
    }
}
