//! What flows beside a stream: taps, backpressure, time limits, pace, the memory budget.

#[path = "../support/mod.rs"]
mod support;

mod budget;
mod config;
mod fixture;
mod limits;
mod pace;
mod strategies;
mod taps;
