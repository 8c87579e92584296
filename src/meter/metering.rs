//! One stream's meter, with what stands around it: the content coding, the budget, the guard against panics.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::estimate::{self, Estimator};
use super::request::RequestFacts;
use super::unpack::Unpacker;
use super::{Meter, Reading};
use crate::accumulator::{Mark, MemoryBudget};
use crate::meter::report::{InBandError, Incomplete, LlmReport};
use crate::meter::usage::{Usage, UsageBasis};

/// Memory is charged in steps of this size, so that a growing text does not ask for every word.
const STEP: u64 = 4 * 1024;

/// Reads one stream, fed with its chunks: what the layer does, for streams that no layer sees.
///
/// Clients, replays and tests make one with [`MeterSet::metering`](super::MeterSet::metering). It undoes the
/// content coding, bounds what is kept, and survives a meter that panics.
///
/// ```
/// use std::time::Duration;
/// use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header::CONTENT_TYPE};
/// use streaming_accumulator::{AnswerHead, MeterSet, UsageBasis};
///
/// let mut headers = HeaderMap::new();
/// headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
/// let uri = Uri::from_static("/api/chat");
/// let head = AnswerHead::new(&Method::POST, &uri, StatusCode::OK, &headers);
///
/// let mut metering = MeterSet::detect().metering(&head).expect("a successful answer");
/// metering.feed(br#"{"model":"llama3","message":{"content":"Hi"},"done":false}"#, Duration::from_millis(5));
/// metering.feed(b"\n{\"model\":\"llama3\",\"done\":true,\"eval_count\":2}\n", Duration::from_millis(9));
/// let (report, usage) = metering.end(true);
///
/// assert_eq!(report.model(), Some("llama3"));
/// assert_eq!(report.text.as_deref(), Some("Hi"));
/// assert_eq!((usage.output_tokens, usage.basis), (Some(2), UsageBasis::Reported));
/// ```
pub struct Metering {
    meter: Box<dyn Meter>,
    unpacker: Option<Unpacker>,
    reading: Reading,
    charge: Charge,
}

/// What was taken from the budget, until it is dropped.
pub(crate) struct Charge {
    budget: MemoryBudget,
    bytes: u64,
}

/// What a meter found, when its stream is over.
pub(crate) struct Found {
    reading: Option<Reading>,
    terminated: Option<bool>,
    request: Option<RequestFacts>,
    estimator: Option<Arc<dyn Estimator>>,
    _charge: Option<Charge>,
}

// === impl Metering ===

impl Metering {
    pub(super) fn new(
        meter: Box<dyn Meter>,
        unpacker: Option<Unpacker>,
        reading: Reading,
        budget: &MemoryBudget,
    ) -> Self {
        Self { meter, unpacker, reading, charge: Charge::new(budget) }
    }

    /// Reads a chunk that came at `now`, from the stream's opening. It may be cut anywhere.
    pub fn feed(&mut self, chunk: &[u8], now: Duration) {
        if self.reading.stopped().is_some() {
            return;
        }
        self.reading.set_now(now);
        match catch_unwind(AssertUnwindSafe(|| self.read(chunk))) {
            Ok(buffered) => self.charge(buffered),
            Err(_) => self.reading.incomplete(Incomplete::Panicked),
        }
        if self.reading.stopped().is_some() {
            // It holds the coding's window.
            self.unpacker = None;
        }
    }

    /// Reads a chunk; how many bytes are buffered then.
    fn read(&mut self, chunk: &[u8]) -> usize {
        let Self { meter, unpacker, reading, .. } = self;
        match unpacker {
            None => meter.feed(chunk, reading),
            Some(unpacker) => {
                let fed = unpacker.feed(chunk, &mut |bytes| meter.feed(bytes, reading));
                if let Err(reason) = fed {
                    reading.incomplete(reason);
                }
            }
        }
        meter.buffered() + unpacker.as_ref().map_or(0, Unpacker::held)
    }

    /// Has the budget hold what is kept. Only what has no room is given up, the texts first: the counts are what
    /// is billed.
    fn charge(&mut self, buffered: usize) {
        if !self.charge.cover(buffered + self.reading.held()) {
            self.reading.drop_texts();
            if !self.charge.cover(buffered) {
                self.reading.incomplete(Incomplete::Memory);
            }
        }
    }

    /// The stream is over: what was found. `completed` says that it ended by itself and was not cut.
    ///
    /// Nothing is estimated here.
    pub fn end(mut self, completed: bool) -> (LlmReport, Usage) {
        self.finish();
        let found = Found::new(Some(self), None, None);
        (found.llm(), found.usage(completed))
    }

