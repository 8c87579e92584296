//! What the integration tests share: a scripted body, a collector of records, a server and raw clients on
//! loopback. Tests wait at gates and until conditions hold, never for a guessed time.

// Each test binary uses a part of this.
#![allow(dead_code)]

pub(crate) mod account;
pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod exchange;
pub(crate) mod feed;
pub(crate) mod flow;
pub(crate) mod recorder;
pub(crate) mod records;
pub(crate) mod server;

#[allow(unused_imports)]
pub(crate) use self::{
    account::{Account, By, What, cancelled, completed, failed},
    body::{Gate, MockBody, body, trailers},
    client::{H2Client, RawClient, Reply, read_h2},
    exchange::{Exchange, Proto, exchange},
    feed::Feed,
    flow::{Flow, complete, next, open, settled},
    recorder::Recorder,
    records::Records,
    server::{Options, Script, Server, TestBody, answers, boxed, handler, serve, serve_on},
};

use std::time::Duration;

/// Longer than anything here takes on a loaded machine: only a hang meets it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// How often a test repeats itself: `few` times by default, `many` times with `THOROUGH=1` in the environment.
pub(crate) fn rounds(few: usize, many: usize) -> usize {
    if is_thorough() { many } else { few }
}

/// Whether `THOROUGH` is set: tests then try all that they can rather than a part of it.
pub(crate) fn is_thorough() -> bool {
    std::env::var_os("THOROUGH").is_some()
}

/// The result of `future`, or a panic that names what was waited for.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Polls `condition` until it holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within(what, poll).await;
}
