//! The one place that decides how a stream ended.
//!
//! There is no single end-of-stream signal. hyper drops a body without ever seeing `None` after five
//! perfectly normal endings (the end hint, the declared length on HTTP/1.1, trailers, an empty body, a
//! response that has no content), and `None` itself proves nothing if fewer bytes than declared came
//! out. So nothing is decided while the body runs: the body records [`Facts`], and [`decide`] reads them
//! once, at `None`, at an error, at trailers, in `Drop`, or when somebody stops the stream.
//!
//! The rules, in order; the first that holds decides:
//!
//! | # | fact | outcome | evidence | ended by |
//! |---|---|---|---|---|
//! | 0 | a pipeline was finished | as its producer says | Finished | Upstream |
//! | 1 | the service or body returned an error | Failed | Error | Upstream |
//! |   | a chunk was withheld: `on_chunk` broke off | Cancelled | Stopped | Layer |
//! |   | a chunk was withheld: the capture may not overflow | Failed(ContentTooLarge) | Error | Layer |
//! | 2 | dropped after the inner service or body panicked | Failed(Panicked) | Panic | Upstream |
//! | 3 | HEAD, 1xx, 204, 304, 2xx to CONNECT | Completed | NoBody | Upstream |
//! | 4 | trailers, `None`, end hint, or empty: fewer bytes than declared | Failed(ShortBody) | that signal | Upstream |
//! |   | … otherwise | Completed | that signal | Upstream |
//! | 5 | the declared length is reached | Completed | Length | Upstream |
//! | 6 | stopped on purpose | Cancelled | Stopped | Layer |
//! |   | a limit was met: time, or a reader that is too far behind | Failed(that limit) | Limit | Layer |
//! | 7 | unpolled, with an unusable `content-length` | Failed(BadLength) | Dropped | Downstream |
//! | 8 | dropped while the thread unwinds | Failed(Panicked) | Panic | Downstream |
//! | 9 | anything else | Cancelled | Dropped | Downstream |
//!
//! A stop, or a limit, stands below the signs of completion: a stream that has handed over all that it declared is
//! not made a cancelled one by a late stop. gRPC is looked at last and only where HTTP says Completed: a
//! non-zero `grpc-status` in trailers or headers makes it Failed(Grpc).

use crate::error::StreamError;
use crate::outcome::{EndedBy, Evidence, Outcome, Phase};
use crate::stop::StopReason;

/// What made somebody ask how the stream ended.
#[derive(Clone, Debug)]
pub(crate) enum Signal {
    /// The service or the body returned an error.
    Error(StreamError),
    /// A trailers frame went by.
    Trailers,
    /// The body yielded `None`.
    EndOfBody,
    /// The future or the body was dropped.
    Dropped {
        /// `std::thread::panicking()` at that moment.
        unwinding: bool,
    },
    /// Somebody stopped the stream on purpose.
    Stopped(StopReason),
    /// A limit was met.
    Limit(StreamError),
    /// The producer of a pipeline says so.
    Finished(Outcome),
    /// `on_chunk` broke off: the chunk that it saw is withheld.
    BrokenOff(StopReason),
    /// The capture overflowed where that was asked to be an error: the chunk is withheld.
    TooLarge {
        /// The capture limit in bytes.
        limit: u64,
    },
}

/// Everything that [`decide`] looks at.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) signal: Signal,
    pub(crate) has_head: bool,
    pub(crate) polled: bool,
    /// The inner service or body did.
    pub(crate) panicked: bool,
    pub(crate) bodiless: bool,
    /// The inner body said `is_end_stream` at hand-over.
    pub(crate) empty: bool,
    /// The inner body said `is_end_stream` after its last data frame.
    pub(crate) end_hint: bool,
    pub(crate) declared: Option<u64>,
    pub(crate) bad_length: Option<Box<str>>,
    pub(crate) produced: u64,
    pub(crate) grpc: Option<GrpcStatus>,
}

