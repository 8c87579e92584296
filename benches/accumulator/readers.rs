//! One writer, and readers that take a copy of all there is, again and again.

use std::hint::{black_box, spin_loop};
use std::ops::Range;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::contestants::{Accumulator, Alone, Chunk};
use crate::{clock, max, median, min, rounds};

const SIZE: usize = 256;
const PAUSE: Duration = Duration::from_micros(200);

/// Of the paced writer.
const PERIOD: Duration = Duration::from_micros(20);
const CHUNKS: usize = 4096;
const ROUNDS: usize = 15;

/// Of the writer that goes as fast as it can: so long at the most, for under a lock that readers hold most
/// of the time it may take minutes.
const LIMIT: Duration = Duration::from_millis(100);
const UNPACED_ROUNDS: usize = 31;
const UNPACED_READERS: usize = 4;

/// The rival's 99.9th percentile is at least this many times ours.
const WANTED_OF_TAIL: f64 = 50.0;
/// Our appends on time are at least this many times the rival's.
const WANTED_ON_TIME: f64 = 2.0;
/// Claimed of the throughput.
const CLAIMED: f64 = 20.0;

const QUANTILES: [f64; 4] = [0.5, 0.99, 0.999, 1.0];
const TAIL: usize = 2;

struct Load {
    readers: usize,
    /// Between two copies of a reader.
    pause: Duration,
    chunks: usize,
}

struct Round {
    /// Of the nanoseconds of single appends; 0 for the writer that goes as fast as it can. The histogram
    /// itself must not outlive the round, or the next one starts with memory that is new to the process.
    quantiles: [f64; 4],
    on_time: usize,
    appended: usize,
    wall: Duration,
    copies: usize,
}

type Write<A> = fn(&A, &Load) -> Round;

/// A paced round, and one as fast as it can.
type Measures = [fn(&Load) -> Round; 2];

const CONTESTANTS: [(&str, Measures); 5] = [
    // What the machine alone does to the writer.
    ("nothing is kept", [|load| measure(load, paced, nothing), |load| measure(load, unpaced, nothing)]),
    ("ours, snapshot()", [|load| measure(load, paced, snapshot), |load| measure(load, unpaced, snapshot)]),
    ("ours, to_bytes()", [|load| measure(load, paced, to_bytes), |load| measure(load, unpaced, to_bytes)]),
    ("Mutex<String>", [|load| measure(load, paced, cloned), |load| measure(load, unpaced, cloned)]),
    (
        "parking_lot's",
        [|load| measure(load, paced, parking_lot_cloned), |load| measure(load, unpaced, parking_lot_cloned)],
    ),
];
const OURS: Range<usize> = 1..3;
const RIVALS: Range<usize> = 3..5;

struct Nothing;

fn nothing(_: &Nothing) {}

fn snapshot(accumulator: &Alone) {
    drop(black_box(accumulator.reader.snapshot()));
}

fn to_bytes(accumulator: &Alone) {
    drop(black_box(accumulator.reader.snapshot().to_bytes()));
}

fn cloned(accumulator: &Mutex<String>) {
    let copy = accumulator.lock().unwrap_or_else(PoisonError::into_inner).clone();
    drop(black_box(copy));
}

fn parking_lot_cloned(accumulator: &parking_lot::Mutex<String>) {
    let copy = accumulator.lock().clone();
    drop(black_box(copy));
}

pub(crate) fn run() {
    for readers in [1, 4] {
        let load = Load { readers, pause: PAUSE, chunks: CHUNKS };
        let all = rounds::interleaved(ROUNDS, &mut { CONTESTANTS }, |(_, [paced, _])| paced(&load));
        print_paced(&load, &all);
    }
    println!("\nas fast as it can: {SIZE}-byte appends per us, {UNPACED_READERS} readers; ratio: ours/rival");
    println!("until all is in, or for {LIMIT:?}; {UNPACED_ROUNDS} rounds taken together");
    for mebibytes in [1, 16] {
        for pause in [PAUSE, Duration::ZERO] {
            let load = Load { readers: UNPACED_READERS, pause, chunks: (mebibytes << 20) / SIZE };
            let all =
                rounds::interleaved(UNPACED_ROUNDS, &mut { CONTESTANTS }, |(_, [_, unpaced])| unpaced(&load));
            print_unpaced(mebibytes, &load, &all);
        }
    }
}

fn print_paced(load: &Load, all: &[Vec<Round>]) {
    let Load { readers, pause, chunks } = load;
    println!(
        "\n{readers} reader(s) that pause for {pause:?}: {chunks} appends of {SIZE} bytes, one per {PERIOD:?}"
    );
    println!(
        "ns per append, of which {:.0} are the clock's; each figure the median of {ROUNDS} rounds\n",
        clock()
    );
    println!(
        "{:<18}{:>10}{:>10}{:>10}{:>10}{:>9}{:>9}{:>8}",
        "", "p50", "p99", "p99.9", "max", "on time", "wall ms", "copies"
    );
    let tail = |all: &[Round]| median(all, |round| round.quantiles[TAIL]);
    let on_time = |all: &[Round]| median(all, |round| round.on_time as f64);
    for ((name, _), all) in CONTESTANTS.iter().zip(all) {
        print!("{name:<18}");
        for at in 0..QUANTILES.len() {
            print!("{:>10}", median(all, |round| round.quantiles[at]));
        }
        let wall = median(all, |round| round.wall.as_secs_f64() * 1e3);
        println!("{:>9}{wall:>9.1}{:>8}", on_time(all), median(all, |round| round.copies as f64));
    }
    let least = min(all[RIVALS].iter().map(|all| tail(all)));
    let most = max(all[RIVALS].iter().map(|all| on_time(all)));
    for ((name, _), all) in CONTESTANTS.iter().zip(all).take(OURS.end).skip(OURS.start) {
        println!(
            "{name}: p99.9 of best rival/ours {:.1}x (wanted {WANTED_OF_TAIL}), \
             on time ours/best rival {:.2}x (wanted {WANTED_ON_TIME})",
            least / tail(all),
            on_time(all) / most
        );
    }
}

