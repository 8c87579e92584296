//! One stream's meter, and what surrounds it: the content coding, the memory quota, the guard against panics.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::encoding::Decompressor;
use super::estimate::Estimator;
use super::meter_trait::Meter;
use super::quota::Charge;
use super::report::{InBandError, Incomplete, LlmReport};
use super::report_builder::ReportBuilder;
use super::request::RequestFacts;
use super::stream_report::StreamReport;
use super::usage::Usage;

/// Reads one stream, fed with its chunks: what the layer does, for streams that no layer sees.
///
/// Clients, replays and tests make one with [`MeterSet::open`](crate::meter::MeterSet::open). It decompresses the
/// body, bounds what it keeps, and survives a meter that panics.
///
/// ```
/// use std::time::Duration;
/// use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header::CONTENT_TYPE};
/// use streaming_accumulator::meter::{MeterSet, ResponseHead, UsageBasis};
///
/// let mut headers = HeaderMap::new();
/// headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
/// let uri = Uri::from_static("/api/chat");
/// let head = ResponseHead::new(&Method::POST, &uri, StatusCode::OK, &headers);
///
/// let mut meter = MeterSet::detect().open(&head).expect("a successful response");
/// meter.feed(br#"{"model":"llama3","message":{"content":"Hi"},"done":false}"#, Duration::from_millis(5));
/// meter.feed(b"\n{\"model\":\"llama3\",\"done\":true,\"eval_count\":2}\n", Duration::from_millis(9));
/// let (report, usage) = meter.end(true);
///
/// assert_eq!(report.model(), Some("llama3"));
/// assert_eq!(report.text.as_deref(), Some("Hi"));
/// assert_eq!((usage.output_tokens, usage.basis), (Some(2), UsageBasis::Reported));
/// ```
pub struct StreamMeter {
    meter: Box<dyn Meter>,
    decompressor: Option<Decompressor>,
    report: ReportBuilder,
    charge: Charge,
}

/// Bytes that `meter` buffers. It may be the user's code.
fn contain_buffered(meter: &dyn Meter) -> usize {
    catch_unwind(AssertUnwindSafe(|| meter.buffered())).unwrap_or(0)
}

// === impl StreamMeter ===

impl StreamMeter {
    pub(crate) fn new(
        meter: Box<dyn Meter>,
        decompressor: Option<Decompressor>,
        report: ReportBuilder,
        charge: Charge,
    ) -> Self {
        Self { meter, decompressor, report, charge }
    }

    /// Reads a chunk that came at `now`, the time since the stream was opened. Chunks may be cut anywhere.
    pub fn feed(&mut self, chunk: &[u8], now: Duration) {
        if self.report.stopped().is_some() {
            return;
        }
        self.report.set_now(now);
        match catch_unwind(AssertUnwindSafe(|| self.read(chunk))) {
            Ok(buffered) => self.charge(buffered),
            Err(_) => self.report.incomplete(Incomplete::Panicked),
        }
        if self.report.stopped().is_some() {
            // Frees the window of the content coding.
            self.decompressor = None;
        }
    }

    /// Ends the stream and returns what was found. `completed` says that it ended by itself and was not cut.
    ///
    /// Nothing is estimated here.
    pub fn end(mut self, completed: bool) -> (LlmReport, Usage) {
        self.finish();
        let report = self.into_report(None, None);
        (report.llm(), report.usage(completed))
    }

    /// Reads what waited for more bytes: the body is over.
    pub(crate) fn finish(&mut self) {
        // What was read until a meter stopped stands. A meter that panicked is not called again.
        if self.report.stopped() == Some(&Incomplete::Panicked) {
            return;
        }
        let Self { meter, report, .. } = self;
        if catch_unwind(AssertUnwindSafe(|| meter.finish(report))).is_err() {
            self.report.incomplete(Incomplete::Panicked);
        }
    }

    /// The counts so far. Nothing is estimated.
    pub(crate) fn usage_so_far(&self) -> Usage {
        self.report.to_usage(false)
    }

    /// A number that changes with each event, and while an event comes in; 0 before the first event begins. `None` once
    /// the meter has stopped reading.
    pub(crate) fn progress(&self) -> Option<u64> {
        if self.report.stopped().is_some() {
            return None;
        }
        let buffered = contain_buffered(&*self.meter);
        Some((self.report.known().events << 32) | (buffered as u64 & u64::from(u32::MAX)))
    }

    /// Notes that the meter did not read the whole stream.
    pub(crate) fn not_captured(&mut self) {
        self.report.incomplete(Incomplete::NotCaptured);
    }

    /// Whether the protocol's own end was seen.
    pub(crate) fn is_terminated(&self) -> bool {
        self.terminated() == Some(true)
    }

    /// The error that the provider sent inside the stream.
    pub(crate) fn in_band(&self) -> Option<&InBandError> {
        self.report.in_band()
    }

    /// What this meter found, once it has finished, together with what was found in the request.
    ///
    /// Drops the meter, which may be the user's code and may panic.
    pub(crate) fn into_report(
        self,
        request: Option<RequestFacts>,
        estimator: Option<Arc<dyn Estimator>>,
    ) -> StreamReport {
        let terminated = self.terminated();
        StreamReport::of_response(self.report, terminated, self.charge).with_request(request, estimator)
    }

    /// Reads a chunk and returns how many bytes are buffered after it.
    fn read(&mut self, chunk: &[u8]) -> usize {
        let Self { meter, decompressor, report, .. } = self;
        match decompressor {
            None => meter.feed(chunk, report),
            Some(decompressor) => {
                let fed = decompressor.feed(chunk, &mut |bytes| meter.feed(bytes, report));
                if let Err(reason) = fed {
                    report.incomplete(reason);
                }
            }
        }
        meter.buffered() + decompressor.as_ref().map_or(0, Decompressor::held)
    }

    /// Charges the quota for what is kept. What does not fit is given up, texts first: the counts are what is billed.
    fn charge(&mut self, buffered: usize) {
        if !self.charge.cover(buffered + self.report.held()) {
            self.report.drop_texts();
            if !self.charge.cover(buffered) {
                self.report.incomplete(Incomplete::Memory);
            }
        }
    }

    fn terminated(&self) -> Option<bool> {
        catch_unwind(AssertUnwindSafe(|| self.meter.is_terminated())).unwrap_or(None)
    }
}

impl fmt::Debug for StreamMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamMeter").field("report", &self.report).finish_non_exhaustive()
    }
}
