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
//! |   | a meter saw the protocol's own end marker | Completed | LogicalEnd | Upstream |
//! | 6 | stopped on purpose | Cancelled | Stopped | Layer |
//! |   | a limit was met: time, or a reader that is too far behind | Failed(that limit) | Limit | Layer |
//! | 7 | unpolled, with an unusable `content-length` | Failed(BadLength) | Dropped | Downstream |
//! | 8 | dropped while the thread unwinds | Failed(Panicked) | Panic | Downstream |
//! | 9 | anything else | Cancelled | Dropped | Downstream |
//!
//! A stop, or a limit, stands below the signs of completion: a stream that has handed over all that it declared is
//! not made a cancelled one by a late stop. The end marker stands last among these signs, because it is the only
//! one that is not HTTP's: it makes nothing whole that HTTP knows to be broken (rules 1, 2 and 4).
//!
//! Two more facts are looked at when that is decided, because they lie inside of what HTTP carries. Each keeps
//! phase and evidence, which say how far the stream came and what ended it:
//!
//! | fact | where | outcome | ended by |
//! |---|---|---|---|
//! | a meter saw an error inside the stream | everywhere, save rules 0 and 2 | Failed(InBand) | Upstream |
//! | a non-zero `grpc-status`, in trailers or headers | where the outcome is Completed | Failed(Grpc) | as it is |
//!
//! The error inside the stream came before whatever ended it, and the first cause wins: it also stands in the place
//! of a stop, which then has no reason. A panic of the inner body stays one: it is the graver fault.

use super::error::StreamError;
use super::outcome::{EndedBy, Evidence, Outcome, Phase};
use super::stop_reason::StopReason;

/// What made somebody ask how the stream ended.
#[derive(Clone, Debug)]
pub(crate) enum EndSignal {
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
    pub(crate) signal: EndSignal,
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
    /// A meter saw the protocol's own end.
    pub(crate) terminated: bool,
    /// A meter saw an error inside the stream.
    pub(crate) in_band: Option<StreamError>,
}

/// The gRPC status of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GrpcStatus {
    pub(crate) status: i32,
    pub(crate) message: Option<Box<str>>,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) outcome: Outcome,
    pub(crate) phase: Phase,
    pub(crate) evidence: Evidence,
    pub(crate) ended_by: EndedBy,
    pub(crate) stop_reason: Option<StopReason>,
}

impl Decision {
    /// The error with which the body of the stream is to end, if it has not ended by itself.
    pub(crate) fn body_error(&self) -> Option<StreamError> {
        match (&self.stop_reason, self.outcome.error()) {
            (Some(reason), _) => Some(StreamError::Stopped { reason: reason.clone() }),
            (None, error) => error.cloned(),
        }
    }
}

/// Decides how a stream ended.
pub(crate) fn decide(facts: &Facts) -> Decision {
    let mut decision = by_http(facts);
    if let Some(error) = facts.in_band.as_ref().filter(|_| !is_beyond_meters(facts)) {
        let outcome = Outcome::Failed(error.clone());
        return Decision { outcome, ended_by: EndedBy::Upstream, stop_reason: None, ..decision };
    }
    if let (Outcome::Completed, Some(grpc)) = (&decision.outcome, &facts.grpc)
        && grpc.status != 0
    {
        decision.outcome =
            Outcome::Failed(StreamError::Grpc { status: grpc.status, message: grpc.message.clone() });
    }
    decision
}

