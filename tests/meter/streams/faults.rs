//! Meters that misbehave: the stream goes on.

use std::sync::{Arc, OnceLock};

use http::Response;
use streaming_accumulator::Evidence::EndOfBody;
use streaming_accumulator::meter::{Incomplete, Meter, MeterSet, ReportBuilder, UsageBasis};
use streaming_accumulator::{Handle, Outcome};

use super::lines::{Lines, is_cut, report, tokens};
use crate::support::exchange::{H2, H11};
use crate::support::*;

/// Where a meter panics.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Panics {
    InFactory,
    InFeed,
    InFinish,
    InTerminated,
    WhenDropped,
}

struct Faulty {
    lines: Lines,
    panics: Panics,
}

// === impl Faulty ===

impl Faulty {
    fn set(panics: Panics) -> MeterSet {
        MeterSet::none().with(move |_| {
            assert!(panics != Panics::InFactory, "scripted panic");
            Some(Box::new(Self { lines: Lines::default(), panics }))
        })
    }
}

impl Meter for Faulty {
    fn feed(&mut self, bytes: &[u8], reading: &mut ReportBuilder) {
        self.lines.feed(bytes, reading);
        assert!(self.panics != Panics::InFeed, "scripted panic");
    }

    fn finish(&mut self, reading: &mut ReportBuilder) {
        assert!(self.panics != Panics::InFinish, "scripted panic");
        self.lines.finish(reading);
    }

    fn is_terminated(&self) -> Option<bool> {
        assert!(self.panics != Panics::InTerminated, "scripted panic");
        self.lines.is_terminated()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        assert!(self.panics != Panics::WhenDropped, "scripted panic");
    }
}

#[tokio::test]
async fn meter_panic_leaves_the_stream_alone() {
    let cases = [
        // What the record has of the tokens, if there is a report at all.
        (Panics::InFactory, None),
        (Panics::InFeed, Some(Some(1))),
        (Panics::InFinish, Some(Some(2))),
        (Panics::InTerminated, Some(Some(2))),
        (Panics::WhenDropped, None),
    ];
    for proto in [H11, H2] {
        for (panics, left) in cases {
            for on_worker in [false, true] {
                let set = Faulty::set(panics);
                let set = if on_worker { set.on_worker() } else { set };
                let exchange = exchange(proto, body(["one\n", "two\n"]));
                let (reply, record) =
                    exchange.run_through(Recorder::with(|builder| builder.meter(set))).await;
                assert_eq!(reply, exchange.run_bare().await, "{panics:?}");
                assert_eq!(Account::of(&record), completed(EndOfBody, 8), "{panics:?}");
                let report = record.llm();
                assert_eq!(report.map(|_| record.usage().output_tokens), left, "{panics:?}");
                let panicked = matches!(panics, Panics::InFeed | Panics::InFinish);
                let expected = panicked.then_some(&Incomplete::Panicked);
                assert_eq!(report.and_then(|report| report.incomplete.as_ref()), expected, "{panics:?}");
            }
        }
    }
}

/// Stops its own stream when it reads `stop`.
struct Stopper {
    lines: Lines,
    handle: Arc<OnceLock<Handle>>,
}

impl Meter for Stopper {
    fn feed(&mut self, bytes: &[u8], reading: &mut ReportBuilder) {
        self.lines.feed(bytes, reading);
        if bytes == b"stop\n" {
            assert!(self.handle.get().unwrap().streams()[0].cancel());
        }
    }

    fn finish(&mut self, reading: &mut ReportBuilder) {
        self.lines.finish(reading);
    }

    fn is_terminated(&self) -> Option<bool> {
        None
    }
}

#[tokio::test]
async fn meter_can_stop_its_own_stream() {
    let handle = Arc::new(OnceLock::new());
    let own = Arc::clone(&handle);
    let set = MeterSet::none()
        .with(move |_| Some(Box::new(Stopper { lines: Lines::default(), handle: Arc::clone(&own) })));
    let recorder = Recorder::with(|builder| builder.meter(set));
    handle.set(recorder.handle()).unwrap();
    let service = recorder.around(answers([Response::new(body(["one\n", "stop\n", "two\n"]))]));
    let server = serve(Options::h1(), service).await;
    let reply = exchange(H11, body([])).ask(&server).await;
    assert!(is_cut(&reply));
    let record = recorder.only().await;
    assert_eq!(record.outcome(), &Outcome::Cancelled);
    assert_eq!((tokens(&record), record.llm()), ((None, UsageBasis::Absent), None));
}

#[tokio::test]
async fn a_meter_that_has_no_room_stops_reading() {
    // A budget that has room for the stream's head and not for 100 kB of text.
    let recorder = Recorder::with(|builder| {
        let capture = streaming_accumulator::Capture::none();
        builder.meter(super::lines::lines()).capture(capture).memory_budget(64 * 1024)
    });
    let line = format!("{}\n", "x".repeat(9_999));
    let body = (0..10).fold(body([]), |body, _| body.data(line.clone()));
    let (reply, record) = exchange(H11, body).run_through(recorder).await;
    assert_eq!(reply.body.len(), 100_000);
    assert_eq!(record.outcome(), &Outcome::Completed);
    // The counts stay, the text goes.
    assert_eq!(record.usage().output_tokens, Some(10));
    assert_eq!(report(&record).text_len, Some(99_990));
    assert!(report(&record).text.as_ref().is_some_and(|text| text.is_empty()));
}
