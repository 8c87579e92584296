//! The record of one ended stream.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, Uri, Version};

use super::head::{RequestHead, ResponseFacts};
use super::metrics::StreamMetrics;
use super::outcome::{EndedBy, Evidence, Outcome, Phase};
#[cfg(feature = "llm")]
use super::report::{LazyReport, MeteredStream};
use super::stop_reason::StopReason;
use super::termination::Decision;
use crate::accumulator::Content;
use crate::id::StreamId;
#[cfg(feature = "llm")]
use crate::meter::{LlmReport, Usage, UsageBasis};

/// The immutable account of an ended stream, handed to hooks.
///
/// There is exactly one for each stream. Its [`id`](Self::id) is the idempotency key: hooks are called
/// at least once, and a second call for the same stream carries the same id with a higher
/// [`attempt`](Self::attempt).
///
/// # What a record cannot know
///
/// `Completed` says that the body handed over all that it declared, and `bytes()` counts what the server
/// took. Neither says what the client received: hyper and the kernel may hold some 4 MB of an HTTP/1.1
/// response, and a whole answer that fits is `Completed` though the client never read a byte. A layer
/// also cannot see why a body was dropped (a client that left, an outer timeout, an aborted connection
/// look the same), a client that leaves while hyper/1.1 is not reading its socket (a pipelined request,
/// an unread request body) until a write fails, requests that hyper drops before it calls the service,
/// peers that fall silent without closing, or truncation that the upstream's own protocol hides (a
/// close-delimited body, an HTTP/2 reset with NO_ERROR).
pub struct StreamRecord<C = ()> {
    attempt: u32,
    source: Source<C>,
}

/// Where a record's facts stand: the first attempt holds them, and later ones share them.
#[expect(
    clippy::large_enum_variant,
    reason = "a box would cost each stream an allocation, for records that are tried again"
)]
enum Source<C> {
    Own { ended: EndedStream, context: Option<C> },
    Shared(Arc<StreamRecord<C>>),
}

/// What is known of a stream that has ended: its record, but for the context.
#[derive(Debug)]
pub(crate) struct EndedStream {
    pub(crate) id: StreamId,
    pub(crate) request: RequestHead,
    pub(crate) response: Option<ResponseFacts>,
    pub(crate) decision: Decision,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) grpc_status: Option<i32>,
    pub(crate) content: Content,
    pub(crate) metrics: StreamMetrics,
    /// `None` where nothing is metered.
    #[cfg(feature = "llm")]
    pub(crate) report: Option<Box<LazyReport>>,
}

/// The usage of streams that nothing meters.
#[cfg(feature = "llm")]
static ABSENT: Usage = Usage {
    input_tokens: None,
    output_tokens: None,
    cached_input_tokens: None,
    cache_write_input_tokens: None,
    reasoning_tokens: None,
    total_tokens: None,
    basis: UsageBasis::Absent,
    raw: None,
};

// === impl StreamRecord ===

impl<C> StreamRecord<C> {
    /// The record for the first attempt.
    pub(crate) fn new(ended: EndedStream, context: Option<C>) -> Self {
        Self { attempt: 1, source: Source::Own { ended, context } }
    }

    /// A record that was read back.
    #[cfg(feature = "serde")]
    pub(crate) fn read_back(ended: EndedStream, context: Option<C>, attempt: u32) -> Self {
        Self { attempt, source: Source::Own { ended, context } }
    }

    /// The same record, for a later attempt.
    pub(crate) fn for_attempt(record: &Arc<Self>, attempt: u32) -> Arc<Self> {
        let first = match &record.source {
            Source::Own { .. } => record,
            Source::Shared(first) => first,
        };
        if first.attempt == attempt {
            return Arc::clone(first);
        }
        Arc::new(Self { attempt, source: Source::Shared(Arc::clone(first)) })
    }

    pub(crate) fn ended(&self) -> &EndedStream {
        match &self.source {
            Source::Own { ended, .. } => ended,
            Source::Shared(first) => first.ended(),
        }
    }

    /// The stream's id: the same in every delivery of this record.
    pub fn id(&self) -> StreamId {
        self.ended().id
    }

    /// What the `context` closure made of the request's head. `None` if it panicked: the stream went on
    /// without it.
    pub fn context(&self) -> Option<&C> {
        match &self.source {
            Source::Own { context, .. } => context.as_ref(),
            Source::Shared(first) => first.context(),
        }
    }

    /// How the stream ended.
    pub fn outcome(&self) -> &Outcome {
        &self.ended().decision.outcome
    }

