//! What meters found in an ended stream, worked out when somebody asks.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::head::{RequestHead, ResponseFacts};
use super::outcome::Outcome;
use super::trace;
use crate::accumulator::{Content, Mark, MemoryBudget};
use crate::contain::contain;
use crate::meter::{
    Charge, LlmReport, MeterSet, Quota, RequestFacts, ResponseHead, StreamMeter, StreamReport, Usage,
};

/// What was found in a stream. Everything is made once, on first use.
pub(crate) struct LazyReport {
    meters: Option<Arc<MeterSet>>,
    budget: MemoryBudget,
    /// Set from the start, unless the worker is to meter.
    found: OnceLock<Option<StreamReport>>,
    /// Until `found` is set.
    request: Mutex<Option<RequestFacts>>,
    /// For the request's facts.
    _charge: Option<Charge>,
    usage: OnceLock<Usage>,
    llm: OnceLock<Option<LlmReport>>,
}

/// The stream that was metered, or is to be.
#[derive(Clone, Copy)]
pub(crate) struct MeteredStream<'a> {
    pub(crate) request: &'a RequestHead,
    pub(crate) response: Option<&'a ResponseFacts>,
    pub(crate) outcome: &'a Outcome,
    pub(crate) content: &'a Content,
    /// Pulled.
    pub(crate) bytes: u64,
}

/// The meter that `meters` has for a response. `None` where there is none for it, or it has no content.
pub(crate) fn open_meter(
    meters: &MeterSet,
    budget: &MemoryBudget,
    request: &RequestHead,
    response: &ResponseFacts,
) -> Option<StreamMeter> {
    if response.bodiless {
        return None;
    }
    let head = ResponseHead::new(&request.method, &request.uri, response.status, &response.headers);
    contain(|| meters.open_within(&head, Some(quota(budget)))).unwrap_or_else(|| {
        trace::callback_panicked(None, "meter");
        None
    })
}

/// The budget, as meters see it.
pub(crate) fn quota(budget: &MemoryBudget) -> Arc<dyn Quota> {
    Arc::new(budget.clone())
}

impl Quota for MemoryBudget {
    fn take(&self, bytes: u64) -> bool {
        self.charge(bytes, Mark::Head)
    }

    fn give_back(&self, bytes: u64) {
        self.release(bytes);
    }
}

// === impl LazyReport ===

impl LazyReport {
    /// What there is to find in a stream that has ended. `meter` has read its response and has finished; `request` is
    /// what was read of its request.
    pub(crate) fn new(
        meters: Option<Arc<MeterSet>>,
        budget: &MemoryBudget,
        meter: Option<StreamMeter>,
        request: Option<(RequestFacts, Charge)>,
        stream: MeteredStream<'_>,
    ) -> Self {
        let on_worker = meters.as_ref().is_some_and(|meters| meters.is_on_worker());
        let (request, charge) = request.unzip();
        let report = Self {
            meters,
            budget: budget.clone(),
            found: OnceLock::new(),
            request: Mutex::new(request),
            _charge: charge,
            usage: OnceLock::new(),
            llm: OnceLock::new(),
        };
        if !on_worker {
            report.found.get_or_init(|| report.put_together(stream, meter));
        }
        report
    }

    /// A report that was read back.
    #[cfg(feature = "serde")]
    pub(crate) fn known(usage: Usage, llm: Option<LlmReport>) -> Self {
        Self {
            meters: None,
            budget: MemoryBudget::unlimited(),
            found: OnceLock::from(None),
            request: Mutex::new(None),
            _charge: None,
            usage: OnceLock::from(usage),
            llm: OnceLock::from(llm),
        }
    }

    pub(crate) fn usage(&self, stream: MeteredStream<'_>) -> &Usage {
        self.usage.get_or_init(|| {
            let completed = *stream.outcome == Outcome::Completed;
            self.found(stream).map_or_else(Usage::default, |found| found.usage(completed))
        })
    }

    pub(crate) fn llm(&self, stream: MeteredStream<'_>) -> Option<&LlmReport> {
        self.llm.get_or_init(|| self.found(stream).map(StreamReport::llm)).as_ref()
    }

    fn found(&self, stream: MeteredStream<'_>) -> Option<&StreamReport> {
        let found = self.found.get_or_init(|| self.put_together(stream, self.meter_content(stream)));
        found.as_ref()
    }

    fn put_together(&self, stream: MeteredStream<'_>, meter: Option<StreamMeter>) -> Option<StreamReport> {
        let request = self.request.lock().unwrap_or_else(PoisonError::into_inner).take();
        let meters = self.meters.as_ref().filter(|_| stream.is_billed(meter.is_some()));
        let estimator = meters.and_then(|meters| meters.estimator());
        // The meter is dropped here: that, too, is foreign code.
        let found = contain(|| match meter {
            Some(meter) => Some(meter.into_report(request, estimator)),
            None => Some(StreamReport::of_request(request?, estimator)),
        });
        found.unwrap_or_else(|| {
            trace::callback_panicked(None, "meter");
            None
        })
    }

    /// Meters what was captured.
    fn meter_content(&self, stream: MeteredStream<'_>) -> Option<StreamMeter> {
        let mut meter = open_meter(self.meters.as_ref()?, &self.budget, stream.request, stream.response?)?;
        let mut read = 0;
        // What cannot be read back is missing below.
        for chunk in stream.content.timed_chunks().map_while(Result::ok) {
            read += chunk.bytes.len() as u64;
            meter.feed(&chunk.bytes, chunk.arrival);
        }
        meter.finish();
        if read < stream.bytes {
            meter.not_captured();
        }
        Some(meter)
    }
}

impl fmt::Debug for LazyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyReport").field("usage", &self.usage.get()).finish_non_exhaustive()
    }
}

// === impl MeteredStream ===

impl MeteredStream<'_> {
    /// Whether tokens may have been used: there is a response that a meter reads, or the client left before there was
    /// one. A refused or failed call is not given an estimate.
    fn is_billed(&self, is_metered: bool) -> bool {
        is_metered || (self.response.is_none() && *self.outcome == Outcome::Cancelled)
    }
}
