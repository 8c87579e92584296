//! What a record says of a stream's end, in a form that tests compare.

use streaming_accumulator::{EndedBy, Evidence, Outcome, Phase, StreamError, StreamRecord};

pub(crate) use streaming_accumulator::EndedBy as By;

/// An outcome, without the texts of its error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Completed,
    Cancelled,
    Failed(&'static str),
    Interrupted,
}

/// What a record says of a stream's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) what: What,
    pub(crate) phase: Phase,
    pub(crate) evidence: Evidence,
    pub(crate) by: EndedBy,
    /// Pulled.
    pub(crate) bytes: u64,
}

/// A body that completed. Those without content are never polled, unless a test says so.
pub(crate) fn completed(evidence: Evidence, bytes: u64) -> Account {
    let unpolled = matches!(evidence, Evidence::Empty | Evidence::NoBody);
    let phase = if unpolled { Phase::BeforeBody } else { Phase::Body };
    Account { what: What::Completed, phase, evidence, by: By::Upstream, bytes }
}

/// Dropped by its reader, without a sign of completion.
pub(crate) fn cancelled(phase: Phase, bytes: u64) -> Account {
    Account { what: What::Cancelled, phase, evidence: Evidence::Dropped, by: By::Downstream, bytes }
}

/// Failed by the inner service or body; `name` is the error's, in snake case.
pub(crate) fn failed(name: &'static str, phase: Phase, evidence: Evidence, bytes: u64) -> Account {
    Account { what: What::Failed(name), phase, evidence, by: By::Upstream, bytes }
}

// === impl Account ===

impl Account {
    pub(crate) fn of(record: &StreamRecord) -> Self {
        Self {
            what: What::of(record.outcome()),
            phase: record.phase(),
            evidence: record.evidence(),
            by: record.ended_by(),
            bytes: record.metrics().bytes(),
        }
    }

    pub(crate) fn in_phase(mut self, phase: Phase) -> Self {
        self.phase = phase;
        self
    }

    pub(crate) fn by(mut self, by: EndedBy) -> Self {
        self.by = by;
        self
    }
}

// === impl What ===

impl What {
    pub(crate) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Completed => Self::Completed,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Failed(error) => Self::Failed(match error {
                StreamError::Service(_) => "service",
                StreamError::Body(_) => "body",
                StreamError::Panicked(_) => "panicked",
                StreamError::ShortBody { .. } => "short_body",
                StreamError::BadLength(_) => "bad_length",
                StreamError::Grpc { .. } => "grpc",
                StreamError::InBand { .. } => "in_band",
                _ => "other",
            }),
            _ => Self::Interrupted,
        }
    }
}
