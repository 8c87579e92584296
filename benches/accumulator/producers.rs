//! Many threads append to one accumulator, nobody reads.

use std::ops::Range;
use std::sync::{Barrier, Mutex};
use std::thread;

use streaming_accumulator::{ContentAccumulator, StreamPipeline};
use tokio::time::Instant;

use crate::contestants::{Accumulator, Channel, Chunk, Queue};
use crate::{max, median, rounds};

const ROUNDS: usize = 41;
const THREADS: [usize; 4] = [1, 2, 8, 64];
const SIZE: usize = 256;
/// Of all threads together.
const CHUNKS: usize = (16 << 20) / SIZE;

/// Appends per microsecond in a round with this many threads.
type Measure = fn(usize) -> f64;

/// The first is ours. The last is ours behind a channel, with metrics and readers.
const CONTESTANTS: [(&str, Measure); 6] = [
    ("ours", measure::<ContentAccumulator>),
    ("Mutex<String>", measure::<Mutex<String>>),
    ("parking_lot's", measure::<parking_lot::Mutex<String>>),
    ("SegQueue", measure::<Queue>),
    ("flume", measure::<Channel>),
    ("StreamPipeline", measure::<StreamPipeline>),
];
const RIVALS: Range<usize> = 1..5;

pub(crate) fn run() {
    println!("\nproducers: appends per us of all threads together (and ns per append)");
    println!("{CHUNKS} appends of {SIZE} bytes, median of {ROUNDS} rounds\n");
    print!("{:>8}", "threads");
    CONTESTANTS.iter().for_each(|(name, _)| print!("{name:>18}"));
    println!("{:>18}", "ours/best rival");
    for threads in THREADS {
        let all = rounds::interleaved(ROUNDS, &mut { CONTESTANTS }, |(_, measure)| measure(threads));
        let rates: Vec<_> = all.iter().map(|all| median(all, |rate| *rate)).collect();
        print!("{threads:>8}");
        rates.iter().for_each(|rate| print!("{:>18}", format!("{rate:.1} ({:.1})", 1e3 / rate)));
        println!("{:>17.2}x", rates[0] / max(rates[RIVALS].iter().copied()));
    }
}

/// From the first thread's first append to the last thread's last, so that neither their making counts nor
/// their end.
fn measure<A: Accumulator>(threads: usize) -> f64 {
    let accumulator = A::new();
    let start = Barrier::new(threads);
    let produce = || {
        // Of its own: a common reference count would be what they contend for.
        let chunk = Chunk::new(SIZE);
        start.wait();
        let started = Instant::now();
        (0..CHUNKS / threads).for_each(|_| accumulator.append(&chunk));
        (started, Instant::now())
    };
    let spans: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(produce)).collect();
        threads.into_iter().map(|thread| thread.join().expect("does not panic")).collect()
    });
    let started = spans.iter().map(|span| span.0).min().expect("one thread at least");
    let ended = spans.iter().map(|span| span.1).max().expect("one thread at least");
    CHUNKS as f64 / (ended - started).as_secs_f64() / 1e6
}
