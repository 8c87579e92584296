//! What meters found in an ended stream, worked out when somebody asks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::accumulator::Content;
use crate::meter::report::LlmReport;
use crate::meter::{Charge, Found, MeterSet, Metering, RequestFacts};
use crate::stream::outcome::Outcome;
use crate::stream::state::Pipeline;
use crate::stream::trace;
use crate::meter::usage::Usage;

/// What was found in a stream. Everything is made once, on first use.
pub(crate) struct Findings {
    /// Set from the start, unless the worker is to meter.
    found: OnceLock<Option<Found>>,
    /// Until `found` is set.
    request: Mutex<Option<RequestFacts>>,
    /// For the request's facts.
    _charge: Option<Charge>,
    usage: OnceLock<Usage>,
    llm: OnceLock<Option<LlmReport>>,
}

/// The stream that was metered, or is to be.
#[derive(Clone, Copy)]
pub(crate) struct Ended<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) outcome: &'a Outcome,
    pub(crate) content: &'a Content,
    /// Pulled.
    pub(crate) bytes: u64,
}

// === impl Findings ===

impl Findings {
    /// What there is to find in a stream, whose `metering` has finished. None where the layer meters nothing.
    pub(crate) fn new(stream: Ended<'_>, metering: Option<Metering>) -> Option<Box<Self>> {
        let meters = stream.pipeline.rules().meters.as_ref()?;
        let (request, charge) = stream.pipeline.metered().finish_request().unzip();
        let findings = Self {
            found: OnceLock::new(),
            request: Mutex::new(request),
            _charge: charge,
            usage: OnceLock::new(),
            llm: OnceLock::new(),
        };
        if !meters.is_on_worker() {
            findings.found.get_or_init(|| findings.put_together(stream, metering));
        }
        Some(Box::new(findings))
    }

    pub(crate) fn usage(&self, stream: Ended<'_>) -> &Usage {
        self.usage.get_or_init(|| {
            let completed = *stream.outcome == Outcome::Completed;
            self.found(stream).map_or_else(Usage::default, |found| found.usage(completed))
        })
    }

    pub(crate) fn llm(&self, stream: Ended<'_>) -> Option<&LlmReport> {
        self.llm.get_or_init(|| self.found(stream).map(Found::llm)).as_ref()
    }

    fn found(&self, stream: Ended<'_>) -> Option<&Found> {
        let found = self.found.get_or_init(|| self.put_together(stream, stream.meter_content()));
        found.as_ref()
    }

    fn put_together(&self, stream: Ended<'_>, metering: Option<Metering>) -> Option<Found> {
        let request = self.request.lock().unwrap_or_else(PoisonError::into_inner).take();
        if metering.is_none() && request.is_none() {
            return None;
        }
        let set = stream.pipeline.rules().meters.as_ref().and_then(|meters| meters.set.as_ref());
        let estimator = set.filter(|_| stream.is_billed(metering.is_some())).and_then(MeterSet::estimator);
        // The meter is dropped here: that, too, is the user's code.
        catch_unwind(AssertUnwindSafe(|| Found::new(metering, request, estimator)))
            .inspect_err(|_| trace::callback_panicked(Some(stream.pipeline.span()), "meter"))
            .ok()
    }
}

// === impl Ended ===

impl Ended<'_> {
    /// Whether tokens may have been used: there is a response that a meter reads, or the client left before there
    /// was one. A refused or failed call is not given an estimate.
    fn is_billed(&self, is_metered: bool) -> bool {
        is_metered || (self.pipeline.head().is_none() && *self.outcome == Outcome::Cancelled)
    }

    /// Meters what was captured.
    fn meter_content(&self) -> Option<Metering> {
        let mut metering = self.pipeline.open_metering()?;
        let mut read = 0;
        for chunk in self.content.timed_chunks() {
            let Ok(chunk) = chunk.inspect_err(trace::unreadable) else {
                break;
            };
            read += chunk.bytes.len() as u64;
            metering.feed(&chunk.bytes, chunk.arrival);
        }
        metering.finish();
        if read < self.bytes {
            metering.not_captured();
        }
        Some(metering)
    }
}
