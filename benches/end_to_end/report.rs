//! The table, and what is wanted of this layer.

use super::contestants::Contestant;
use super::workload::{BesideTrace, Workload};

/// Microseconds per request in one rotation, by contestant.
pub(crate) type Costs = [f64; Contestant::ALL.len()];

/// The median of the second "no layer" is within this of 1 on a quiet machine.
const QUIET: f64 = 0.02;

struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

pub(crate) fn print_head(rotations: u16, round_ms: u64) {
    println!(
        "the server's CPU time per request: microseconds of \"no layer\", and the ratios of the others to it,\n\
         as medians (smallest to largest); rotations: {rotations}, milliseconds per round: {round_ms}\n"
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
        let cell = if contestant == Contestant::NoLayer {
            let Spread { median, min, max } = Spread::of(costs, |costs| costs[contestant as usize]);
            format!("{median:.1} ({min:.1}-{max:.1})")
        } else {
            let Spread { median, min, max } = ratio(costs, contestant);
            format!("{median:.3} ({min:.2}-{max:.2})")
        };
        print!("{cell:>20}");
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
            let what = format!("{}, {}: {ours:.3}", Contestant::NoCapture.name(), workload.name);
            println!("{what:<42}wanted {wanted:<32}{}", if met { "met" } else { "MISSED" });
        };
        if let Some(most) = workload.wanted {
            line(format!("at most {most:.2}"), ours <= most);
        }
        match workload.beside_trace {
            None => {}
            Some(BesideTrace::Below) => line(format!("below TraceLayer's {trace:.3}"), ours < trace),
            Some(BesideTrace::NotAbove) => line(format!("not above TraceLayer's {trace:.3}"), ours <= trace),
        }
        let floor = ratio(costs, Contestant::NoLayerAgain).median;
        if (floor - 1.0).abs() > QUIET {
            println!(
                "note: the noise floor of {:?} is {floor:.3}: measure again, on a quiet machine",
                workload.name
            );
        }
    }
}

fn ratio(costs: &[Costs], contestant: Contestant) -> Spread {
    Spread::of(costs, |costs| costs[contestant as usize] / costs[Contestant::NoLayer as usize])
}

impl Spread {
    fn of(costs: &[Costs], measure: impl Fn(&Costs) -> f64) -> Self {
        let mut all: Vec<_> = costs.iter().map(measure).collect();
        all.sort_by(f64::total_cmp);
        Self { median: all[all.len() / 2], min: all[0], max: all[all.len() - 1] }
    }
}
