//! What can go wrong with a stream, and with a configuration.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::stream::stop::StopReason;

/// A boxed error: the error type of [`AccumulatorBody`](crate::AccumulatorBody).
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// Why a stream failed, or why it was stopped.
///
/// The same value stands in [`Outcome::Failed`](crate::Outcome::Failed) of the record and, where
/// this crate itself ends the body, in the body error that the client's connection sees. Errors of
/// the inner body and the inner service go on to the client unchanged; the record keeps their text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamError {
    /// The content outgrew its limit where a larger one was declared an error. Bytes.
    #[non_exhaustive]
    ContentTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// A reader that was to be waited for fell too far behind. Chunks.
    #[non_exhaustive]
    Backpressure {
        /// The lag that was met.
        lag: u64,
        /// The `buffer_limit`.
        limit: u64,
    },
    /// The first chunk did not come in time, counted from the request.
    #[non_exhaustive]
    FirstChunkTimeout {
        /// The limit.
        limit: Duration,
    },
    /// The inner body yielded nothing for too long, though it was asked.
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
        /// Who asked for it.
        reason: StopReason,
    },
    /// The inner service returned an error instead of a response: its text, causes included.
    Service(Box<str>),
    /// The inner body yielded an error: its text, causes included.
    Body(Box<str>),
    /// A panic: in the inner service, in the inner body, or elsewhere while the stream was dropped.
    Panicked(Box<str>),
    /// The body ended before it had yielded what the response's head declared. Bytes.
    #[non_exhaustive]
    ShortBody {
        /// The declared length.
        declared: u64,
        /// What the body yielded.
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
    /// The provider reported an error inside a stream whose status says success; a
    /// [meter](crate::Builder::meter) saw it.
    #[non_exhaustive]
    InBand {
        /// The provider's word or number for it.
        code: Option<Box<str>>,
        /// What the provider says.
        message: Box<str>,
    },
}

/// A value given to [`Builder`](crate::Builder) that cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A setting that must be at least one was zero.
    #[non_exhaustive]
    Zero {
        /// The name of the setter.
        setting: &'static str,
    },
    /// `context` came after a hook: the hook was made for records with another context.
    HooksBeforeContext,
    /// A retry policy whose first delay exceeds its longest one.
    #[non_exhaustive]
    RetryDelays {
        /// The delay before the first retry.
        initial: Duration,
        /// The longest delay.
        max: Duration,
    },
    /// A backpressure strategy whose first delay exceeds its longest one.
    #[non_exhaustive]
    BackpressureDelays {
        /// The delay of the first frame above the mark.
        initial: Duration,
        /// The longest delay.
        max: Duration,
    },
    /// A high-water mark that is no percentage from 1 to 100.
    #[non_exhaustive]
    HighWaterMark {
        /// The value given.
        percent: u8,
    },
    /// A multiplier of backpressure delays that is below 1 or no number.
    #[non_exhaustive]
    Multiplier {
        /// The value given, as text.
        value: Box<str>,
    },
    /// The directory for spilled content cannot be written to.
    #[non_exhaustive]
    SpillDirectory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        error: Box<str>,
    },
    /// More streams in flight than can be counted.
    #[non_exhaustive]
    MaxInFlight {
        /// The value given.
        value: usize,
        /// The largest value that works.
        max: usize,
    },
}

// === impl StreamError ===

impl StreamError {
    /// The text of `error` and of its causes, joined by `: `.
    pub(crate) fn text_of(error: &(dyn Error + 'static)) -> Box<str> {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let part = error.to_string();
            // Many errors repeat their source in their own text already.
            if !text.contains(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            cause = error.source();
        }
        text.into()
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
            Self::Grpc { status, message } => match message {
                Some(message) => write!(f, "grpc status {status}: {message}"),
                None => write!(f, "grpc status {status}"),
            },
            Self::InBand { code, message } => match code {
                Some(code) => write!(f, "in-band error {code}: {message}"),
                None => write!(f, "in-band error: {message}"),
            },
        }
    }
}

impl Error for StreamError {}

// === impl ConfigError ===

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero { setting } => write!(f, "`{setting}` is 0: it must be at least 1"),
            Self::HooksBeforeContext => f.write_str(
                "a hook was added before `context`, which changes the type of its records: call `context` first",
            ),
            Self::RetryDelays { initial, max } => write!(
                f,
                "the first retry delay {initial:?} exceeds the longest one {max:?}: raise the longest or lower the first"
            ),
            Self::BackpressureDelays { initial, max } => write!(
                f,
                "the first backpressure delay {initial:?} exceeds the longest one {max:?}: raise the longest or lower the first"
            ),
            Self::HighWaterMark { percent } => {
                write!(f, "`high_water_mark` is {percent} %: it must be from 1 to 100")
            }
            Self::Multiplier { value } => {
                write!(f, "the multiplier of backpressure delays is {value}: it must be at least 1")
            }
            Self::SpillDirectory { path, error } => write!(
                f,
                "cannot spill to `{}`: {error}: name a directory that can be written to with `spill_directory`",
                path.display()
            ),
            Self::MaxInFlight { value, max } => {
                write!(f, "`max_in_flight` is {value}: it must be at most {max}")
            }
        }
    }
}

impl Error for ConfigError {}
