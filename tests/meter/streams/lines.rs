//! A protocol of lines, and its meter: what a meter of a user's own looks like.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use streaming_accumulator::meter::{
    InBandError, LlmReport, Meter, MeterSet, Protocol, ReportBuilder, UsageBasis,
};
use streaming_accumulator::{StreamRecord, Usage};

use crate::support::*;

/// Each line is a token, save `end`, which ends the protocol, and `error`, which is an error inside the stream.
#[derive(Default)]
pub(crate) struct Lines {
    line: Vec<u8>,
    tokens: u64,
    ended: bool,
}

/// How often a factory made a meter.
#[derive(Clone, Default)]
pub(crate) struct Made(Arc<AtomicU64>);

/// A set whose one meter reads every response.
pub(crate) fn lines() -> MeterSet {
    Made::default().set()
}

/// A layer with that.
pub(crate) fn metered() -> Recorder {
    Recorder::with(|builder| builder.meter(lines()))
}

/// What a record says of its tokens, reported in the stream.
pub(crate) fn tokens(record: &StreamRecord) -> (Option<u64>, UsageBasis) {
    let usage = record.usage();
    (usage.output_tokens, usage.basis)
}

pub(crate) fn report(record: &StreamRecord) -> &LlmReport {
    record.llm().expect("the stream was metered")
}

/// Whether a client can tell that a chunked response was cut.
pub(crate) fn is_cut(reply: &Reply) -> bool {
    let is_h1 = reply.status.is_none();
    reply.broken || (is_h1 && !reply.raw.ends_with(b"0\r\n\r\n"))
}

// === impl Made ===

impl Made {
    pub(crate) fn set(&self) -> MeterSet {
        let made = self.clone();
        MeterSet::none().with(move |_| {
            made.0.fetch_add(1, SeqCst);
            Some(Box::new(Lines::default()))
        })
    }

    pub(crate) fn times(&self) -> u64 {
        self.0.load(SeqCst)
    }
}

// === impl Lines ===

impl Meter for Lines {
    fn feed(&mut self, bytes: &[u8], reading: &mut ReportBuilder) {
        for byte in bytes {
            if *byte == b'\n' {
                self.finish(reading);
            } else {
                self.line.push(*byte);
            }
        }
    }

    fn finish(&mut self, reading: &mut ReportBuilder) {
        let line = std::mem::take(&mut self.line);
        reading.protocol(Protocol::Other("lines".into()));
        match &line[..] {
            b"" => {}
            b"end" => {
                self.ended = true;
                reading.usage_is_final();
            }
            b"error" => {
                let mut error = InBandError::default();
                (error.code, error.message) = (Some("overloaded".into()), "later".into());
                reading.error(error);
            }
            token => {
                self.tokens += 1;
                reading.text(0, &String::from_utf8_lossy(token));
                let mut usage = Usage::default();
                usage.output_tokens = Some(self.tokens);
                reading.usage(usage, "");
            }
        }
    }

    fn is_terminated(&self) -> Option<bool> {
        Some(self.ended)
    }

    fn buffered(&self) -> usize {
        self.line.capacity()
    }
}
