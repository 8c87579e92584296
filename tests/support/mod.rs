//! What the integration tests share: scripted bodies, a hook that records, servers and raw clients on
//! loopback. Nothing here sleeps to wait for something: gates and deadlines only.

// Each test binary uses a part of this, and none of it is a public API.
#![allow(dead_code, unreachable_pub, unused_imports)]

pub mod account;
pub mod body;
pub mod client;
pub mod exchange;
pub mod recorder;
pub mod server;

pub use self::account::{Account, By, What, cancelled, completed, failed};
pub use self::body::{Gate, MockBody, body, trailers};
pub use self::client::{H2Client, RawClient, Reply};
pub use self::exchange::{Exchange, Proto, exchange};
pub use self::recorder::Recorder;
pub use self::server::{Options, Script, Server, TestBody, answers, boxed, handler, serve, serve_on};

use std::time::Duration;

/// Longer than anything here takes on a loaded machine: only a hang meets it.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The result of `future`, or a panic that names what was waited for.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Polls `condition` until it holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within(what, poll).await;
}
