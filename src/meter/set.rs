//! Which meter reads a stream.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, Uri};

use super::builtin::Builtin;
use super::detect::{self, Hint};
use super::estimate::Estimator;
use super::unpack::Unpacker;
use super::{Meter, Metering, Reading, TextPolicy};
use crate::accumulator::MemoryBudget;
use crate::meter::report::Protocol;

/// What is known of a response before its body, for the choice of a meter.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AnswerHead<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// The request's URI, query included.
    pub uri: &'a Uri,
    /// The response's status.
    pub status: StatusCode,
    /// The response's headers.
    pub headers: &'a HeaderMap,
}

impl<'a> AnswerHead<'a> {
    /// The head of a response with this status and these headers, to a request of this method and URI.
    pub fn new(method: &'a Method, uri: &'a Uri, status: StatusCode, headers: &'a HeaderMap) -> Self {
        Self { method, uri, status, headers }
    }
}

type Make = dyn Fn(&AnswerHead<'_>) -> Option<Box<dyn Meter>> + Send + Sync;

/// The meters of a layer, and how they read.
#[derive(Clone)]
#[must_use = "meters do nothing until they are given to `Builder::meter`"]
pub struct MeterSet {
    own: Vec<Arc<Make>>,
    builtin: Builtins,
    text: TextPolicy,
    max_line: usize,
    max_expanded: u64,
    provider: Option<Cow<'static, str>>,
    on_worker: bool,
    estimator: Option<Arc<dyn Estimator>>,
}

#[derive(Clone, Debug)]
enum Builtins {
    None,
    Detect,
    Only(Protocol),
}

// === impl MeterSet ===

impl MeterSet {
    /// All built-in meters. Which one reads a stream is told by its first event that is unmistakable, with the
    /// help of path and content type; what cannot be told is unknown, and is not guessed.
    pub fn detect() -> Self {
        Self::with_builtin(Builtins::Detect)
    }

    /// The built-in meter of one protocol, for streams that are known to speak it.
    pub fn only(protocol: Protocol) -> Self {
        Self::with_builtin(Builtins::Only(protocol))
    }

    /// No meter but those that are [added](Self::with).
    pub fn none() -> Self {
        Self::with_builtin(Builtins::None)
    }

    fn with_builtin(builtin: Builtins) -> Self {
        Self {
            own: Vec::new(),
            builtin,
            text: TextPolicy::Keep(1024 * 1024),
            max_line: 1024 * 1024,
            max_expanded: 256 * 1024 * 1024,
            provider: None,
            on_worker: false,
            estimator: None,
        }
    }

    /// Adds a meter of your own: `make` is called with the head of each successful response and may return one.
    /// Those that were added first are asked first; the built-in ones read what none of them takes.
    pub fn with(
        mut self,
        make: impl Fn(&AnswerHead<'_>) -> Option<Box<dyn Meter>> + Send + Sync + 'static,
    ) -> Self {
        self.own.push(Arc::new(make));
        self
    }

    /// What happens to texts. Default: up to 1 MiB of each stream's are kept.
    pub fn text(mut self, text: TextPolicy) -> Self {
        self.text = text;
        self
    }

    /// How many bytes a line, message or element may have. Default 1 MiB. A meter that meets a longer one stops
    /// reading, and the report is [incomplete](crate::LlmReport::incomplete); the stream goes on.
    pub fn max_line(mut self, bytes: usize) -> Self {
        self.max_line = bytes;
        self
    }

    /// How many bytes a body with a `content-encoding` may unpack to for the meter. Default 256 MiB.
    pub fn max_expanded(mut self, bytes: u64) -> Self {
        self.max_expanded = bytes;
        self
    }

    /// Who serves these streams, by OpenTelemetry's name (`openai`, `groq`): stands in each report.
    pub fn provider(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.provider = Some(name.into());
        self
    }

    /// Meters what was captured, on the worker that delivers the record, instead of the chunks as they go by.
    ///
    /// The body is then spared the work, at a price: the capture must hold the whole stream, and the outcome
    /// rests on HTTP alone. A client that closes on the protocol's last event has cancelled, and an error inside
    /// the stream does not make it `Failed`; the report says both.
    pub fn on_worker(mut self) -> Self {
        self.on_worker = true;
        self
    }

    /// Who estimates the counts of streams that were cut or report none. Default: nobody, and they are `None`.
    pub fn estimate(mut self, estimator: impl Estimator) -> Self {
        self.estimator = Some(Arc::new(estimator));
        self
    }

    /// Whether streams are metered when they are over, from what was captured.
    pub(crate) fn is_on_worker(&self) -> bool {
        self.on_worker
    }

    pub(crate) fn estimator(&self) -> Option<Arc<dyn Estimator>> {
        self.estimator.clone()
    }

    /// The meter for a response that no layer sees; `None` where there is none for it, or its status is no
    /// success.
    pub fn metering(&self, head: &AnswerHead<'_>) -> Option<Metering> {
        self.open(head, &MemoryBudget::unlimited())
    }

    /// The meter for a response.
    pub(crate) fn open(&self, head: &AnswerHead<'_>, budget: &MemoryBudget) -> Option<Metering> {
        if !head.status.is_success() {
            return None;
        }
        let mut reading = Reading::new(self.text);
        if let Some(provider) = &self.provider {
            reading.provider(provider.clone());
        }
        let own = self.own.iter().find_map(|make| make(head));
        let meter = own.or_else(|| self.builtin(head, &mut reading))?;
        let unpacker = match Unpacker::of(head.headers, self.max_expanded) {
            Ok(unpacker) => unpacker,
            Err(reason) => {
                reading.incomplete(reason);
                None
            }
        };
        Some(Metering::new(meter, unpacker, reading, budget))
    }

    fn builtin(&self, head: &AnswerHead<'_>, reading: &mut Reading) -> Option<Box<dyn Meter>> {
        let hint = Hint::of(head.uri);
        if let Some(model) = &hint.model {
            reading.request_model(model);
        }
        if let Some(provider) = head.uri.host().and_then(detect::provider) {
            reading.provider(provider);
        }
        let (hint, is_sure) = match &self.builtin {
            Builtins::None => return None,
            Builtins::Detect => (hint, false),
            Builtins::Only(protocol) => (Hint { protocol: Some(protocol.clone()), ..hint }, true),
        };
        Some(Box::new(Builtin::new(head.headers, hint, is_sure, self.max_line)))
    }
}

impl fmt::Debug for MeterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeterSet")
            .field("builtin", &self.builtin)
            .field("own", &self.own.len())
            .field("text", &self.text)
            .field("max_line", &self.max_line)
            .field("on_worker", &self.on_worker)
            .finish_non_exhaustive()
    }
}
