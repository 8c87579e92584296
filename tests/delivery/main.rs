//! Delivery of records: hooks, retries, dead letters, admission, shutdown, runtimes. The clock is paused.

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod handles;
mod hooks;
mod kinds;
mod readiness;
mod runtimes;
mod secrets;
mod shutdown;
mod stops;
