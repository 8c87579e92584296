//! What metering costs, protocol by protocol: `cargo bench --bench meter`.
//!
//! Recorded streams of real providers are metered, one event a chunk, as servers send them. They are compared with
//! parsing every event into a `serde_json::Value`, which is what one writes first, on top of the same framing.
//! Recordings are looked for in `METER_RECORDINGS`, else beside the checkout; without any, streams of the shapes
//! of four protocols are made. One made-up chat of 403 events is measured in any case, by itself and through the
//! layer: recordings are short, and pay more for their first and last events. *Ratios within a run count*, not
//! nanoseconds between runs.

mod layer;
#[path = "../support/recordings.rs"]
mod recordings;
#[path = "../support/rounds.rs"]
mod rounds;

use std::hint::black_box;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode, Uri};
use serde_json::Value;
use streaming_accumulator::meter::{MeterSet, ResponseHead, TextPolicy};
use tokio::time::Instant;

use recordings::Recording;

const ROUNDS: usize = 15;

/// At most so much of parsing every event into a `Value`, without texts, and with them.
const WANTED: [(&str, f64); 2] = [(SKIP, 0.15), (KEEP, 0.4)];

const FRAMING: &str = "framing alone";
const VALUE: &str = "Value per event";
const SKIP: &str = "meter, no text";
const COUNT: &str = "meter, text counted";
const KEEP: &str = "meter, text kept";
const NAMES: [&str; 5] = [FRAMING, VALUE, SKIP, COUNT, KEEP];

fn main() {
    let recordings = recordings::all();
    let mut protocols: Vec<&str> = recordings.iter().map(|recording| &*recording.protocol).collect();
    protocols.dedup();
    println!(
        "{} streams; best of {ROUNDS} rounds; ns per event, and the ratio to {VALUE:?}\n\n{:<20}{:>8}{:>8}{}",
        recordings.len(),
        "",
        "events",
        "bytes",
        NAMES.map(|name| format!("{name:>22}")).concat()
    );
    for protocol in &protocols {
        let streams: Vec<&Recording> =
            recordings.iter().filter(|recording| recording.protocol == *protocol).collect();
        row(protocol, &streams);
    }
    let all: Vec<&Recording> = recordings.iter().collect();
    let best = row("all together", &all);
    for (name, wanted) in WANTED {
        let ratio = time(&best, name) / time(&best, VALUE);
        let met = if ratio <= wanted { "met" } else { "MISSED" };
        println!("wanted of {name:?}: at most {wanted} of {VALUE:?}. It takes {ratio:.3}: {met}");
    }
    let chat = recordings::chat();
    println!();
    row("a long chat", &[&chat]);
    layer::run(&chat);
}

/// Measures these streams with each contestant, and prints the table's row.
fn row(title: &str, streams: &[&Recording]) -> Vec<f64> {
    let events: usize = streams.iter().map(|stream| stream.chunks.len()).sum();
    let bytes: usize = streams.iter().map(|stream| stream.body.len()).sum();
    // Long enough for the clock, whatever the protocol has.
    let repeats = (4_000_000 / bytes).max(1);
    let mut contestants = NAMES;
    let best = rounds::best_of(ROUNDS, &mut contestants, |name| {
        let started = Instant::now();
        for stream in std::iter::repeat_n(streams, repeats).flatten() {
            run(name, stream);
        }
        [started.elapsed().as_nanos() as f64 / (repeats * events) as f64]
    });
    let best: Vec<f64> = best.into_iter().map(|[nanos]| nanos).collect();
    let value = time(&best, VALUE);
    let cells = best.iter().map(|nanos| {
        let megabytes = bytes as f64 / events as f64 / nanos * 1_000.0;
        format!("{nanos:>8.0} {:>5.2}x {megabytes:>5.0}MB", nanos / value)
    });
    println!("{title:<20}{events:>8}{bytes:>8}{}", cells.collect::<String>());
    best
}

fn time(best: &[f64], name: &str) -> f64 {
    let at = NAMES.iter().position(|other| *other == name).expect("one of them");
    best[at]
}

fn run(name: &str, stream: &Recording) {
    match name {
        FRAMING => stream.events(|event| {
            black_box(event);
        }),
        VALUE => stream.events(|event| {
            // `[DONE]` is none.
            let value = black_box(serde_json::from_slice::<Value>(event));
            if let Some(bytes) = value.ok().as_ref().and_then(|value| value.get("bytes")?.as_str()) {
                // Bedrock wraps the models' own events.
                let event = STANDARD.decode(bytes).expect("base64");
                let _ = black_box(serde_json::from_slice::<Value>(&event));
            }
        }),
        SKIP => meter(TextPolicy::Skip, stream),
        COUNT => meter(TextPolicy::Count, stream),
        _ => meter(TextPolicy::Keep(1024 * 1024), stream),
    }
}

fn meter(policy: TextPolicy, stream: &Recording) {
    let meters = MeterSet::detect().text(policy);
    let uri = Uri::from_static("/");
    let head = ResponseHead::new(&Method::POST, &uri, StatusCode::OK, &stream.headers);
    let mut metering = meters.open(&head).expect("a meter");
    for chunk in stream.chunks() {
        metering.feed(chunk, Duration::ZERO);
    }
    black_box(metering.end(true));
}
