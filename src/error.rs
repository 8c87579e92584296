//! What can go wrong with a stream, and with a configuration.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::stop::StopReason;

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
            Self::MaxInFlight { value, max } => {
                write!(f, "`max_in_flight` is {value}: it must be at most {max}")
            }
        }
    }
}

impl Error for ConfigError {}
