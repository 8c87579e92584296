//! Ending the server without losing a row.

use std::io;
use std::time::Duration;

use streaming_accumulator::{Handle, ShutdownReport};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::billing::Context;

/// Ctrl-C and SIGTERM.
pub(crate) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

// === impl Signals ===

#[cfg(unix)]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            // It can never come: the process is ended by other means.
            std::future::pending().await
        }
    }
}

/// Lets streams finish for up to `grace`, cuts the others, and writes all rows. A second signal means
/// now.
pub(crate) async fn drain(
    handle: &Handle<Context>,
    grace: Duration,
    signals: &mut Signals,
) -> ShutdownReport {
    tokio::select! {
        report = handle.shutdown(grace) => report,
        () = signals.next() => handle.shutdown(Duration::ZERO).await,
    }
}

/// Gives the connections a moment to write what hyper still holds. Every stream has ended by now.
pub(crate) async fn flush(mut server: JoinHandle<io::Result<()>>) {
    if timeout(Duration::from_secs(1), &mut server).await.is_err() {
        // A client that does not read: its stream is settled and billed.
        server.abort();
    }
}
