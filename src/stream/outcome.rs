//! How a stream ended, in four orthogonal words.
//!
//! One status cannot say it. A record therefore answers four questions apart from each other:
//! [`Outcome`], was it whole; [`Phase`], how far had it come; [`Evidence`], what does the answer rest
//! on; [`EndedBy`], who ended it.

use std::fmt;

use crate::error::StreamError;

/// How a stream ended. Decided once; the first cause wins.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The body handed over everything that it declared, or, where a meter reads the stream, the protocol's own
    /// end. Not: the client received it.
    Completed,
    /// The stream ended early: dropped by whoever polled it, or stopped on purpose.
    Cancelled,
    /// The service or the body failed, panicked, fell short of what it declared, or held an error that a meter
    /// saw.
    Failed(StreamError),
    /// The process died before the stream had ended.
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
    /// The protocol's own end marker, which a [meter](crate::Builder::meter) saw, where there is none of the
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
    /// The process died.
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

// === impl Phase ===

impl Phase {
    /// The phase in snake case, as in `before_head`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BeforeHead => "before_head",
            Self::BeforeBody => "before_body",
            Self::Body => "body",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Evidence ===

impl Evidence {
    /// The evidence in snake case, as in `end_of_body`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trailers => "trailers",
            Self::EndOfBody => "end_of_body",
            Self::EndHint => "end_hint",
            Self::Empty => "empty",
            Self::Length => "length",
            Self::LogicalEnd => "logical_end",
            Self::NoBody => "no_body",
            Self::Error => "error",
            Self::Panic => "panic",
            Self::Dropped => "dropped",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
            Self::Limit => "limit",
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl EndedBy ===

impl EndedBy {
    /// The party in snake case, as in `downstream`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Downstream => "downstream",
            Self::Layer => "layer",
            Self::Crash => "crash",
        }
    }
}

impl fmt::Display for EndedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
