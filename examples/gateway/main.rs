//! A metering gateway for LLM APIs: one row in a SQLite ledger for every stream, however it ends.
//!
//! ```text
//! cargo run --example gateway
//! curl -N http://127.0.0.1:8080/v1/chat/completions -H 'authorization: Bearer sk-demo-alice' \
//!   -d '{"model":"demo","stream":true,"messages":[{"role":"user","content":"hello"}]}'
//! curl http://127.0.0.1:8080/ledger
//! ```
//!
//! Press Ctrl-C in the first `curl` midway, and its row says `cancelled`, with the bytes and tokens so far.
//!
//! Where to look first: `app.rs` installs the layer, `billing.rs` is the hook that writes the rows, `ledger.rs`
//! says what is in them, and `serve` below ends the server without losing one.
//!
//! # What the gateway does to an exchange
//!
//! OpenAI's chat and completions report the tokens of a stream only to those who ask. Where the client does not
//! ask, the gateway does in its place, and takes what came because of that out of the client's stream again:
//! see `include_usage.rs`. Such a request loses its `accept-encoding`, because what is packed could not be
//! looked through. Everything else passes byte for byte, and under `--replay` simply everything.
//!
//! # Exit codes
//!
//! | code | meaning |
//! |---|---|
//! | 0 | stopped by Ctrl-C or SIGTERM, also where streams had to be cut |
//! | 1 | the system refused something that none of the codes below is for |
//! | 2 | a bad flag or value, or a public address without `--admin-key` |
//! | 3 | cannot listen: the port is in use, the address is not of this machine |
//! | 4 | the key file cannot be read or is not valid |
//! | 5 | the ledger cannot be opened |
//! | 6 | the folder of `--replay` cannot be read |
//! | 7 | the price file cannot be read or is not valid |

mod admin;
mod app;
mod args;
mod asking;
mod backend;
mod banner;
mod billing;
mod errors;
mod hiding;
mod include_usage;
mod json;
mod keys;
mod ledger;
mod live;
mod pace;
mod prices;
mod provider;
mod replay;
mod shutdown;
mod upstream;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use axum::serve::ListenerExt;
use clap::Parser;
use streaming_accumulator::meter::{MeterSet, TextPolicy, TokenEstimator};
use streaming_accumulator::{Capture, StreamingAccumulatorLayer};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use crate::args::Args;
use crate::backend::Backend;
use crate::billing::{Billing, Context};
use crate::errors::Fatal;
use crate::keys::Keys;
use crate::ledger::Ledger;
use crate::live::Live;
use crate::prices::Prices;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    // A write to stderr that fails would otherwise be told to stderr, by a macro that panics when nobody reads it.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            banner::complain(&fatal.message);
            ExitCode::from(fatal.code)
        }
    }
}

async fn serve(args: Args) -> Result<(), Fatal> {
    args.check()?;
    let keys = Keys::load(args.keys.as_deref())?;
    let prices = prices(args.prices.as_deref())?;
    let models = prices.len();
    let backend = Backend::new(&args)?;
    // Before anything is written: a port in use is the commonest failure.
    let listener =
        TcpListener::bind(args.listen).await.map_err(|error| Fatal::listen(args.listen, &error))?;
    let address = listener.local_addr().map_err(|error| Fatal::listen(args.listen, &error))?;
    let ledger = Ledger::open(&args.ledger, prices)?;
    let live = Live::default();

    let layer = StreamingAccumulatorLayer::builder()
        .context(Context::of)
        // The ledger keeps numbers only, so no content is kept in memory either.
        .capture(Capture::none())
        .meter(meters())
        .hook(Billing::new(ledger.clone(), live.clone()))
        .build()
        .map_err(|error| Fatal::other(format!("cannot build the layer: {error}")))?;
    let handle = layer.handle();

    // Listened for before the banner: whoever has read it may send a signal at once.
    let mut signals = shutdown::Signals::new().map_err(|error| Fatal::other(format!("signals: {error}")))?;
    banner::print(address, &args, &keys, models, &backend);

    let admin = admin::Admin::new(args.admin_key, handle.clone(), ledger, live.clone());
    let app = app::app(layer, keys, live, Arc::new(backend), admin);
    // Nagle's algorithm would hold small chunks back until the client acknowledged the last one.
    let listener = listener.tap_io(|stream| {
        // A connection that is gone already: the first read will say so.
        let _ = stream.set_nodelay(true);
    });
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        // An error means that `stop` was dropped, which is a reason to stop as well.
        let _ = stopped.await;
    });
    let server = tokio::spawn(async move { server.await });

    signals.next().await;
    // The receiver is gone only if the server has stopped already.
    let _ = stop.send(());
    let report = shutdown::drain(&handle, args.grace, &mut signals).await;
    shutdown::flush(server).await;
    banner::farewell(&report, &handle.audit());
    Ok(())
}

/// Reads every protocol, and estimates what a stream that was cut did not report.
fn meters() -> MeterSet {
    // Texts are counted and not stored. What is kept of one is for an estimate, and gone when its row is written:
    // 64 KiB are some 15,000 tokens, more than most answers have. Of a longer one the rest is estimated by its
    // length.
    MeterSet::detect().text(TextPolicy::Keep(64 * 1024)).estimate(TokenEstimator::new())
}

/// Reads `file`. Without one nothing has a price.
fn prices(file: Option<&Path>) -> Result<Prices, Fatal> {
    let Some(file) = file else { return Ok(Prices::default()) };
    let text = std::fs::read_to_string(file).map_err(|error| Fatal::prices(file, error))?;
    Prices::parse(&text).map_err(|error| Fatal::prices(file, error))
}
