//! The table, and what is wanted of this layer.

use super::contestants::Contestant;
use super::workload::{ONE, PENDING, READY, Workload};

/// Microseconds per request in one rotation, by contestant.
pub(crate) type Costs = [f64; Contestant::ALL.len()];

/// At most this ratio is wanted of `Capture::none()` and a hook, for one frame.
const WANTED_ONE: f64 = 1.10;
/// At most this ratio is wanted of the same for many frames that are always ready.
const WANTED_READY: f64 = 1.06;

struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

pub(crate) fn print_head(rotations: u16, round_ms: u64) {
    println!(
        "server CPU per request, in rounds of {round_ms} ms: microseconds of \"no layer\", and the ratios of the\n\
         others to it, as medians (smallest to largest) of {rotations} rotations\n"
    );
    print!("{:<20}", "frames of 256 bytes");
    for contestant in Contestant::ALL {
        let unit = if contestant == Contestant::NoLayer { ", us" } else { "" };
        print!("{:>20}", format!("{}{unit}", contestant.name()));
    }
    println!();
}

pub(crate) fn print_row(workload: &Workload, costs: &[Costs]) {
    print!("{:<20}", workload.name);
    for contestant in Contestant::ALL {
        let (spread, digits) = match contestant {
            Contestant::NoLayer => (Spread::of(costs.iter().map(|costs| costs[0]).collect()), 1),
            _ => (ratio(costs, contestant), 2),
        };
        let Spread { median, min, max } = spread;
        let precise = if digits == 1 { 1 } else { 3 };
        print!("{:>20}", format!("{median:.precise$} ({min:.digits$}-{max:.digits$})"));
    }
    println!();
}

/// Prints what is wanted, and whether it is met.
pub(crate) fn print_wanted(results: &[(Workload, Vec<Costs>)]) {
    println!();
    for (workload, costs) in results {
        let ours = ratio(costs, Contestant::NoCapture).median;
        let trace = ratio(costs, Contestant::Trace).median;
        let line = |wanted: String, met: bool| {
            let met = if met { "met" } else { "MISSED" };
            let ours_is = format!("{}, {}: {ours:.3}", Contestant::NoCapture.name(), workload.name);
            println!("{ours_is:<44} wanted {wanted:<32} {met}");
        };
        match workload.path {
            path if path == ONE.path => line(format!("at most {WANTED_ONE:.2}"), ours <= WANTED_ONE),
            path if path == READY.path => {
                line(format!("at most {WANTED_READY:.2}"), ours <= WANTED_READY);
                line(format!("below TraceLayer's {trace:.3}"), ours < trace);
            }
            path if path == PENDING.path => line(format!("not above TraceLayer's {trace:.3}"), ours <= trace),
            _ => {}
        }
    }
}

fn ratio(costs: &[Costs], contestant: Contestant) -> Spread {
    let to_none = |costs: &Costs| costs[contestant as usize] / costs[Contestant::NoLayer as usize];
    Spread::of(costs.iter().map(to_none).collect())
}

impl Spread {
    fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        Self { median: all[all.len() / 2], min: all[0], max: all[all.len() - 1] }
    }
}
