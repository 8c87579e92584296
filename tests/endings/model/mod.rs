//! Random scripts against a model: an independent reading of the rules by which a stream's end is decided.
//!
//! Everything is polled by hand, so that each script has exactly one right answer.

mod rules;
mod scenario;

use std::collections::HashMap;
use std::sync::Once;

use fastrand::Rng;
use http::Method;
use streaming_accumulator::meter::{InBandError, Meter, MeterSet, ReportBuilder};

use crate::support::body::Step;
use crate::support::*;

const SCRIPTS: u64 = 20_000;

/// How the inner service behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answers {
    /// After this number of pending polls.
    After(usize),
    Error,
    PanicsInCall,
    PanicsInPoll,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Hint {
    Never,
    AtEnd,
    After(usize),
}

/// What the inner body's first bytes say to the meter: an `e` is the protocol's end, an `f` an error.
#[derive(Debug, Default)]
struct Letters {
    ended: bool,
}

/// One exchange, and how it is polled.
#[derive(Clone, Debug)]
struct Scenario {
    method: Method,
    status: u16,
    answers: Answers,
    lengths: Vec<&'static str>,
    grpc: Option<&'static str>,
    size: Option<u64>,
    hint: Hint,
    steps: Vec<Step>,
    /// Polls of the future, at most.
    future_polls: usize,
    /// Polls of the body, at most; those past its end must yield nothing.
    body_polls: usize,
    /// Dropped by a panic of somebody else.
    unwinding: bool,
}

// === impl Letters ===

impl Meter for Letters {
    fn feed(&mut self, bytes: &[u8], reading: &mut ReportBuilder) {
        self.ended |= bytes.contains(&b'e');
        if bytes.contains(&b'f') {
            reading.error(InBandError::default());
        }
    }

    fn finish(&mut self, _: &mut ReportBuilder) {}

    fn is_terminated(&self) -> Option<bool> {
        Some(self.ended)
    }
}

fn bytes_of(step: &Step) -> u64 {
    match step {
        Step::Data(data) => data.len() as u64,
        _ => 0,
    }
}

fn pick<T: Clone>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())].clone()
}

/// Thousands of scripted panics would bury the message of the one that matters.
fn hide_scripted_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref() != Some(&"scripted panic") {
                report(info);
            }
        }));
    });
}

#[tokio::test]
async fn random_scripts_end_as_the_rules_say() {
    hide_scripted_panics();
    let recorder = Recorder::with(|builder| {
        builder.meter(MeterSet::none().with(|_| Some(Box::new(Letters::default()))))
    });
    let mut rng = Rng::with_seed(2026);
    let scenarios: Vec<_> = (0..SCRIPTS).map(|_| Scenario::random(&mut rng)).collect();
    for (path, scenario) in scenarios.iter().enumerate() {
        scenario.play(&recorder, path as u64);
        if path % 64 == 0 {
            // The workers get their turn.
            tokio::task::yield_now().await;
        }
    }
    let mut kinds: HashMap<String, u64> = HashMap::new();
    for record in recorder.all(SCRIPTS).await {
        let path: usize = record.uri().path()[1..].parse().unwrap();
        let (scenario, account) = (&scenarios[path], Account::of(&record));
        assert_eq!(account, scenario.predict(), "script {path}: {scenario:#?}");
        *kinds.entry(format!("{:?} {:?}", account.what, account.evidence)).or_default() += 1;
    }
    // Every rule was reached, and not by one lucky script.
    let rules = [
        "Completed Trailers",
        "Completed EndOfBody",
        "Completed EndHint",
        "Completed Empty",
        "Completed Length",
        "Completed LogicalEnd",
        "Completed NoBody",
        "Cancelled Dropped",
        "Failed(\"body\") Error",
        "Failed(\"service\") Error",
        "Failed(\"panicked\") Panic",
        "Failed(\"short_body\") Trailers",
        "Failed(\"short_body\") EndOfBody",
        "Failed(\"short_body\") EndHint",
        "Failed(\"short_body\") Empty",
        "Failed(\"bad_length\") Dropped",
        "Failed(\"grpc\") Trailers",
        "Failed(\"grpc\") NoBody",
        "Failed(\"in_band\") Trailers",
        "Failed(\"in_band\") EndOfBody",
        "Failed(\"in_band\") EndHint",
        "Failed(\"in_band\") Length",
        "Failed(\"in_band\") LogicalEnd",
        "Failed(\"in_band\") Dropped",
        "Failed(\"in_band\") Error",
    ];
    for rule in rules {
        assert!(kinds.get(rule).is_some_and(|times| *times >= 20), "{rule}: {kinds:#?}");
    }
}
