//! Delivery of records: hooks, retries, dead letters, admission, shutdown, runtimes. The clock is paused.

mod admission;
mod hooks;
mod runtimes;
mod shutdown;
mod stops;
mod support;
