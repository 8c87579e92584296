//! Which meter reads a stream.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::auto::{AutoMeter, PathHint, provider_of_host};
use super::encoding::Decompressor;
use super::estimate::Estimator;
use super::meter_trait::Meter;
use super::protocol::Protocol;
use super::quota::{Charge, Quota};
use super::report_builder::{ReportBuilder, TextPolicy};
use super::response_head::ResponseHead;
use super::stream_meter::StreamMeter;

type MeterFactory = dyn Fn(&ResponseHead<'_>) -> Option<Box<dyn Meter>> + Send + Sync;

/// The meters of a layer and their settings.
#[derive(Clone)]
#[must_use = "meters do nothing until they are given to `Builder::meter`"]
pub struct MeterSet {
    own: Vec<Arc<MeterFactory>>,
    built_in: BuiltIn,
    text: TextPolicy,
    max_line: usize,
    max_expanded: u64,
    provider: Option<Cow<'static, str>>,
    on_worker: bool,
    estimator: Option<Arc<dyn Estimator>>,
}

#[derive(Clone, Debug)]
enum BuiltIn {
    None,
    Detect,
    Only(Protocol),
}

// === impl MeterSet ===

impl MeterSet {
    /// All built-in meters. The first unmistakable event of a stream decides which one reads it; path and content
    /// type help. If the protocol cannot be detected, it is unknown, and not guessed.
    pub fn detect() -> Self {
        Self::with_built_in(BuiltIn::Detect)
    }

    /// The built-in meter of one protocol, for streams that are known to use it.
    pub fn only(protocol: Protocol) -> Self {
        Self::with_built_in(BuiltIn::Only(protocol))
    }

    /// No built-in meter: only those that are [added](Self::with).
    pub fn none() -> Self {
        Self::with_built_in(BuiltIn::None)
    }

    fn with_built_in(built_in: BuiltIn) -> Self {
        Self {
            own: Vec::new(),
            built_in,
            text: TextPolicy::Keep(1024 * 1024),
            max_line: 1024 * 1024,
            max_expanded: 256 * 1024 * 1024,
            provider: None,
            on_worker: false,
            estimator: None,
        }
    }

    /// Adds a meter of your own. `make` is called with the head of each successful response and may return a meter.
    /// Meters are asked in the order in which they were added; the built-in ones read what is left.
    pub fn with(
        mut self,
        make: impl Fn(&ResponseHead<'_>) -> Option<Box<dyn Meter>> + Send + Sync + 'static,
    ) -> Self {
        self.own.push(Arc::new(make));
        self
    }

    /// Sets what happens to texts. By default, at most 1 MiB of each stream's text is kept.
    pub fn text(mut self, text: TextPolicy) -> Self {
        self.text = text;
        self
    }

    /// Sets the most bytes that a line, message or element may have. The default is 1 MiB. At a longer one the meter
    /// stops, and the report is [incomplete](crate::meter::LlmReport::incomplete); the stream goes on.
    pub fn max_line(mut self, bytes: usize) -> Self {
        self.max_line = bytes;
        self
    }

    /// Sets the most bytes to which a body with a `content-encoding` is decompressed. The default is 256 MiB.
    pub fn max_expanded(mut self, bytes: u64) -> Self {
        self.max_expanded = bytes;
        self
    }

    /// Sets the provider of these streams for their reports, by OpenTelemetry's name (`openai`, `groq`).
    pub fn provider(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.provider = Some(name.into());
        self
    }

    /// Meters the captured content on the worker that delivers the record, not the chunks as they go by.
    ///
    /// This takes the work off the body, at a price: the capture must hold the whole stream, and the outcome rests on
    /// HTTP alone. A client that closes on the protocol's last event has cancelled, and an error inside the stream
    /// does not make it `Failed`. The report says both.
    pub fn on_worker(mut self) -> Self {
        self.on_worker = true;
        self
    }

    /// Sets the estimator for streams that were cut or report no counts. Without one, missing counts stay `None`.
    pub fn estimate(mut self, estimator: impl Estimator) -> Self {
        self.estimator = Some(Arc::new(estimator));
        self
    }

    /// Whether captured content is metered when the stream is over.
    pub(crate) fn is_on_worker(&self) -> bool {
        self.on_worker
    }

    pub(crate) fn estimator(&self) -> Option<Arc<dyn Estimator>> {
        self.estimator.clone()
    }

    /// Opens the meter for a response that no layer sees. `None` if the status is not a success, or no meter reads
    /// the response.
    pub fn open(&self, head: &ResponseHead<'_>) -> Option<StreamMeter> {
        self.open_within(head, None)
    }

    /// Opens the meter for a response. It charges `quota` for what it keeps.
    pub(crate) fn open_within(
        &self,
        head: &ResponseHead<'_>,
        quota: Option<Arc<dyn Quota>>,
    ) -> Option<StreamMeter> {
        if !head.status.is_success() {
            return None;
        }
        let mut report = ReportBuilder::new(self.text);
        if let Some(provider) = &self.provider {
            report.provider(provider.clone());
        }
        let own = self.own.iter().find_map(|make| make(head));
        let meter = own.or_else(|| self.built_in(head, &mut report))?;
        let decompressor = match Decompressor::of(head.headers, self.max_expanded) {
            Ok(decompressor) => decompressor,
            Err(reason) => {
                report.incomplete(reason);
                None
            }
        };
        Some(StreamMeter::new(meter, decompressor, report, Charge::new(quota)))
    }

    fn built_in(&self, head: &ResponseHead<'_>, report: &mut ReportBuilder) -> Option<Box<dyn Meter>> {
        let hint = PathHint::of(head.uri);
        if let Some(model) = &hint.model {
            report.request_model(model);
        }
        if let Some(provider) = head.uri.host().and_then(provider_of_host) {
            report.provider(provider);
        }
        let (hint, is_sure) = match &self.built_in {
            BuiltIn::None => return None,
            BuiltIn::Detect => (hint, false),
            BuiltIn::Only(protocol) => (PathHint { protocol: Some(protocol.clone()), ..hint }, true),
        };
        Some(Box::new(AutoMeter::new(head.headers, hint, is_sure, self.max_line)))
    }
}

impl fmt::Debug for MeterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeterSet")
            .field("built_in", &self.built_in)
            .field("own", &self.own.len())
            .field("text", &self.text)
            .field("max_line", &self.max_line)
            .field("on_worker", &self.on_worker)
            .finish_non_exhaustive()
    }
}
