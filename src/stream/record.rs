//! The account of one ended stream.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, Uri, Version};

use crate::accumulator::Content;
use crate::stream::termination::Verdict;
use crate::stream::findings::{Ended, Findings};
use crate::id::StreamId;
use crate::meter::LlmReport;
use crate::stream::metrics::StreamMetrics;
use crate::stream::outcome::{EndedBy, Evidence, Outcome, Phase};
use crate::stream::state::Pipeline;
use crate::stream::stop::StopReason;
use crate::meter::{Usage, UsageBasis};

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
    account: Arc<Account<C>>,
    attempt: u32,
}

/// What all deliveries of one record share.
pub(crate) struct Account<C> {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) context: Option<C>,
    pub(crate) verdict: Verdict,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) grpc_status: Option<i32>,
    pub(crate) content: Content,
    pub(crate) metrics: StreamMetrics,
    /// None where the layer meters nothing.
    pub(crate) findings: Option<Box<Findings>>,
}

/// The usage of streams that nobody meters.
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
    pub(crate) fn new(account: Arc<Account<C>>, attempt: u32) -> Self {
        Self { account, attempt }
    }

    /// The stream's id: the same in every delivery of this record.
    pub fn id(&self) -> StreamId {
        self.account.pipeline.id()
    }

    /// What the `context` closure made of the request's head. `None` if it panicked: the stream went on
    /// without it.
    pub fn context(&self) -> Option<&C> {
        self.account.context.as_ref()
    }

    /// How the stream ended.
    pub fn outcome(&self) -> &Outcome {
        &self.account.verdict.outcome
    }

    /// How far it had come.
    pub fn phase(&self) -> Phase {
        self.account.verdict.phase
    }

    /// What the decision rests on.
    pub fn evidence(&self) -> Evidence {
        self.account.verdict.evidence
    }

    /// Who ended it.
    pub fn ended_by(&self) -> EndedBy {
        self.account.verdict.ended_by
    }

    /// Why it was stopped, if it was stopped on purpose.
    pub fn stop_reason(&self) -> Option<&StopReason> {
        self.account.verdict.stop_reason.as_ref()
    }

    /// The request's method.
    pub fn method(&self) -> &Method {
        &self.account.pipeline.request().method
    }

    /// The request's URI, query included.
    pub fn uri(&self) -> &Uri {
        &self.account.pipeline.request().uri
    }

    /// The request's HTTP version.
    pub fn version(&self) -> Version {
        self.account.pipeline.request().version
    }

    /// The response's status; `None` without a response.
    pub fn status(&self) -> Option<StatusCode> {
        self.account.pipeline.head().map(|head| head.status)
    }

    /// The response's headers; `None` without a response.
    pub fn headers(&self) -> Option<&HeaderMap> {
        self.account.pipeline.head().map(|head| &head.headers)
    }

    /// The response's trailers, if a trailers frame was pulled.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.account.trailers.as_ref()
    }

    /// The number in `grpc-status`, from the trailers, else from the headers.
    pub fn grpc_status(&self) -> Option<i32> {
        self.account.grpc_status
    }

    /// Bytes of content that the response declared: the body's exact size hint, else a usable
    /// `content-length`.
    ///
    /// A body may yield more than it declared; a server sends no more. Bill at most this.
    pub fn declared_length(&self) -> Option<u64> {
        self.account.pipeline.head().and_then(|head| head.declared)
    }

    /// What was captured.
    pub fn content(&self) -> &Content {
        &self.account.content
    }

    /// The stream's numbers, as they stood at its end.
    pub fn metrics(&self) -> &StreamMetrics {
        &self.account.metrics
    }

    /// The tokens that a [meter](crate::Builder::meter) counted; [absent](UsageBasis::Absent) where nothing is
    /// known.
    ///
    /// Worked out on first use, once for all hooks and attempts, on the worker that asks: here an
    /// [`Estimator`](crate::Estimator) runs, and, with [`MeterSet::on_worker`](crate::MeterSet::on_worker), the
    /// meter itself, which reads all that was captured. Spilled content is then read back, which blocks as
    /// [`Content::chunks`] does. After that it costs nothing.
    pub fn usage(&self) -> &Usage {
        self.account.findings.as_ref().map_or(&ABSENT, |findings| findings.usage(self.account.ended()))
    }

    /// What else is known of a language model's response: model, finish reasons, text, times. `None` where no
    /// meter read the response and nothing was found in a
    /// [captured request](crate::Builder::capture_request).
    ///
    /// Worked out on first use, as [`usage`](Self::usage) is, which copies the texts that were kept; without the
    /// estimates.
    pub fn llm(&self) -> Option<&LlmReport> {
        self.account.findings.as_ref()?.llm(self.account.ended())
    }

    /// Which attempt at this hook this is, from 1. It goes on counting over redeliveries.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

// === impl Account ===

impl<C> Account<C> {
    fn ended(&self) -> Ended<'_> {
        Ended {
            pipeline: &self.pipeline,
            outcome: &self.verdict.outcome,
            content: &self.content,
            bytes: self.metrics.bytes(),
        }
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
            .field("uri", self.uri())
            .field("status", &self.status())
            .field("bytes", &self.metrics().bytes())
            .field("content", self.content())
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
