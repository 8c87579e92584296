//! One writer, nobody reads: the mutex at its best.

use std::hint::black_box;
use std::sync::Mutex;

use streaming_accumulator::ContentAccumulator;
use streaming_accumulator::capture::ContentWriter;
use tokio::time::Instant;

use crate::contestants::{Accumulator, Chunk, Queue};
use crate::{clock, rounds};

const ROUNDS: usize = 300;
const SIZES: [usize; 9] = [16, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
/// Content per round, unless that makes fewer than [`LEAST`] chunks.
const CONTENT: usize = 512 << 10;
const LEAST: usize = 64;

/// We take at most this many times what the best rival takes.
const WANTED_OF_BEST: f64 = 1.10;
/// We are at least this many times as fast as the queue, with chunks of less than 512 bytes.
const WANTED_OF_QUEUE: f64 = 1.5;

/// Nanoseconds for this many appends.
type Measure = fn(&Chunk, usize) -> f64;

const CONTESTANTS: [(&str, Measure); 5] = [
    ("ours, alone", |chunk, times| {
        let mut writer = ContentWriter::new(usize::MAX);
        timed(chunk, times, |chunk| black_box(&mut writer).append(chunk.bytes()).expect("no limit"))
    }),
    ("ours, shared", measure::<ContentAccumulator>),
    ("Mutex<String>", measure::<Mutex<String>>),
    ("SegQueue", measure::<Queue>),
    ("Vec<u8>", |chunk, times| {
        let mut all = Vec::new();
        timed(chunk, times, |chunk| black_box(&mut all).extend_from_slice(chunk))
    }),
];

pub(crate) fn run() {
    println!("\none writer: ns per append, {CONTENT} bytes or {LEAST} chunks, best of {ROUNDS} rounds");
    println!("alone: ContentWriter, as a body's capture is written; shared: ContentAccumulator\n");
    print!("{:>8}", "bytes");
    CONTESTANTS.iter().for_each(|(name, _)| print!("{name:>15}"));
    println!("{:>16}{:>16}{:>12}", "ours/best rival", "SegQueue/ours", "ours/Vec");
    let clock = clock();
    let (mut near_best, mut small, mut ahead_of_queue) = (0, 0, 0);
    for size in SIZES {
        let chunk = Chunk::new(size);
        let times = (CONTENT / size).max(LEAST);
        // Not counted: memory that is new to the process.
        for (_, measure) in CONTESTANTS {
            measure(&chunk, times);
        }
        let best = rounds::best_of(ROUNDS, &mut { CONTESTANTS }, |(_, measure)| [measure(&chunk, times)]);
        let best: Vec<_> = best.iter().map(|[nanos]| (nanos - clock).max(0.0) / times as f64).collect();
        let [ours, _, mutex, queue, vec] = best[..] else { unreachable!("one of each contestant") };
        print!("{size:>8}");
        best.iter().for_each(|nanos| print!("{nanos:>15.1}"));
        let (of_best, of_queue) = (ours / mutex.min(queue), queue / ours);
        println!("{of_best:>15.2}x{of_queue:>15.2}x{:>11.3}x", ours / vec);
        near_best += usize::from(of_best <= WANTED_OF_BEST);
        small += usize::from(size < 512);
        ahead_of_queue += usize::from(size < 512 && of_queue >= WANTED_OF_QUEUE);
    }
    println!(
        "\nwanted, ours/best rival at most {WANTED_OF_BEST}: met in {near_best} of {} rows",
        SIZES.len()
    );
    println!(
        "wanted, SegQueue/ours at least {WANTED_OF_QUEUE} below 512 bytes: met in {ahead_of_queue} of {small} rows"
    );
}

fn measure<A: Accumulator>(chunk: &Chunk, times: usize) -> f64 {
    let accumulator = A::new();
    timed(chunk, times, |chunk| black_box(&accumulator).append(chunk))
}

fn timed(chunk: &Chunk, times: usize, mut append: impl FnMut(&Chunk)) -> f64 {
    let started = Instant::now();
    for _ in 0..times {
        append(black_box(chunk));
    }
    started.elapsed().as_nanos() as f64
}
