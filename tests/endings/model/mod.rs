//! Random scripts against a model: an independent reading of the rules by which a stream's end is decided.
//!
//! Everything is polled by hand, so that each script has exactly one right answer.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::Pin;
use std::sync::Once;
use std::task::{Context, Poll, Waker};

use fastrand::Rng;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use streaming_accumulator::{BoxError, Evidence, InBandError, Meter, MeterSet, Phase, Reading};
use tower::Service;

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

// === impl Scenario ===

impl Scenario {
    fn random(rng: &mut Rng) -> Self {
        let mut steps = Vec::new();
        for _ in 0..rng.usize(..5) {
            steps.push(match rng.u8(..6) {
                0 => Step::Yield,
                1 => Step::Data("".into()),
                2 | 3 => Step::Data(pick(rng, &["e", "f", "xe", "xf", "ef"]).into()),
                _ => Step::Data(vec![b'x'; rng.usize(1..4)].into()),
            });
        }
        let total = steps.iter().map(bytes_of).sum::<u64>();
        match rng.u8(..8) {
            0 => steps.push(Step::Error),
            1 => steps.push(Step::Panic),
            2 => steps.push(Step::Trailers(trailers(&[("x-sum", "1")]))),
            3 => steps.push(Step::Trailers(trailers(&[("grpc-status", "0")]))),
            4 => steps.push(Step::Trailers(trailers(&[("grpc-status", "13"), ("grpc-message", "a%20b")]))),
            _ => {}
        }
        let frames = steps.len();
        Self {
            method: pick(rng, &[Method::GET, Method::GET, Method::POST, Method::HEAD, Method::CONNECT]),
            status: pick(rng, &[200, 200, 200, 201, 204, 304, 205, 101, 103, 404, 500]),
            answers: match rng.u8(..20) {
                0 => Answers::Error,
                1 => Answers::PanicsInCall,
                2 => Answers::PanicsInPoll,
                _ => Answers::After(rng.usize(..3)),
            },
            lengths: match rng.u8(..12) {
                0..=3 => vec![],
                4 => vec!["0"],
                5 => vec!["ten"],
                6 => vec!["+5"],
                7 => vec!["5", "6"],
                8 => vec!["5", "5"],
                9 => vec![pick(rng, &["3", "5", "8"])],
                10 => vec!["99999999999999999999"],
                _ => vec![pick(rng, &["1", "2", "4", "6"])],
            },
            grpc: match rng.u8(..16) {
                0 => Some("0"),
                1 => Some("7"),
                2 => Some("seven"),
                _ => None,
            },
            size: match rng.u8(..6) {
                0 | 1 => Some(total),
                2 => Some(rng.u64(..8)),
                _ => None,
            },
            hint: match rng.u8(..6) {
                0 | 1 => Hint::AtEnd,
                2 => Hint::After(rng.usize(..=frames)),
                _ => Hint::Never,
            },
            future_polls: if rng.u8(..6) == 0 { rng.usize(..3) } else { usize::MAX },
            body_polls: if rng.bool() { rng.usize(..6) } else { frames + rng.usize(..4) },
            unwinding: rng.u8(..6) == 0,
            steps,
        }
    }

    fn body(&self) -> MockBody {
        let body = MockBody::scripted(self.steps.iter().cloned());
        let body = match self.hint {
            Hint::Never => body,
            Hint::AtEnd => body.hint(true),
            Hint::After(frames) => body.claims_end_after(frames),
        };
        match self.size {
            Some(size) => body.claims(size),
            None => body,
        }
    }

    fn response(&self) -> Response<MockBody> {
        let mut response = Response::new(self.body());
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap();
        for length in &self.lengths {
            response.headers_mut().append("content-length", length.parse().unwrap());
        }
        if let Some(status) = self.grpc {
            response.headers_mut().insert("grpc-status", status.parse().unwrap());
        }
        response
    }

