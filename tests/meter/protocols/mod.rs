//! What no recording holds: streams written by hand, from the documents of the providers. Each file names them.
//!
//! Every stream here is read in one piece, byte by byte, and without its texts; the answers must agree.

mod anthropic;
mod basis;
mod bedrock;
mod cohere;
mod compatible;
mod detection;
mod frames;
mod gemini;
mod grpc;
mod invoke;
mod ollama;
mod openai_chat;
mod openai_responses;
mod times;

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use streaming_accumulator::Usage;
use streaming_accumulator::meter::{LlmReport, MeterSet, ResponseHead, TextPolicy};

/// A response that is metered, however it is cut.
#[derive(Clone)]
pub(crate) struct Answer {
    uri: Uri,
    content_type: Option<&'static str>,
    meters: MeterSet,
    completed: bool,
    body: Vec<u8>,
}

/// One `data:` event for each of these.
pub(crate) fn events<S: AsRef<str>>(events: impl IntoIterator<Item = S>) -> Answer {
    let events = events.into_iter().map(|data| format!("data: {}\n\n", data.as_ref()));
    Answer::new("text/event-stream", events.collect::<String>())
}

/// One line of JSON for each of these.
pub(crate) fn lines(lines: &[&str]) -> Answer {
    Answer::new("application/x-ndjson", lines.iter().map(|line| format!("{line}\n")).collect::<String>())
}

/// A body of JSON.
pub(crate) fn json(body: &str) -> Answer {
    Answer::new("application/json", body)
}

/// Input, output, cached, cache write, reasoning, total.
pub(crate) fn counts(usage: &Usage) -> [Option<u64>; 6] {
    let Usage { input_tokens, output_tokens, cached_input_tokens, .. } = usage;
    let Usage { cache_write_input_tokens, reasoning_tokens, total_tokens, .. } = usage;
    let [input, output, cached] = [input_tokens, output_tokens, cached_input_tokens];
    [*input, *output, *cached, *cache_write_input_tokens, *reasoning_tokens, *total_tokens]
}

/// The code and the message of the error in the stream.
pub(crate) fn error(report: &LlmReport) -> Option<(Option<&str>, &str)> {
    report.error.as_ref().map(|error| (error.code.as_deref(), &*error.message))
}

pub(crate) fn protocol(report: &LlmReport) -> Option<&str> {
    report.protocol.as_ref().map(|protocol| protocol.as_str())
}

/// The reasons of all choices that have one.
pub(crate) fn reasons(report: &LlmReport) -> Vec<&str> {
    report.finish_reasons.iter().map(|reason| &**reason).collect()
}

// === impl Answer ===

impl Answer {
    pub(crate) fn new(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let uri = Uri::from_static("/any/path");
        let body = body.into();
        Self { uri, content_type: Some(content_type), meters: MeterSet::detect(), completed: false, body }
    }

    pub(crate) fn at(mut self, uri: &'static str) -> Self {
        self.uri = Uri::from_static(uri);
        self
    }

    pub(crate) fn typed(mut self, content_type: Option<&'static str>) -> Self {
        self.content_type = content_type;
        self
    }

    pub(crate) fn with(mut self, meters: MeterSet) -> Self {
        self.meters = meters;
        self
    }

    /// The body ended by itself.
    pub(crate) fn completed(mut self) -> Self {
        self.completed = true;
        self
    }

    /// With more bytes behind it.
    pub(crate) fn then(mut self, more: impl AsRef<[u8]>) -> Self {
        self.body.extend_from_slice(more.as_ref());
        self
    }

    /// Without its last bytes.
    pub(crate) fn cut_by(mut self, bytes: usize) -> Self {
        self.body.truncate(self.body.len() - bytes);
        self
    }

    /// Reads it every way there is, and gives the one answer.
    pub(crate) fn read(&self) -> (LlmReport, Usage) {
        let whole = self.feed([&*self.body], &self.meters);
        assert_eq!(self.feed(self.body.chunks(1), &self.meters), whole, "byte by byte");
        let skipped = self.feed([&*self.body], &self.meters.clone().text(TextPolicy::Skip));
        assert_eq!(bare(&skipped), bare(&whole), "without texts");
        let skipped = self.feed(self.body.chunks(1), &self.meters.clone().text(TextPolicy::Skip));
        assert_eq!(bare(&skipped), bare(&whole), "without texts, byte by byte");
        whole
    }

    fn feed<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>, meters: &MeterSet) -> (LlmReport, Usage) {
        let mut headers = HeaderMap::new();
        if let Some(content_type) = self.content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        let head = ResponseHead::new(&Method::POST, &self.uri, StatusCode::OK, &headers);
        let mut metering = meters.open(&head).expect("a meter");
        for piece in pieces {
            metering.feed(piece, Duration::from_millis(7));
        }
        metering.end(self.completed)
    }
}

/// What does not hang on the texts.
fn bare((report, usage): &(LlmReport, Usage)) -> (LlmReport, Usage) {
    let mut report = report.clone();
    report.choices.retain(|choice| choice.finish_reason.is_some());
    for choice in &mut report.choices {
        (choice.text, choice.text_len) = (None, None);
    }
    (report.text, report.text_len, report.text_chunks) = (None, None, None);
    report.longest_text_gap = None;
    (report, usage.clone())
}
