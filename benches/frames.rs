//! What a layer costs per frame, in one process and one run: `cargo bench --bench frames`.
//!
//! Bodies are polled by hand; no socket, no hyper. Each number is the best of [`ROUNDS`] interleaved
//! rounds: interference only ever adds time. *Ratios within a run count*, not nanoseconds between runs.

#[path = "support/rounds.rs"]
mod rounds;
mod support;

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use support::body::Frames;
use support::contestants::{self, ALL, Contestant, NONE, OUTLET, TRACE};

const ROUNDS: usize = 11;

/// Full capture may add at most this many nanoseconds per frame.
const WANTED_ADDED: f64 = 40.0;
/// It may add at most this part of what `TraceLayer` adds.
const WANTED_OF_TRACE: f64 = 0.5;

/// Streams, one after the other, each of `frames` frames of `size` bytes.
struct Load {
    streams: usize,
    frames: usize,
    size: usize,
}

/// The two times of [`Contestant::stream`], in nanoseconds per frame.
struct Cost {
    polled: f64,
    whole: f64,
}

fn main() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _context = runtime.enter();
    let mut contestants = contestants::all();
    let mut met_in = Vec::new();
    for load in [
        Load { streams: 1, frames: 200_000, size: 256 },
        Load { streams: 1, frames: 200_000, size: 64 },
        Load { streams: 500, frames: 400, size: 256 },
        Load { streams: 3_000, frames: 64, size: 256 },
    ] {
        let costs = measure(&runtime, &mut contestants, &load);
        met_in.push(print(&load, &contestants, &costs));
    }
    let met = met_in.iter().filter(|met| **met).count();
    println!("wanted, in {met} of {} tables: met", met_in.len());
}

fn measure(runtime: &Runtime, contestants: &mut [Contestant], load: &Load) -> Vec<Cost> {
    let frames = (load.streams * load.frames) as f64;
    let best = rounds::best_of(ROUNDS, contestants, |contestant| {
        runtime.block_on(async {
            let mut total = [Duration::ZERO; 2];
            for _ in 0..load.streams {
                let (polled, whole) = contestant.stream(Frames::new(load.frames, load.size)).await;
                total[0] += polled;
                total[1] += whole;
            }
            total.map(|total| total.as_nanos() as f64 / frames)
        })
    });
    best.into_iter().map(|[polled, whole]| Cost { polled, whole }).collect()
}

/// Prints a table, and whether what is wanted of this layer is met.
fn print(load: &Load, contestants: &[Contestant], costs: &[Cost]) -> bool {
    let Load { streams, frames, size } = load;
    let polled = |name| {
        let mut all = contestants.iter().zip(costs);
        all.find(|(contestant, _)| contestant.name == name).expect("takes part").1.polled
    };
    let none = polled(NONE);
    let [ours, trace, outlet] = [ALL, TRACE, OUTLET].map(|name| polled(name) - none);

    println!("\n{streams} x {frames} frames of {size} bytes, best of {ROUNDS} rounds, ns per frame");
    println!(
        "{:<24}{:>8}{:>8}{:>14}{:>10}{:>16}",
        "", "polled", "added", "of Trace's", "outlet's", "until recorded"
    );
    for (contestant, cost) in contestants.iter().zip(costs) {
        let added = cost.polled - none;
        println!(
            "{:<24}{:>8.1}{added:>8.1}{:>13.2}x{:>9.2}x{:>16.1}",
            contestant.name,
            cost.polled,
            added / trace,
            added / outlet,
            cost.whole
        );
    }
    let met = ours <= WANTED_ADDED && ours < WANTED_OF_TRACE * trace;
    println!(
        "wanted of {ALL:?}: at most {WANTED_ADDED} ns added, and less than {WANTED_OF_TRACE} of TraceLayer's. \
         It adds {ours:.1} ns, {:.2} of TraceLayer's: {}",
        ours / trace,
        if met { "met" } else { "MISSED" }
    );
    met
}
