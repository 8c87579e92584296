//! What the current event amounts to, as far as it matters for the event after it.

use std::ops::Range;

/// How many outputs are tried as a template for later events, the first output included.
const SAMPLES: u8 = 3;

/// The kind of one output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OutputKind {
    /// Visible text of this choice.
    Text(u32),
    Reasoning,
    ToolCall,
    #[default]
    Hidden,
}

/// What a meter still has to look for in events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interest {
    pub(crate) text: bool,
    pub(crate) reasoning: bool,
    pub(crate) tool_call: bool,
    pub(crate) model: bool,
}

/// Tells events that are one output and nothing else from all others.
#[derive(Debug, Default)]
pub(super) struct EventOutput {
    effect: EventEffect,
    /// How many more outputs may serve as a template, though no text is wanted.
    samples: u8,
}

/// What the current event has amounted to so far.
#[derive(Clone, Copy, Debug, Default)]
enum EventEffect {
    #[default]
    Nothing,
    /// One output, by its place in memory.
    One {
        kind: OutputKind,
        start: usize,
        len: usize,
    },
    Other,
}

// === impl EventOutput ===

impl EventOutput {
    /// Starts the next event.
    pub(super) fn begin(&mut self) {
        self.effect = EventEffect::Nothing;
    }

    /// Notes that the event says more than one output.
    pub(super) fn note_other(&mut self) {
        self.effect = EventEffect::Other;
    }

    /// Adds one output of the event.
    pub(super) fn add(&mut self, kind: OutputKind, text: &str) {
        self.effect = match self.effect {
            EventEffect::Nothing => EventEffect::One { kind, start: text.as_ptr() as usize, len: text.len() },
            _ => EventEffect::Other,
        };
        self.samples = self.samples.saturating_sub(1);
    }

    /// The kind of the event's one output and its place in `event`; `None` if the event says anything else.
    pub(super) fn sole_output(&self, event: &[u8]) -> Option<(OutputKind, Range<usize>)> {
        let EventEffect::One { kind, start, len } = self.effect else {
            return None;
        };
        // A text with escapes was unescaped into memory of its own: it does not lie in the event.
        let start = start.checked_sub(event.as_ptr() as usize)?;
        let place = start..start.checked_add(len)?;
        event.get(place.clone()).map(|_| (kind, place))
    }

    /// Samples the next outputs: the first one often has more beside it, unlike those that follow.
    pub(super) fn start_sampling(&mut self) {
        self.samples = SAMPLES;
    }

    /// Stops sampling: a template is known.
    pub(super) fn stop_sampling(&mut self) {
        self.samples = 0;
    }

    pub(super) fn is_sampling(&self) -> bool {
        self.samples > 0
    }
}