fn by_http(facts: &Facts) -> Decision {
    use {EndedBy::*, Outcome::*};
    let decision = |outcome, evidence, ended_by| Decision {
        outcome,
        phase: phase(facts),
        evidence,
        ended_by,
        stop_reason: None,
    };
    let panicked = |text: &str, by| decision(Failed(panic(text)), Evidence::Panic, by);

    let stopped = |reason: &StopReason| Decision {
        stop_reason: Some(reason.clone()),
        ..decision(Cancelled, Evidence::Stopped, Layer)
    };

    match &facts.signal {
        EndSignal::Error(error) => return decision(Failed(error.clone()), Evidence::Error, Upstream),
        EndSignal::Finished(outcome) => return decision(outcome.clone(), Evidence::Finished, Upstream),
        EndSignal::BrokenOff(reason) => return stopped(reason),
        EndSignal::TooLarge { limit } => {
            let error = StreamError::ContentTooLarge { limit: *limit };
            return decision(Failed(error), Evidence::Error, Layer);
        }
        _ => {}
    }
    if is_dropped_after_panic(facts) {
        let inside = if facts.has_head { "the inner body" } else { "the inner service" };
        return panicked(inside, Upstream);
    }
    if facts.bodiless {
        return decision(Completed, Evidence::NoBody, Upstream);
    }
    if let Some(evidence) = end_signal(facts) {
        let outcome = match facts.declared {
            Some(declared) if facts.produced < declared => {
                Failed(StreamError::ShortBody { declared, produced: facts.produced })
            }
            _ => Completed,
        };
        return decision(outcome, evidence, Upstream);
    }
    if facts.declared.is_some_and(|declared| facts.produced >= declared) {
        return decision(Completed, Evidence::Length, Upstream);
    }
    if facts.terminated {
        return decision(Completed, Evidence::LogicalEnd, Upstream);
    }
    if let EndSignal::Stopped(reason) = &facts.signal {
        return stopped(reason);
    }
    if let EndSignal::Limit(error) = &facts.signal {
        return decision(Failed(error.clone()), Evidence::Limit, Layer);
    }
    if let (false, Some(value)) = (facts.polled, &facts.bad_length) {
        let error = StreamError::BadLength(value.clone());
        return decision(Failed(error), Evidence::Dropped, Downstream);
    }
    if let EndSignal::Dropped { unwinding: true } = facts.signal {
        return panicked("elsewhere, while the stream was dropped", Downstream);
    }
    decision(Cancelled, Evidence::Dropped, Downstream)
}

/// Whether what meters saw says nothing of the outcome.
fn is_beyond_meters(facts: &Facts) -> bool {
    matches!(facts.signal, EndSignal::Finished(_)) || is_dropped_after_panic(facts)
}

fn is_dropped_after_panic(facts: &Facts) -> bool {
    facts.panicked && matches!(facts.signal, EndSignal::Dropped { .. })
}