fn print_unpaced(mebibytes: usize, load: &Load, all: &[Vec<Round>]) {
    println!("\n{mebibytes} MiB, readers pause for {:?}", load.pause);
    println!(
        "{:<18}{:>11}{:>9}{:>15}{:>15}{:>11}{:>8}",
        "", "appends/us", "ns", "slowest round", "fastest round", "of it all", "copies"
    );
    let rate = |rounds: &[Round]| {
        let wall: Duration = rounds.iter().map(|round| round.wall).sum();
        rounds.iter().map(|round| round.appended as f64).sum::<f64>() / wall.as_secs_f64() / 1e6
    };
    for ((name, _), all) in CONTESTANTS.iter().zip(all) {
        let single = || all.iter().map(|round| rate(slice::from_ref(round)));
        let of_it_all = all.iter().map(|round| round.appended).sum::<usize>() * 100 / load.chunks / all.len();
        println!(
            "{name:<18}{:>11.3}{:>9.1}{:>15.3}{:>15.3}{of_it_all:>10}%{:>8}",
            rate(all),
            1e3 / rate(all),
            min(single()),
            max(single()),
            all.iter().map(|round| round.copies).sum::<usize>()
        );
    }
    let best = max(all[RIVALS].iter().map(|all| rate(all)));
    for ((name, _), all) in CONTESTANTS.iter().zip(all).take(OURS.end).skip(OURS.start) {
        println!("{name}: {:.1}x the best rival (claimed: up to {CLAIMED})", rate(all) / best);
    }
}

/// One round: this thread writes, others take copies until it is done.
fn measure<A: Accumulator>(load: &Load, write: Write<A>, copy: fn(&A)) -> Round {
    let accumulator = A::new();
    let (done, copies) = (AtomicBool::new(false), AtomicUsize::new(0));
    let read = || {
        while !done.load(Ordering::Acquire) {
            copy(&accumulator);
            copies.fetch_add(1, Ordering::Relaxed);
            if !load.pause.is_zero() {
                sleep(load.pause);
            }
        }
    };
    thread::scope(|scope| {
        (0..load.readers).for_each(|_| drop(scope.spawn(read)));
        // Else the writer may be done before the first reader is awake.
        while copies.load(Ordering::Relaxed) < load.readers {
            thread::yield_now();
        }
        let before = copies.load(Ordering::Relaxed);
        let round = write(&accumulator, load);
        done.store(true, Ordering::Release);
        Round { copies: copies.load(Ordering::Relaxed) - before, ..round }
    })
}

/// One append per period; those that are late, at once.
fn paced<A: Accumulator>(accumulator: &A, load: &Load) -> Round {
    let chunk = Chunk::new(SIZE);
    let mut times = Histogram::<u64>::new_with_max(10_000_000_000, 3).expect("valid bounds");
    let mut on_time = 0;
    let started = Instant::now();
    let mut due = started;
    for _ in 0..load.chunks {
        let before = spin_until(due);
        accumulator.append(&chunk);
        let after = Instant::now();
        times.saturating_record((after - before).as_nanos() as u64);
        due += PERIOD;
        on_time += usize::from(after <= due);
    }
    let wall = started.elapsed();
    let quantiles = QUANTILES.map(|at| times.value_at_quantile(at) as f64);
    Round { quantiles, on_time, appended: load.chunks, wall, copies: 0 }
}

fn unpaced<A: Accumulator>(accumulator: &A, load: &Load) -> Round {
    /// Appends between two looks at the clock, which take about as long as an append.
    const BETWEEN: usize = 16;

    let chunk = Chunk::new(SIZE);
    let started = Instant::now();
    let mut appended = 0;
    while appended < load.chunks && started.elapsed() < LIMIT {
        (0..BETWEEN).for_each(|_| accumulator.append(&chunk));
        appended += BETWEEN;
    }
    Round { quantiles: [0.0; 4], on_time: 0, appended, wall: started.elapsed(), copies: 0 }
}

fn spin_until(due: Instant) -> Instant {
    loop {
        let now = Instant::now();
        if now >= due {
            return now;
        }
        spin_loop();
    }
}

#[expect(clippy::disallowed_methods, reason = "the readers are threads, and time is real here")]
fn sleep(pause: Duration) {
    thread::sleep(pause);
}

// === impl Nothing ===

impl Accumulator for Nothing {
    fn new() -> Self {
        Self
    }

    fn append(&self, chunk: &Chunk) {
        drop(chunk.clone());
    }
}