    /// Whether the stream completed, and its response says that it worked: status 2xx, and `grpc-status` 0 where there
    /// is one.
    ///
    /// `Completed` alone says only that the response is whole: a 404 completes, too. A stream without a response, such
    /// as a [`StreamPipeline`](crate::StreamPipeline)'s, has no status that could speak against it.
    pub fn is_success(&self) -> bool {
        *self.outcome() == Outcome::Completed
            && self.status().is_none_or(|status| status.is_success())
            && self.grpc_status().is_none_or(|status| status == 0)
    }

    /// How far it had come.
    pub fn phase(&self) -> Phase {
        self.ended().decision.phase
    }

    /// What the decision rests on.
    pub fn evidence(&self) -> Evidence {
        self.ended().decision.evidence
    }

    /// Who ended it.
    pub fn ended_by(&self) -> EndedBy {
        self.ended().decision.ended_by
    }

    /// Why it was stopped, if it was stopped on purpose.
    pub fn stop_reason(&self) -> Option<&StopReason> {
        self.ended().decision.stop_reason.as_ref()
    }

    /// The request's method.
    pub fn method(&self) -> &Method {
        &self.ended().request.method
    }

    /// The request's URI, query included.
    pub fn uri(&self) -> &Uri {
        &self.ended().request.uri
    }

    /// The request's HTTP version.
    pub fn version(&self) -> Version {
        self.ended().request.version
    }

    /// The response's status; `None` without a response.
    pub fn status(&self) -> Option<StatusCode> {
        self.ended().response.as_ref().map(|head| head.status)
    }

    /// The response's headers; `None` without a response.
    pub fn headers(&self) -> Option<&HeaderMap> {
        self.ended().response.as_ref().map(|head| &head.headers)
    }

    /// The response's trailers, if a trailers frame was pulled.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.ended().trailers.as_ref()
    }

    /// The number in `grpc-status`, from the trailers, else from the headers.
    pub fn grpc_status(&self) -> Option<i32> {
        self.ended().grpc_status
    }

    /// Bytes of content that the response declared: the body's exact size hint, else a usable
    /// `content-length`.
    ///
    /// A body may yield more than it declared; a server sends no more. Bill at most this.
    pub fn declared_length(&self) -> Option<u64> {
        self.ended().response.as_ref().and_then(|head| head.declared)
    }

    /// What was captured.
    pub fn content(&self) -> &Content {
        &self.ended().content
    }

    /// The stream's numbers, as they stood at its end.
    pub fn metrics(&self) -> &StreamMetrics {
        &self.ended().metrics
    }

    /// The tokens that a [meter](crate::Builder::meter) counted; [absent](UsageBasis::Absent) where nothing is known.
    ///
    /// The first call works it out, once for all hooks and attempts, on the thread that asks. An
    /// [`Estimator`](crate::meter::Estimator) runs here, and, with
    /// [`MeterSet::on_worker`](crate::meter::MeterSet::on_worker), the meter itself, which reads all that was captured:
    /// spilled content is then read back, which blocks. Later calls cost nothing.
    #[cfg(feature = "llm")]
    pub fn usage(&self) -> &Usage {
        let ended = self.ended();
        ended.report.as_ref().map_or(&ABSENT, |report| report.usage(ended.metered()))
    }

    /// What else is known of a language model's response: model, finish reasons, text, times. `None` where no meter read
    /// the response and nothing was found in a [captured request](crate::CaptureRequestLayer).
    ///
    /// The first call works it out, as that of [`usage`](Self::usage) does, and copies the texts that were kept; it makes
    /// no estimates.
    #[cfg(feature = "llm")]
    pub fn llm(&self) -> Option<&LlmReport> {
        let ended = self.ended();
        ended.report.as_ref()?.llm(ended.metered())
    }

    /// Which attempt at this hook this is, from 1. It goes on counting over redeliveries.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

impl<C: fmt::Debug> fmt::Debug for StreamRecord<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamRecord")
            .field("id", &self.id())
            .field("context", &self.context())
            .field("outcome", self.outcome())
            .field("phase", &self.phase())
            .field("evidence", &self.evidence())
            .field("ended_by", &self.ended_by())
            .field("stop_reason", &self.stop_reason())
            .field("method", self.method())
            // Without the query: some providers take the key there.
            .field("path", &self.uri().path())
            .field("status", &self.status())
            .field("bytes", &self.metrics().bytes())
            .field("content", self.content())
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

// === impl EndedStream ===

#[cfg(feature = "llm")]
impl EndedStream {
    fn metered(&self) -> MeteredStream<'_> {
        MeteredStream {
            request: &self.request,
            response: self.response.as_ref(),
            outcome: &self.decision.outcome,
            content: &self.content,
            bytes: self.metrics.bytes(),
        }
    }
}
