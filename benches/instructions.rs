//! Streams under one stack, to be run under callgrind: see `benches/instructions.sh`.
//!
//! Arguments: the stack's name, the number of streams, and the frames in each. Without them, prints the
//! names. With `--allocations` alone, prints for each stack, after a tab, how often a stream of one frame
//! allocates.

#[path = "support/allocations.rs"]
mod allocations;
mod support;

use support::body::Frames;
use support::contestants::{self, Contestant};
use tokio::runtime::Runtime;

const SIZE: usize = 256;

/// Enough for buffers that grow once in a while to count as what they are: nearly nothing per stream.
const STREAMS: usize = 4096;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _context = runtime.enter();
    let mut contestants = contestants::all();
    // cargo adds `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let Some(name) = arguments.next() else {
        contestants.iter().for_each(|contestant| println!("{}", contestant.name));
        return;
    };
    if name == "--allocations" {
        print_allocations(&runtime, &mut contestants);
        return;
    }
    let mut number = || arguments.next()?.parse::<usize>().ok();
    let (Some(streams), Some(frames)) = (number(), number()) else {
        panic!("two numbers must follow the name: of streams, and of frames in each");
    };
    let contestant = contestants.iter_mut().find(|contestant| contestant.name == name);
    let contestant = contestant.expect("the first argument is the name of a stack");
    warm_up(&runtime, contestant);
    counted(&runtime, contestant, streams, frames);
}

/// What is done once, such as calibrating a clock, takes as long as it takes.
fn warm_up(runtime: &Runtime, contestant: &mut Contestant) {
    runtime.block_on(contestant.stream(Frames::new(1, SIZE)));
}

/// All that callgrind counts: the script knows this name.
#[inline(never)]
fn counted(runtime: &Runtime, contestant: &mut Contestant, streams: usize, frames: usize) {
    for _ in 0..streams {
        runtime.block_on(contestant.stream(Frames::new(frames, SIZE)));
    }
}

fn print_allocations(runtime: &Runtime, contestants: &mut [Contestant]) {
    for contestant in contestants {
        warm_up(runtime, contestant);
        let before = allocations::calls();
        counted(runtime, contestant, STREAMS, 1);
        let calls = allocations::calls() - before;
        println!("{}\t{:.2}", contestant.name, calls as f64 / STREAMS as f64);
    }
}
