//! Delivery of records: hooks, retries, dead letters, admission, shutdown, runtimes. The clock is paused.

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod handles;
mod hooks;
mod runtimes;
mod shutdown;
mod stops;