/// The gRPC status of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GrpcStatus {
    pub(crate) status: i32,
    pub(crate) message: Option<Box<str>>,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    pub(crate) phase: Phase,
    pub(crate) evidence: Evidence,
    pub(crate) ended_by: EndedBy,
    pub(crate) stop_reason: Option<StopReason>,
}

/// Decides how a stream ended.
pub(crate) fn decide(facts: &Facts) -> Verdict {
    let mut verdict = by_http(facts);
    if let (Outcome::Completed, Some(grpc)) = (&verdict.outcome, &facts.grpc)
        && grpc.status != 0
    {
        verdict.outcome =
            Outcome::Failed(StreamError::Grpc { status: grpc.status, message: grpc.message.clone() });
    }
    verdict
}

fn by_http(facts: &Facts) -> Verdict {
    use {EndedBy::*, Outcome::*};
    let verdict = |outcome, evidence, ended_by| Verdict {
        outcome,
        phase: phase(facts),
        evidence,
        ended_by,
        stop_reason: None,
    };
    let panicked = |text: &str, by| verdict(Failed(panic(text)), Evidence::Panic, by);

    let stopped = |reason: &StopReason| Verdict {
        stop_reason: Some(reason.clone()),
        ..verdict(Cancelled, Evidence::Stopped, Layer)
    };

    match &facts.signal {
        Signal::Error(error) => return verdict(Failed(error.clone()), Evidence::Error, Upstream),
        Signal::Finished(outcome) => return verdict(outcome.clone(), Evidence::Finished, Upstream),
        Signal::BrokenOff(reason) => return stopped(reason),
        Signal::TooLarge { limit } => {
            let error = StreamError::ContentTooLarge { limit: *limit };
            return verdict(Failed(error), Evidence::Error, Layer);
        }
        _ => {}
    }
    if let (Signal::Dropped { .. }, true) = (&facts.signal, facts.panicked) {
        let inside = if facts.has_head { "the inner body" } else { "the inner service" };
        return panicked(inside, Upstream);
    }
    if facts.bodiless {
        return verdict(Completed, Evidence::NoBody, Upstream);
    }
    if let Some(evidence) = end_signal(facts) {
        let outcome = match facts.declared {
            Some(declared) if facts.produced < declared => {
                Failed(StreamError::ShortBody { declared, produced: facts.produced })
            }
            _ => Completed,
        };
        return verdict(outcome, evidence, Upstream);
    }
    if facts.declared.is_some_and(|declared| facts.produced >= declared) {
        return verdict(Completed, Evidence::Length, Upstream);
    }
    if let Signal::Stopped(reason) = &facts.signal {
        return stopped(reason);
    }
    if let Signal::Limit(error) = &facts.signal {
        return verdict(Failed(error.clone()), Evidence::Limit, Layer);
    }
    if let (false, Some(value)) = (facts.polled, &facts.bad_length) {
        let error = StreamError::BadLength(value.clone());
        return verdict(Failed(error), Evidence::Dropped, Downstream);
    }
    if let Signal::Dropped { unwinding: true } = facts.signal {
        return panicked("elsewhere, while the stream was dropped", Downstream);
    }
    verdict(Cancelled, Evidence::Dropped, Downstream)
}

/// The first sign, in the order of its weight, that the body itself said it was over.
fn end_signal(facts: &Facts) -> Option<Evidence> {
    match facts.signal {
        Signal::Trailers => Some(Evidence::Trailers),
        Signal::EndOfBody => Some(Evidence::EndOfBody),
        _ if facts.end_hint => Some(Evidence::EndHint),
        _ if facts.empty => Some(Evidence::Empty),
        _ => None,
    }
}

fn phase(facts: &Facts) -> Phase {
    match (facts.has_head, facts.polled) {
        (false, _) => Phase::BeforeHead,
        (true, false) => Phase::BeforeBody,
        (true, true) => Phase::Body,
    }
}

fn panic(inside: &str) -> StreamError {
    StreamError::Panicked(format!("in {inside}").into())
}