    /// The body is over: reads what waited for more.
    pub(crate) fn finish(&mut self) {
        // What was read until a meter stopped stands; one that panicked is not asked again.
        if self.reading.stopped() == Some(&Incomplete::Panicked) {
            return;
        }
        let Self { meter, reading, .. } = self;
        if catch_unwind(AssertUnwindSafe(|| meter.finish(reading))).is_err() {
            self.reading.incomplete(Incomplete::Panicked);
        }
    }

    /// What was read is not the whole stream.
    pub(crate) fn not_captured(&mut self) {
        self.reading.incomplete(Incomplete::NotCaptured);
    }

    /// Whether the protocol's own end was seen.
    pub(crate) fn is_terminated(&self) -> bool {
        self.terminated() == Some(true)
    }

    /// The error that the provider sent inside the stream.
    pub(crate) fn in_band(&self) -> Option<&InBandError> {
        self.reading.in_band()
    }

    fn terminated(&self) -> Option<bool> {
        catch_unwind(AssertUnwindSafe(|| self.meter.is_terminated())).unwrap_or(None)
    }
}

impl fmt::Debug for Metering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metering").field("reading", &self.reading).finish_non_exhaustive()
    }
}

// === impl Charge ===

impl Charge {
    pub(crate) fn new(budget: &MemoryBudget) -> Self {
        Self { budget: budget.clone(), bytes: 0 }
    }

    /// Has the budget hold as much as is `held`, in steps; false if it has no room.
    pub(crate) fn cover(&mut self, held: usize) -> bool {
        let wanted = (held as u64).next_multiple_of(STEP);
        if wanted <= self.bytes {
            return true;
        }
        let more = self.budget.charge(wanted - self.bytes, Mark::Head);
        if more {
            self.bytes = wanted;
        }
        more
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

// === impl Found ===

impl Found {
    /// What was found by `metering`, which has finished, and in the request.
    pub(crate) fn new(
        metering: Option<Metering>,
        request: Option<RequestFacts>,
        estimator: Option<Arc<dyn Estimator>>,
    ) -> Self {
        let terminated = metering.as_ref().and_then(Metering::terminated);
        let (reading, charge) = metering.map(|metering| (metering.reading, metering.charge)).unzip();
        Self { reading, terminated, request, estimator, _charge: charge }
    }

    /// Everything but the counts.
    pub(crate) fn llm(&self) -> LlmReport {
        let mut report =
            self.reading.as_ref().map_or_else(LlmReport::default, |reading| reading.report(self.terminated));
        if let Some(model) = self.request.as_ref().and_then(|request| request.model.clone()) {
            report.request_model = Some(model);
        }
        report
    }

    /// The counts; with estimates where the stream was cut or reported none, if there is somebody who makes
    /// them. `completed` says that the stream ended by itself.
    pub(crate) fn usage(&self, completed: bool) -> Usage {
        let ended = completed && self.terminated.is_none();
        let reported = self.reading.as_ref().map_or_else(Usage::default, |reading| reading.reported(ended));
        match &self.estimator {
            Some(estimator) if reported.basis != UsageBasis::Reported => {
                self.estimated(reported, &**estimator)
            }
            _ => reported,
        }
    }

    fn estimated(&self, reported: Usage, estimator: &dyn Estimator) -> Usage {
        let input = reported.input_tokens.or_else(|| estimate::input(self, estimator));
        let output = reported.output_tokens.or_else(|| estimate::output(self, estimator));
        if (input, output) == (reported.input_tokens, reported.output_tokens) {
            return reported;
        }
        Usage {
            input_tokens: input,
            output_tokens: output,
            total_tokens: reported.total_tokens.or_else(|| Some(input?.saturating_add(output?))),
            basis: UsageBasis::Estimated,
            ..reported
        }
    }

    /// The model: the response's, else the request's.
    pub(super) fn model(&self) -> Option<&str> {
        let known = self.reading().map(Reading::known);
        let answered = known.and_then(|known| known.response_model.as_deref());
        let asked = self.request().and_then(|request| request.model.as_deref());
        answered.or(asked).or_else(|| known?.request_model.as_deref())
    }

    pub(super) fn reading(&self) -> Option<&Reading> {
        self.reading.as_ref()
    }

    pub(super) fn request(&self) -> Option<&RequestFacts> {
        self.request.as_ref()
    }
}
