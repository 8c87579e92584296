//! The end of a stream: the one place that settles it.

use std::mem;
use std::sync::{Arc, PoisonError};

use http::header::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;

use super::error::StreamError;
use super::head::ResponseFacts;
use super::outcome::{Evidence, Outcome};
use super::record::EndedStream;
#[cfg(feature = "llm")]
use super::report::{LazyReport, MeteredStream};
use super::state::{Ending, Flags, OnEnd, Stage, StreamState};
use super::termination::{EndSignal, Facts, GrpcStatus, decide};
use super::trace;
use crate::contain::contain;
#[cfg(feature = "llm")]
use crate::meter::StreamMeter;

/// What a call of [`settle`](StreamState::settle) did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    /// Nothing: somebody settled the stream before.
    Already,
    /// Nothing yet: the stream's context is being made, and the stream is settled right after that.
    Deferred,
    /// It settled the stream, and the body need not end with an error.
    Settled,
    /// It settled the stream, whose body is to end with this error.
    Failed(StreamError),
}

/// Settles its stream when it is dropped, unless somebody did before.
///
/// The response's future holds it first, then the response's body.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    state: Arc<StreamState>,
}

// === impl StreamState ===

impl StreamState {
    /// Opens the stream: from now on it can be settled, and `on_end` gets what has ended.
    pub(crate) fn open(&self, on_end: OnEnd) {
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        let before = mem::replace(&mut ending.stage, Stage::Open(on_end));
        drop(ending);
        if let Stage::Opening(Some(signal)) = before {
            self.settle(signal, None);
        }
    }

    /// Decides how the stream ended, makes its record, and hands it over. The first call wins.
    ///
    /// It may be called from any thread, also while the body is polled: the metrics' gate orders the two. The order
    /// of the statements matters:
    ///
    /// 1. Close the gate. From here no frame is counted, and none goes on.
    /// 2. Decide, from facts that stand still.
    /// 3. Tell the body how to end.
    /// 4. Make the record, and hand it over.
    /// 5. Only then touch the world outside: wakers, the token, the tracing subscriber. Each may panic, and none may
    ///    cost the record.
    pub(crate) fn settle(&self, signal: EndSignal, trailers: Option<&HeaderMap>) -> Settlement {
        let (on_end, response) = match self.take_ending(signal.clone()) {
            Ok(taken) => taken,
            Err(settlement) => return settlement,
        };
        let is_bodiless = response.as_ref().is_some_and(|response| response.bodiless);
        if matches!(signal, EndSignal::Trailers) && !is_bodiless {
            // Counted here, because they go on only if it is they that end the stream.
            self.metrics().pass_other(self.metrics().end_hint());
        }
        self.metrics().close();

        let grpc = grpc_status(trailers, response.as_ref());
        let grpc_status = grpc.as_ref().map(|grpc| grpc.status);
        let facts = self.facts(signal, response.as_ref(), grpc);
        #[cfg(feature = "llm")]
        let meter = self.meters().finish_response();
        #[cfg(feature = "llm")]
        let facts = Facts {
            terminated: meter.as_ref().is_some_and(StreamMeter::is_terminated),
            in_band: meter.as_ref().and_then(StreamMeter::in_band).map(|error| StreamError::InBand {
                code: error.code.clone(),
                message: error.message.clone(),
            }),
            ..facts
        };
        let decision = decide(&facts);

        let error = decision.body_error();
        // What follows the protocol's own end may never come: then nobody else would end the body.
        if error.is_some() || decision.evidence == Evidence::LogicalEnd {
            // Set once, because a stream is settled once.
            let _ = self.closing.set(error.clone());
        }
        let (outcome, evidence) = (decision.outcome.clone(), decision.evidence);
        let _ = self.outcome.set(outcome.clone());
        let metrics = self.metrics().freeze();
        let bytes = metrics.bytes();
        self.buffer().complete(bytes);
        let content = self.snapshot();
        let spill_error = content.spill_error();
        #[cfg(feature = "llm")]
        let report = self.report(
            meter,
            MeteredStream {
                request: self.request(),
                response: response.as_ref(),
                outcome: &outcome,
                content: &content,
                bytes,
            },
        );
        let ended = EndedStream {
            id: self.id(),
            request: self.request().clone(),
            content,
            #[cfg(feature = "llm")]
            report,
            response,
            decision,
            trailers: trailers.cloned(),
            grpc_status,
            metrics,
        };
        on_end(ended);

        self.tell_outside(&outcome);
        trace::ended(self.span(), self.id(), &outcome, evidence, bytes);
        if let Some(error) = spill_error {
            trace::spill_failed(self.span(), self.id(), &error);
        }
        error.map_or(Settlement::Settled, Settlement::Failed)
    }

