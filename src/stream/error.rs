//! How a stream fails, and why a producer's chunk was not taken.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::stop_reason::StopReason;

/// Why a stream failed, or why it was stopped.
///
/// The same value stands in [`Outcome::Failed`](crate::Outcome::Failed) of the record and, where this crate itself
/// ends the body, in the body error that the client's connection sees. Errors of the inner body and the inner
/// service go on to the client unchanged; the record keeps their text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(tag = "kind", content = "detail", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum StreamError {
    /// The content outgrew its capture, where that was declared an error
    /// ([`Capture::or_fail`](crate::Capture::or_fail)).
    #[non_exhaustive]
    ContentTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// A lossless reader fell too far behind.
    #[non_exhaustive]
    Backpressure {
        /// Chunks that the reader was behind.
        lag: u64,
        /// The `buffer_limit`, in chunks.
        limit: u64,
    },
    /// The first chunk did not come in time, counted from the request.
    #[non_exhaustive]
    FirstChunkTimeout {
        /// The limit.
        limit: Duration,
    },
    /// The inner body yielded nothing for too long, though it was polled.
    #[non_exhaustive]
    IdleTimeout {
        /// The limit.
        limit: Duration,
    },
    /// The stream as a whole took too long.
    #[non_exhaustive]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// Nobody asked for the next frame for too long: a client that keeps its connection and reads nothing.
    #[non_exhaustive]
    StalledReader {
        /// The limit.
        limit: Duration,
    },
    /// The stream was stopped on purpose.
    #[non_exhaustive]
    Stopped {
        /// Why.
        reason: StopReason,
    },
    /// The inner service returned an error instead of a response: its text. Where the error type is a
    /// [`BoxError`](crate::BoxError), the texts of its causes follow; of other types a layer knows `Display` only.
    Service(Box<str>),
    /// The inner body yielded an error: its text and the texts of its causes.
    Body(Box<str>),
    /// A panic: in the inner service, in the inner body, or elsewhere while the stream was dropped.
    Panicked(Box<str>),
    /// The body ended before it had yielded what the response's head declared.
    #[non_exhaustive]
    ShortBody {
        /// The declared length in bytes.
        declared: u64,
        /// The bytes that the body yielded.
        produced: u64,
    },
    /// The response's `content-length` cannot be used, so the server refused to send the body.
    BadLength(Box<str>),
    /// A gRPC call whose status is not 0 (OK).
    #[non_exhaustive]
    Grpc {
        /// The number in `grpc-status`.
        status: i32,
        /// The percent-decoded `grpc-message`, if there was one.
        message: Option<Box<str>>,
    },
    /// The provider reported an error inside a stream whose status says success, and a meter saw it.
    #[non_exhaustive]
    InBand {
        /// The provider's word or number for it.
        code: Option<Box<str>>,
        /// What the provider says.
        message: Box<str>,
    },
}

/// Why [`StreamPipeline::push`](crate::StreamPipeline::push) did not take a chunk, or
/// [`StreamPipelineBuilder::open`](crate::stream::StreamPipelineBuilder::open) opened no stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushError {
    /// The stream has ended: finished, or cancelled by its token.
    Ended,
    /// The stream was ended by this error: a limit, a lossless reader that fell too far behind, or a stop.
    Failed(StreamError),
    /// The layer has no slot for another stream, and rejects where it has none
    /// ([`WhenFull::Reject`](crate::WhenFull::Reject)).
    Full,
    /// The layer is shut down.
    Closed,
}

// === impl StreamError ===

impl StreamError {
    /// A word for the kind of error, in snake case, as in `idle_timeout`: for labels and columns.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ContentTooLarge { .. } => "content_too_large",
            Self::Backpressure { .. } => "backpressure",
            Self::FirstChunkTimeout { .. } => "first_chunk_timeout",
            Self::IdleTimeout { .. } => "idle_timeout",
            Self::Timeout { .. } => "timeout",
            Self::StalledReader { .. } => "stalled_reader",
            Self::Stopped { .. } => "stopped",
            Self::Service(_) => "service",
            Self::Body(_) => "body",
            Self::Panicked(_) => "panicked",
            Self::ShortBody { .. } => "short_body",
            Self::BadLength(_) => "bad_length",
            Self::Grpc { .. } => "grpc",
            Self::InBand { .. } => "in_band",
        }
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ContentTooLarge { limit } => {
                write!(f, "content exceeds the capture limit of {limit} bytes")
            }
            Self::Backpressure { lag, limit } => {
                write!(f, "a reader is {lag} chunks behind, of at most {limit}")
            }
            Self::FirstChunkTimeout { limit } => write!(f, "no first chunk within {limit:?}"),
            Self::IdleTimeout { limit } => write!(f, "no further chunk within {limit:?}"),
            Self::Timeout { limit } => write!(f, "stream not over within {limit:?}"),
            Self::StalledReader { limit } => write!(f, "nobody read on within {limit:?}"),
            Self::Stopped { reason } => write!(f, "stream stopped: {reason}"),
            Self::Service(text) => write!(f, "service failed: {text}"),
            Self::Body(text) => write!(f, "body failed: {text}"),
            Self::Panicked(text) => write!(f, "panicked: {text}"),
            Self::ShortBody { declared, produced } => {
                write!(f, "body ended after {produced} of {declared} declared bytes")
            }
            Self::BadLength(value) => write!(f, "unusable content-length: {value}"),
            Self::Grpc { status, message: Some(message) } => write!(f, "grpc status {status}: {message}"),
            Self::Grpc { status, message: None } => write!(f, "grpc status {status}"),
            Self::InBand { code: Some(code), message } => write!(f, "in-band error {code}: {message}"),
            Self::InBand { code: None, message } => write!(f, "in-band error: {message}"),
        }
    }
}

impl Error for StreamError {}

// === impl PushError ===

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the stream has ended"),
            Self::Failed(error) => write!(f, "the stream was ended: {error}"),
            Self::Full => f.write_str("the layer has no slot for another stream: raise `max_in_flight`"),
            Self::Closed => f.write_str("the layer is shut down"),
        }
    }
}

impl Error for PushError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}