/// The first sign, in the order of its weight, that the body itself said it was over.
fn end_signal(facts: &Facts) -> Option<Evidence> {
    match facts.signal {
        EndSignal::Trailers => Some(Evidence::Trailers),
        EndSignal::EndOfBody => Some(Evidence::EndOfBody),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A body of unknown length that was polled and has ten bytes out.
    fn facts(signal: EndSignal) -> Facts {
        Facts {
            signal,
            has_head: true,
            polled: true,
            panicked: false,
            bodiless: false,
            empty: false,
            end_hint: false,
            declared: None,
            bad_length: None,
            produced: 10,
            grpc: None,
            terminated: false,
            in_band: None,
        }
    }

    fn body_error() -> StreamError {
        StreamError::Body("reset".into())
    }

    /// An error inside the stream without a code.
    fn unnamed() -> StreamError {
        StreamError::InBand { code: None, message: "".into() }
    }

    fn limit() -> StreamError {
        StreamError::ContentTooLarge { limit: 1 }
    }

    /// Every way in which a body can end, and what it is without a meter.
    fn endings() -> Vec<(Facts, Evidence)> {
        let dropped = |unwinding| EndSignal::Dropped { unwinding };
        let of = |signal, change: fn(&mut Facts)| {
            let mut facts = facts(signal);
            change(&mut facts);
            facts
        };
        vec![
            (of(EndSignal::Error(body_error()), |_| {}), Evidence::Error),
            (of(EndSignal::BrokenOff("quota".into()), |_| {}), Evidence::Stopped),
            (of(EndSignal::TooLarge { limit: 1 }, |_| {}), Evidence::Error),
            (of(EndSignal::Trailers, |_| {}), Evidence::Trailers),
            (of(EndSignal::EndOfBody, |_| {}), Evidence::EndOfBody),
            (of(EndSignal::EndOfBody, |facts| facts.declared = Some(11)), Evidence::EndOfBody),
            (of(dropped(false), |facts| facts.end_hint = true), Evidence::EndHint),
            (
                of(dropped(false), |facts| (facts.end_hint, facts.declared) = (true, Some(11))),
                Evidence::EndHint,
            ),
            (of(dropped(false), |facts| facts.declared = Some(10)), Evidence::Length),
            (of(dropped(false), |_| {}), Evidence::Dropped),
            (of(dropped(false), |facts| facts.declared = Some(11)), Evidence::Dropped),
            (of(dropped(true), |_| {}), Evidence::Panic),
            (of(EndSignal::Stopped(StopReason::Cancelled), |_| {}), Evidence::Stopped),
            (of(EndSignal::Limit(limit()), |_| {}), Evidence::Limit),
        ]
    }

    #[test]
    fn end_marker_completes_what_only_drop_or_layer_ended() {
        for (without, evidence) in endings() {
            let before = decide(&without);
            assert_eq!(before.evidence, evidence, "{without:?}");
            let after = decide(&Facts { terminated: true, ..without.clone() });
            let is_cut = match &without.signal {
                EndSignal::Dropped { .. } => !matches!(evidence, Evidence::EndHint | Evidence::Length),
                signal => matches!(signal, EndSignal::Stopped(_) | EndSignal::Limit(_)),
            };
            let expected = Decision {
                outcome: Outcome::Completed,
                phase: Phase::Body,
                evidence: Evidence::LogicalEnd,
                ended_by: EndedBy::Upstream,
                stop_reason: None,
            };
            assert_eq!(after, if is_cut { expected } else { before }, "{without:?}");
        }
    }

    #[test]
    fn in_band_error_fails_a_stream_however_it_ended() {
        let error = StreamError::InBand { code: Some("overloaded".into()), message: "later".into() };
        for terminated in [false, true] {
            for (without, evidence) in endings() {
                let without = Facts { terminated, ..without };
                let evidence = if terminated { decide(&without).evidence } else { evidence };
                let decision = decide(&Facts { in_band: Some(error.clone()), ..without });
                assert_eq!(error.to_string(), "in-band error overloaded: later");
                let expected = Decision {
                    outcome: Outcome::Failed(error.clone()),
                    phase: Phase::Body,
                    evidence,
                    ended_by: EndedBy::Upstream,
                    stop_reason: None,
                };
                assert_eq!(decision, expected);
            }
        }
    }

    #[test]
    fn panic_and_producers_word_outrank_meters() {
        let panicked = Facts { panicked: true, ..facts(EndSignal::Dropped { unwinding: false }) };
        let finished = facts(EndSignal::Finished(Outcome::Cancelled));
        for without in [panicked, finished] {
            let in_band = Some(unnamed());
            let with = Facts { terminated: true, in_band, ..without.clone() };
            assert_eq!(decide(&with), decide(&without));
        }
    }

    #[test]
    fn in_band_error_outranks_grpc_status() {
        let refused = GrpcStatus { status: 7, message: None };
        let with = |in_band| {
            let grpc = Some(refused.clone());
            decide(&Facts { grpc, in_band, terminated: true, ..facts(EndSignal::Trailers) }).outcome
        };
        assert!(matches!(with(None), Outcome::Failed(StreamError::Grpc { status: 7, .. })));
        let outcome = with(Some(unnamed()));
        assert!(matches!(outcome, Outcome::Failed(StreamError::InBand { code: None, .. })));
    }
}