    /// Wakes the body and the readers, and cancels the token unless the stream completed. Foreign wakers run here.
    fn tell_outside(&self, outcome: &Outcome) {
        self.wake_body();
        if let Some(readers) = self.some_readers() {
            contain(|| readers.ring());
        }
        if *outcome != Outcome::Completed {
            contain(|| self.cancel_token());
        }
    }

    /// What is needed to end the stream, for the first who asks. Others are told what they did instead.
    fn take_ending(&self, signal: EndSignal) -> Result<(OnEnd, Option<ResponseFacts>), Settlement> {
        // Nothing can panic under this lock, and it is taken a few times in a stream's life.
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        let Ending { stage, response } = &mut *ending;
        match stage {
            Stage::Ended | Stage::Opening(Some(_)) => Err(Settlement::Already),
            Stage::Opening(stop) => {
                *stop = Some(signal);
                Err(Settlement::Deferred)
            }
            Stage::Open(_) => match mem::replace(stage, Stage::Ended) {
                Stage::Open(on_end) => Ok((on_end, response.take())),
                _ => unreachable!("it was just matched"),
            },
        }
    }

    /// The facts as they stand.
    fn facts(&self, signal: EndSignal, response: Option<&ResponseFacts>, grpc: Option<GrpcStatus>) -> Facts {
        let flags = self.flags();
        let panicked = flags.has(Flags::POLLING);
        Facts {
            signal,
            has_head: response.is_some() || flags.has(Flags::HEADLESS),
            // The flag is set after the poll: a panic in the first one leaves it unset.
            polled: flags.has(Flags::POLLED) || (panicked && response.is_some()),
            panicked,
            bodiless: response.is_some_and(|response| response.bodiless),
            empty: response.is_some_and(|response| response.empty),
            end_hint: self.metrics().end_hint(),
            declared: response.and_then(|response| response.declared),
            bad_length: response.and_then(|response| response.bad_length.clone()),
            produced: self.metrics().bytes_produced(),
            grpc,
            terminated: false,
            in_band: None,
        }
    }
}

#[cfg(feature = "llm")]
impl StreamState {
    /// What there is to report of the stream; `None` where nothing is metered.
    fn report(&self, meter: Option<StreamMeter>, stream: MeteredStream<'_>) -> Option<Box<LazyReport>> {
        let (meters, budget) = (self.config().meters.clone(), &self.config().budget);
        let request = self.meters().finish_request();
        let wanted = meters.is_some() || request.is_some();
        wanted.then(|| Box::new(LazyReport::new(meters, budget, meter, request, stream)))
    }
}

// === impl StreamGuard ===

impl StreamGuard {
    pub(crate) fn new(state: Arc<StreamState>) -> Self {
        Self { state }
    }

    pub(crate) fn state(&self) -> &Arc<StreamState> {
        &self.state
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        // Set as soon as the stream is settled, so that the usual case costs a load.
        if self.state.outcome().is_none() {
            let unwinding = std::thread::panicking();
            self.state.settle(EndSignal::Dropped { unwinding }, None);
        }
        self.state.forget_waker();
    }
}

/// `grpc-status` and the percent-decoded `grpc-message` of the trailers, else of the response's head
/// ([gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md), *Responses*).
///
/// A status that is not a number reads as 2 (UNKNOWN): the call cannot have succeeded.
fn grpc_status(trailers: Option<&HeaderMap>, response: Option<&ResponseFacts>) -> Option<GrpcStatus> {
    const UNKNOWN: i32 = 2;
    // As names: as texts they would be parsed for every stream.
    static STATUS: HeaderName = HeaderName::from_static("grpc-status");
    static MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
    let of = |headers: &HeaderMap| {
        let status = headers.get(&STATUS)?.to_str().ok();
        let message = headers.get(&MESSAGE).and_then(|value| value.to_str().ok());
        Some(GrpcStatus {
            status: status.and_then(|text| text.parse().ok()).unwrap_or(UNKNOWN),
            message: message.map(|text| percent_decode_str(text).decode_utf8_lossy().into()),
        })
    };
    trailers.and_then(of).or_else(|| response.and_then(|response| of(&response.headers)))
}
