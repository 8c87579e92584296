//! What the terminal shows. Written without `println!`, which panics when nobody reads.

use std::io::Write;
use std::net::SocketAddr;

use streaming_accumulator::{Audit, ShutdownReport};

use crate::args::Args;
use crate::backend::Backend;
use crate::keys::Keys;

/// Says where the gateway is and how to try it. The first line is for scripts.
pub(crate) fn print(address: SocketAddr, args: &Args, keys: &Keys, models: usize, backend: &Backend) {
    let backend = match backend {
        Backend::Upstream(upstream) => format!("proxy to {}", upstream.base()),
        Backend::Replay(replay) => format!("{} recordings, chosen by x-replay", replay.len()),
        Backend::Embedded { .. } => {
            "embedded: /v1/chat/completions /v1/completions /v1/responses /v1/messages".to_owned()
        }
    };
    let (key, keys) = match &args.keys {
        None => (
            "sk-demo-alice",
            "sk-demo-alice = alice, sk-demo-bob = bob (built in, no secret: see --keys)".into(),
        ),
        Some(file) => ("KEY", format!("{} from {}", keys.len(), file.display())),
    };
    let prices = match &args.prices {
        None => "none, so rows have no cost: see --prices".into(),
        Some(file) => format!("{models} from {}", file.display()),
    };
    let admin = match args.admin_key {
        Some(_) => "with the admin key as bearer token",
        None => "open, on this loopback address",
    };
    say(&format!(
        "listening on http://{address}
  provider  {backend}
  keys      {keys}
  prices    {prices}
  ledger    {ledger}: GET /ledger, GET /ledger/ID
  operator  {admin}: GET /streams, DELETE /streams/ID, GET /audit, GET /healthz
try
  curl -N http://{address}/v1/chat/completions -H 'authorization: Bearer {key}' \\
    -d '{{\"model\":\"demo\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'
  curl http://{address}/ledger
stop with Ctrl-C: streams may go on for {grace}
",
        ledger = args.ledger.display(),
        grace = humantime::format_duration(args.grace),
    ));
}

/// Says what the shutdown did, and that nothing was lost.
pub(crate) fn farewell(report: &ShutdownReport, audit: &Audit) {
    let mut text = format!(
        "shutdown: {report}\n\
         audit: {} opened, {} in flight, {} completed, {} cancelled, {} failed, {} interrupted; {}\n",
        audit.opened(),
        audit.in_flight(),
        audit.completed(),
        audit.cancelled(),
        audit.failed(),
        audit.interrupted(),
        if audit.is_balanced() { "balanced" } else { "NOT BALANCED" },
    );
    for hook in audit.hooks() {
        text.push_str(&format!(
            "hook {}: {} queued, {} delivered, {} retried, {} dead-lettered\n",
            hook.name(),
            hook.queued(),
            hook.delivered(),
            hook.retried(),
            hook.dead_lettered(),
        ));
    }
    say(&text);
}

/// The reason for the exit code.
pub(crate) fn complain(message: &str) {
    // Nobody reads stderr: the exit code still tells.
    let _ = writeln!(std::io::stderr(), "error: {message}");
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    // Nobody reads stdout: that is no reason to stop metering.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