    /// Plays it: `path` names it in its record.
    fn play(&self, recorder: &Recorder, path: u64) {
        let scenario = self.clone();
        let service = tower::service_fn(move |_: Request<()>| {
            assert!(scenario.answers != Answers::PanicsInCall, "scripted panic");
            let scenario = scenario.clone();
            let mut pending = match scenario.answers {
                Answers::After(polls) => polls,
                _ => 0,
            };
            std::future::poll_fn(move |_| match scenario.answers {
                _ if pending > 0 => {
                    pending -= 1;
                    Poll::Pending
                }
                Answers::Error => Poll::Ready(Err(BoxError::from("scripted error"))),
                Answers::PanicsInPoll => panic!("scripted panic"),
                _ => Poll::Ready(Ok(scenario.response())),
            })
        });
        let request = Request::builder().method(&self.method).uri(format!("/{path}")).body(()).unwrap();
        let mut layered = recorder.around(service);
        let Ok(future) = catch_unwind(AssertUnwindSafe(|| layered.call(request))) else { return };
        let mut future = Some(Box::pin(future));
        let mut cx = Context::from_waker(Waker::noop());

        for _ in 0..self.future_polls {
            let polled = {
                let future = future.as_mut().unwrap();
                catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx)))
            };
            match polled {
                // Dropped when nothing unwinds any more, as under a layer that catches panics.
                Err(_) | Ok(Poll::Ready(Err(_))) => return,
                Ok(Poll::Pending) => {}
                Ok(Poll::Ready(Ok(response))) => {
                    drop(future.take());
                    let mut body = Box::pin(response.into_body());
                    self.play_body(body.as_mut(), &mut cx);
                    return self.let_go(body);
                }
            }
        }
        self.let_go(future);
    }

    fn play_body<B: Body>(&self, mut body: Pin<&mut B>, cx: &mut Context<'_>) {
        let mut over = false;
        for _ in 0..self.body_polls {
            let polled = catch_unwind(AssertUnwindSafe(|| body.as_mut().poll_frame(cx)));
            let Ok(polled) = polled else {
                assert!(!over, "the inner body was polled after its end: {self:?}");
                return;
            };
            assert!(!over || matches!(polled, Poll::Ready(None)), "{self:?}");
            over |= match polled {
                Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
                Poll::Ready(_) => true,
                Poll::Pending => false,
            };
        }
    }

    /// Drops it, if asked to while a panic of somebody else unwinds.
    fn let_go<T>(&self, held: T) {
        if self.unwinding {
            let unwound = catch_unwind(AssertUnwindSafe(move || {
                let _held = held;
                panic_any("scripted panic");
            }));
            assert!(unwound.is_err());
        }
    }

    /// What the record must say.
    fn predict(&self) -> Account {
        let early = |what, evidence, by| Account { what, phase: Phase::BeforeHead, evidence, by, bytes: 0 };
        let panicked = What::Failed("panicked");
        if self.answers == Answers::PanicsInCall {
            return early(panicked, Evidence::Panic, By::Upstream);
        }
        let needed = match self.answers {
            Answers::After(pending) => pending + 1,
            _ => 1,
        };
        if self.future_polls < needed {
            return match self.unwinding {
                true => early(panicked, Evidence::Panic, By::Downstream),
                false => early(What::Cancelled, Evidence::Dropped, By::Downstream),
            };
        }
        match self.answers {
            Answers::Error => return early(What::Failed("service"), Evidence::Error, By::Upstream),
            Answers::PanicsInPoll => return early(panicked, Evidence::Panic, By::Upstream),
            _ => {}
        }
        self.predict_body()
    }

    fn predict_body(&self) -> Account {
        let seen = self.observe();
        let bodiless = self.method == Method::HEAD
            || (100..200).contains(&self.status)
            || [204, 304].contains(&self.status)
            || (self.method == Method::CONNECT && (200..300).contains(&self.status));
        let usable = match self.lengths[..] {
            ["0"] => Some(0),
            ["5", "5"] => Some(5),
            [one] if one.len() == 1 => one.parse().ok(),
            _ => None,
        };
        let unusable = self.size.is_none() && usable.is_none() && !self.lengths.is_empty();
        let declared = self.size.or(usable);

        let phase = if self.body_polls == 0 { Phase::BeforeBody } else { Phase::Body };
        let account = |what, evidence, by| Account {
            what,
            phase,
            evidence,
            by,
            bytes: if bodiless { 0 } else { seen.bytes },
        };
        // Which sign of an end there is, the weightiest first.
        let sign = match seen.end {
            Some(End::Trailers(_)) => Some(Evidence::Trailers),
            Some(End::None) => Some(Evidence::EndOfBody),
            _ if seen.hint => Some(Evidence::EndHint),
            _ if self.claims_end_at(0, self.steps.len()) => Some(Evidence::Empty),
            _ => None,
        };
        let complete = |evidence| account(What::Completed, evidence, By::Upstream);
        let metered = !bodiless && (200..300).contains(&self.status);
        let ended = metered && seen.letters.contains('e');
        let in_band = metered && seen.letters.contains('f');
        let mut verdict = match (seen.end, sign) {
            (Some(End::Error), _) => account(What::Failed("body"), Evidence::Error, By::Upstream),
            (Some(End::Panic), _) => account(What::Failed("panicked"), Evidence::Panic, By::Upstream),
            _ if bodiless => complete(Evidence::NoBody),
            (_, Some(sign)) if declared.is_some_and(|declared| seen.bytes < declared) => {
                account(What::Failed("short_body"), sign, By::Upstream)
            }
            (_, Some(sign)) => complete(sign),
            _ if declared.is_some_and(|declared| seen.bytes >= declared) => complete(Evidence::Length),
            _ if ended => complete(Evidence::LogicalEnd),
            _ if self.body_polls == 0 && unusable => {
                account(What::Failed("bad_length"), Evidence::Dropped, By::Downstream)
            }
            _ if self.unwinding => account(What::Failed("panicked"), Evidence::Panic, By::Downstream),
            _ => account(What::Cancelled, Evidence::Dropped, By::Downstream),
        };
        let in_trailers = match &seen.end {
            Some(End::Trailers(trailers)) => {
                trailers.get("grpc-status").map(|status| status.to_str().unwrap())
            }
            _ => None,
        };
        let refused = in_trailers.or(self.grpc).is_some_and(|status| status != "0");
        if verdict.what == What::Completed && refused {
            verdict.what = What::Failed("grpc");
        }
        if in_band && !matches!(seen.end, Some(End::Panic)) {
            (verdict.what, verdict.by) = (What::Failed("in_band"), By::Upstream);
        }
        verdict
    }

    /// What the polls of the body bring to light.
    fn observe(&self) -> Seen<'_> {
        let mut seen = Seen { bytes: 0, hint: false, end: None, letters: String::new() };
        let mut frames = 0;
        for at in 0..self.body_polls {
            let left = self.steps.len().saturating_sub(at + 1);
            seen.end = match self.steps.get(at) {
                Some(Step::Data(data)) => {
                    frames += 1;
                    seen.bytes += data.len() as u64;
                    seen.letters.push_str(str::from_utf8(data).unwrap());
                    seen.hint = self.claims_end_at(frames, left);
                    continue;
                }
                Some(Step::Trailers(trailers)) => Some(End::Trailers(trailers)),
                Some(Step::Error) => Some(End::Error),
                Some(Step::Panic) => Some(End::Panic),
                Some(_) => continue,
                None => Some(End::None),
            };
            break;
        }
        seen
    }

    /// Whether the body reports its end after `frames` frames, with `left` steps to go.
    fn claims_end_at(&self, frames: usize, left: usize) -> bool {
        match self.hint {
            Hint::Never => false,
            Hint::AtEnd => left == 0,
            Hint::After(claimed) => frames >= claimed,
        }
    }
}

// === impl Letters ===

impl Meter for Letters {
    fn feed(&mut self, bytes: &[u8], reading: &mut Reading) {
        self.ended |= bytes.contains(&b'e');
        if bytes.contains(&b'f') {
            reading.error(InBandError::default());
        }
    }

    fn finish(&mut self, _: &mut Reading) {}

    fn is_terminated(&self) -> Option<bool> {
        Some(self.ended)
    }
}

struct Seen<'a> {
    bytes: u64,
    hint: bool,
    end: Option<End<'a>>,
    /// The content.
    letters: String,
}

#[derive(Clone, Copy)]
enum End<'a> {
    None,
    Trailers(&'a HeaderMap),
    Error,
    Panic,
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
