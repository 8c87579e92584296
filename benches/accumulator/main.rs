//! Accumulator against accumulator: `cargo bench --bench accumulator`, and behind `--` one of `one_writer`,
//! `readers` and `producers` for that table alone.
//!
//! *Ratios within a run count*, not nanoseconds between runs. The tables with threads want a machine that
//! does nothing else: on two cores, a third busy process decides who runs beside whom.

mod contestants;
mod one_writer;
mod producers;
mod readers;
#[path = "../support/rounds.rs"]
mod rounds;

use std::hint::black_box;

use tokio::time::Instant;

const TABLES: [(&str, fn()); 3] =
    [("one_writer", one_writer::run), ("readers", readers::run), ("producers", producers::run)];

fn main() {
    keep_freed_memory();
    // cargo adds `--bench`.
    let wanted = std::env::args().skip(1).find(|argument| argument != "--bench");
    let mut tables = TABLES.iter().filter(|(name, _)| wanted.as_ref().is_none_or(|wanted| wanted == name));
    let (_, first) = tables.next().expect("the argument is one_writer, readers or producers");
    first();
    tables.for_each(|(_, table)| table());
}

/// Makes glibc's allocator keep what is freed from now on, up to 64 MiB, as it does in a server that has run
/// for a while: it raises its limits with the largest block that was freed. Otherwise the contestants
/// that need the most memory would pay for its pages again in each round.
fn keep_freed_memory() {
    drop(black_box(Vec::<u8>::with_capacity(31 << 20)));
}

/// Nanoseconds that reading the clock twice shows though nothing happened in between.
fn clock() -> f64 {
    let empty = |_| Instant::now().elapsed().as_nanos() as f64;
    (0..10_000).map(empty).fold(f64::INFINITY, f64::min)
}

fn median<R>(all: &[R], of: impl Fn(&R) -> f64) -> f64 {
    let mut all: Vec<_> = all.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn min(all: impl IntoIterator<Item = f64>) -> f64 {
    all.into_iter().fold(f64::INFINITY, f64::min)
}

fn max(all: impl IntoIterator<Item = f64>) -> f64 {
    all.into_iter().fold(0.0, f64::max)
}
