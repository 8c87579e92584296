//! How a stream ended, in four orthogonal words.
//!
//! One status cannot say it. A record therefore answers four questions apart from each other:
//! [`Outcome`], was it whole; [`Phase`], how far had it come; [`Evidence`], what does the answer rest
//! on; [`EndedBy`], who ended it.

use std::fmt;
use std::str::FromStr;

use super::error::StreamError;
use crate::error::ParseWordError;
use crate::words::words;

/// How a stream ended. Decided once; the first cause wins.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(tag = "outcome", content = "error", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Outcome {
    /// The body handed over everything that it declared, or, where a meter reads the stream, the protocol's own
    /// end. It does not say that the client received it.
    Completed,
    /// The stream ended early: dropped by whoever polled it, or stopped on purpose.
    Cancelled,
    /// The service or the body failed, panicked, fell short of what it declared, or carried an error that a meter
    /// saw.
    Failed(StreamError),
    /// The process died before the stream had ended. Reserved for a journal: nothing in this crate makes it yet.
    Interrupted,
}

/// How far the exchange had come when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// The inner service had not answered.
    BeforeHead,
    /// There was a response, and nobody had polled its body.
    BeforeBody,
    /// The body had been polled.
    Body,
}

/// What the decision about a stream's end rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Evidence {
    /// A trailers frame.
    Trailers,
    /// The body yielded `None`.
    EndOfBody,
    /// The body reported its end after its last data frame; hyper then drops it without asking on.
    EndHint,
    /// The body reported its end before the first poll.
    Empty,
    /// The body yielded as many bytes as were declared; hyper on HTTP/1.1 then drops it.
    Length,
    /// The protocol's own end marker, which a meter saw, where there is none of the
    /// signs above: clients close on the last event and do not wait for the end of the body.
    LogicalEnd,
    /// A response that has no content: to HEAD, 1xx, 204, 304, or 2xx to CONNECT.
    NoBody,
    /// The body or the service returned an error.
    Error,
    /// A panic.
    Panic,
    /// Dropped without any sign of completion.
    Dropped,
    /// Stopped on purpose: see [`StopReason`](crate::StopReason).
    Stopped,
    /// The producer of a [`StreamPipeline`](crate::StreamPipeline) said so.
    Finished,
    /// A limit of the layer's was met: a time limit, or a reader that was too far behind.
    Limit,
}

/// Who ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndedBy {
    /// The inner service or its body.
    Upstream,
    /// Whoever polled us: a client that left, an outer layer, an aborted connection. A layer cannot
    /// tell these apart.
    Downstream,
    /// This layer, on purpose.
    Layer,
    /// The process died. Reserved, as [`Outcome::Interrupted`] is.
    Crash,
}

// === impl Outcome ===

impl Outcome {
    /// The outcome in snake case: `completed`, `cancelled`, `failed`, `interrupted`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed(_) => "failed",
            Self::Interrupted => "interrupted",
        }
    }

    /// The error of a failed stream.
    pub fn error(&self) -> Option<&StreamError> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Outcome {
    type Err = ParseWordError;

    /// Reads what [`as_str`](Self::as_str) gives, save `failed`, which says nothing of the error.
    fn from_str(text: &str) -> Result<Self, ParseWordError> {
        match text {
            "completed" => Ok(Self::Completed),
            "cancelled" => Ok(Self::Cancelled),
            "interrupted" => Ok(Self::Interrupted),
            _ => Err(ParseWordError::new("an outcome that has no error", text)),
        }
    }
}

words!(Phase, "a phase", { BeforeHead => "before_head", BeforeBody => "before_body", Body => "body" });

words!(Evidence, "evidence", {
    Trailers => "trailers",
    EndOfBody => "end_of_body",
    EndHint => "end_hint",
    Empty => "empty",
    Length => "length",
    LogicalEnd => "logical_end",
    NoBody => "no_body",
    Error => "error",
    Panic => "panic",
    Dropped => "dropped",
    Stopped => "stopped",
    Finished => "finished",
    Limit => "limit",
});

words!(EndedBy, "a party that ends streams", {
    Upstream => "upstream",
    Downstream => "downstream",
    Layer => "layer",
    Crash => "crash",
});
