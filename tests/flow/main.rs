//! What flows beside a stream: taps, backpressure, time limits, pace, memory, and pipelines, which are streams
//! without HTTP.

#[path = "../support/mod.rs"]
mod support;

mod budget;
mod clients;
mod config;
mod keep_alive;
mod limits;
mod longest;
mod pace;
mod pipelines;
mod pressure;
mod readers;
mod short_memory;
mod spill;
mod strategies;
mod taps;
mod wakes;
