//! The command line: what can be set, and what cannot go together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::Uri;
use clap::Parser;

use crate::errors::Fatal;

/// A metering gateway for LLM APIs: one ledger row for every stream, however it ends.
// No `Debug`: it would show the admin key.
#[derive(Parser)]
#[command(name = "gateway", version)]
pub(crate) struct Args {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,

    /// Proxy to this provider instead of the embedded one
    #[arg(long, value_name = "URL", value_parser = upstream, conflicts_with = "replay")]
    pub(crate) upstream: Option<Uri>,

    /// Serve the recorded bodies DIR/PROTOCOL/NAME.stream, chosen by the header x-replay: PROTOCOL/NAME
    #[arg(long, value_name = "DIR")]
    pub(crate) replay: Option<PathBuf>,

    /// Bytes per chunk of a recorded body
    #[arg(long, value_name = "BYTES", default_value = "512", value_parser = chunk_bytes)]
    pub(crate) chunk_bytes: usize,

    /// Time from one word or chunk to the next; 0ms is as fast as possible
    #[arg(long, value_name = "DURATION", default_value = "20ms", value_parser = duration)]
    pub(crate) token_interval: Duration,

    /// TOML file with the lines "KEY" = "TENANT" in a table [keys]; two demo keys without it
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,

    /// TOML file with what tokens cost, a table [models."NAME"] each; without it the rows have no cost
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,

    /// SQLite file that the rows are written to
    #[arg(long, value_name = "FILE", default_value = "gateway.sqlite")]
    pub(crate) ledger: PathBuf,

    /// Bearer token for /ledger, /streams, /audit and /healthz; required on a public address
    #[arg(long, value_name = "KEY")]
    pub(crate) admin_key: Option<String>,

    /// How long streams may go on after Ctrl-C or SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) grace: Duration,
}

// === impl Args ===

impl Args {
    /// Refuses to show the ledger to the world.
    pub(crate) fn check(&self) -> Result<(), Fatal> {
        match &self.admin_key {
            Some(key) if key.is_empty() => {
                Err(Fatal::usage("--admin-key is empty: give it at least one character"))
            }
            None if !self.listen.ip().is_loopback() => Err(Fatal::usage(format!(
                "--listen {} is not a loopback address, and whoever reaches it could read the ledger and stop \
                 streams: give an --admin-key, or listen on 127.0.0.1",
                self.listen
            ))),
            _ => Ok(()),
        }
    }
}

/// A duration as humantime reads it, of at most a day: clocks cannot count to all that it can write.
fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration > Duration::from_secs(24 * 60 * 60) => Err("expected at most 1day".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write it as 20ms, 10s or 1m")),
    }
}

fn chunk_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("a chunk holds at least 1 byte".into()),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err("expected a number of bytes, such as 512".into()),
    }
}

fn upstream(text: &str) -> Result<Uri, String> {
    let expected = "expected a URL such as https://api.openai.com";
    let uri: Uri = text.parse().map_err(|error| format!("{error}; {expected}"))?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.query().is_none() => Ok(uri),
        Some("http" | "https") => Err("a base URL has no query: requests bring their own".into()),
        _ => Err(expected.into()),
    }
}
