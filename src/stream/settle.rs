//! The exchange: one stream from its admission to its one record.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use tokio::sync::OwnedSemaphorePermit;

use crate::delivery::Dispatcher;
use crate::stream::termination::{GrpcStatus, Signal, decide};
use crate::error::StreamError;
use crate::stream::findings::{Ended, Findings};
use crate::meter::StreamMeter;
use crate::stream::outcome::Outcome;
use crate::stream::state::{Pipeline, Settle, Settled, StreamHandle};
use crate::stream::record::Account;
use crate::stream::trace;

/// What a stream needs for its record, until it is taken for that.
struct Open<C> {
    context: Option<C>,
    slot: OwnedSemaphorePermit,
    dispatcher: Arc<Dispatcher<C>>,
}

struct Exchange<C> {
    pipeline: Arc<Pipeline>,
    /// Taken by whoever settles the stream, so that it is settled once.
    open: Mutex<Option<Open<C>>>,
}

/// Settles its stream when it is dropped, unless somebody did before.
///
/// Held first by the response's future, then by its body.
pub(crate) struct Guard {
    pipeline: Arc<Pipeline>,
    exchange: Arc<dyn Settle>,
    handle: StreamHandle,
    settled: bool,
}

/// Opens a stream. `context` is called with its handle.
pub(crate) fn open<C: Send + Sync + 'static>(
    dispatcher: &Arc<Dispatcher<C>>,
    pipeline: Pipeline,
    slot: OwnedSemaphorePermit,
    context: impl FnOnce(StreamHandle) -> Option<C>,
) -> Guard {
    let pipeline = Arc::new(pipeline);
    let exchange: Arc<dyn Settle> = Arc::new_cyclic(|exchange: &Weak<Exchange<C>>| {
        let handle = StreamHandle::new(Arc::clone(&pipeline), exchange.clone());
        let open = Open { context: context(handle), slot, dispatcher: Arc::clone(dispatcher) };
        Exchange { pipeline: Arc::clone(&pipeline), open: Mutex::new(Some(open)) }
    });
    dispatcher.opened(pipeline.id(), Arc::downgrade(&exchange));
    Guard { handle: Arc::clone(&exchange).handle(), pipeline, exchange, settled: false }
}

// === impl Exchange ===

impl<C: Send + Sync + 'static> Settle for Exchange<C> {
    fn settle(&self, signal: Signal, trailers: Option<&HeaderMap>) -> Option<Settled> {
        // Nothing can panic under this lock, and it is taken at most twice in a stream's life.
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Open { context, slot, dispatcher } = open?;
        let pipeline = &self.pipeline;

        let headers = pipeline.head().map(|head| &head.headers);
        let grpc = trailers.and_then(grpc_status).or_else(|| headers.and_then(grpc_status));
        let grpc_status = grpc.as_ref().map(|grpc| grpc.status);
        let mut facts = pipeline.facts(signal);
        facts.grpc = grpc;
        // Taken before the decision, which needs what the meter has seen. Waits for one feed at the most.
        let metering = pipeline.metered().finish_answer();
        facts.terminated = metering.as_ref().is_some_and(StreamMeter::is_terminated);
        facts.in_band = metering.as_ref().and_then(StreamMeter::in_band).cloned();
        let verdict = decide(&facts);

        let error = match (&verdict.stop_reason, verdict.outcome.error()) {
            (Some(reason), _) => Some(StreamError::Stopped { reason: reason.clone() }),
            (None, error) => error.cloned(),
        };
        let metrics = pipeline.metrics().freeze();
        trace::ended(pipeline.span(), &verdict.outcome, verdict.evidence, metrics.bytes());
        if verdict.outcome != Outcome::Completed {
            pipeline.fire_token();
        }
        pipeline.set_outcome(&verdict.outcome);
        let evidence = verdict.evidence;
        let content = pipeline.snapshot();
        let ended = Ended { pipeline, outcome: &verdict.outcome, content: &content, bytes: metrics.bytes() };
        let findings = Findings::new(ended, metering);
        let account = Account {
            pipeline: Arc::clone(pipeline),
            context,
            verdict,
            trailers: trailers.cloned(),
            grpc_status,
            content,
            metrics,
            findings,
        };
        dispatcher.settled(account, slot);
        Some(Settled { error, evidence })
    }

    fn handle(self: Arc<Self>) -> StreamHandle {
        let pipeline = Arc::clone(&self.pipeline);
        let exchange: Arc<dyn Settle> = self;
        StreamHandle::new(pipeline, Arc::downgrade(&exchange))
    }
}

// === impl Guard ===

impl Guard {
    pub(crate) fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    pub(crate) fn handle(&self) -> &StreamHandle {
        &self.handle
    }

    /// Settles the stream, unless somebody did before. Returns the error with which the layer is to end
    /// the body.
    pub(crate) fn settle(&mut self, signal: Signal, trailers: Option<&HeaderMap>) -> Option<StreamError> {
        self.settled = true;
        self.exchange.settle(signal, trailers)?.error
    }
}

impl Guard {
    /// As [`settle`](Self::settle), for a stream with several ends; `None` if somebody did before.
    pub(crate) fn settle_shared(&self, signal: Signal) -> Option<Option<StreamError>> {
        Some(self.exchange.settle(signal, None)?.error)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.settled {
            let unwinding = std::thread::panicking();
            self.settle(Signal::Dropped { unwinding }, None);
        }
        self.pipeline.forget_waker();
    }
}

/// `grpc-status` and the percent-decoded `grpc-message`
/// ([gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md), *Responses*).
///
/// A status that is no number reads as 2 (UNKNOWN): the call cannot have succeeded.
fn grpc_status(headers: &HeaderMap) -> Option<GrpcStatus> {
    const UNKNOWN: i32 = 2;
    let status = headers.get("grpc-status")?.to_str().ok();
    let message = headers.get("grpc-message").and_then(|value| value.to_str().ok());
    Some(GrpcStatus {
        status: status.and_then(|text| text.parse().ok()).unwrap_or(UNKNOWN),
        message: message.map(|text| percent_decode_str(text).decode_utf8_lossy().into()),
    })
}
