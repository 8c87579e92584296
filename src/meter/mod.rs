//! Meters: incremental readers that find model, text, finish reason and usage in a stream.
//!
//! A meter is fed the bytes of a response as they go by, cut anywhere, and never holds them up. It is
//! sans-IO: no clock, no task, no body; time is an argument. What it reads and does not need is forgotten, so
//! that its memory is bounded by one line.
//!
//! # How a stream is read
//!
//! ```text
//! bytes ─▶ content-encoding ─▶ framing ─▶ dialect ─▶ Reading ─▶ Usage, LlmReport
//!          (gzip, br, zstd)    SSE, NDJSON,   one file      last report wins,
//!                              event stream,  a provider    texts, times
//!                              JSON
//! ```
//!
//! # The trap: substrings
//!
//! Parsing the JSON of every event costs more than all else together, so dialects look first whether an event
//! can matter. They do it by keys, as in `usage"` followed by a colon: inside a string the quote would have a
//! backslash before it, so a text that speaks of `"usage":{` is never taken for one. And whatever such a search
//! finds is only parsed for it, never believed.

mod anthropic;
mod bedrock;
mod bedrock_invoke;
mod builtin;
mod cohere;
mod detect;
mod dialect;
mod estimate;
mod event_stream;
mod fields;
mod gemini;
mod grpc;
mod grpc_body;
mod json;
mod keys;
mod lines;
mod metering;
mod ndjson;
mod ollama;
mod openai_chat;
mod openai_delta;
mod openai_responses;
mod reading;
pub(crate) mod report;
mod request;
mod scan;
mod set;
mod shape;
mod speaker;
mod sse;
mod unpack;
pub(crate) mod usage;

#[cfg(feature = "llm-estimate")]
pub use self::estimate::TokenEstimator;
pub use self::estimate::{CharsPerToken, Estimator};
pub use self::event_stream::{EventStreamDecoder, EventStreamError, EventStreamMessage, EventStreamValue};
pub use self::grpc::GrpcDecoder;
pub use self::json::JsonDecoder;
pub use self::metering::Metering;
pub(crate) use self::metering::{Charge, Found};
pub use self::ndjson::NdjsonDecoder;
pub use self::reading::{Reading, TextPolicy};
pub(crate) use self::request::{RequestFacts, RequestReader};
pub use self::report::{InBandError, Incomplete, LlmChoice, LlmReport, Protocol};
pub use self::usage::{Usage, UsageBasis};
pub use self::set::{AnswerHead, MeterSet};
pub use self::sse::{SseDecoder, SseEvent};

/// Reads one stream, and writes down what it finds.
///
/// The built-in meters come from [`MeterSet::detect`]; a meter of your own plugs in beside them with
/// [`MeterSet::with`].
///
/// Meters run inside the body's poll and its drop: they must be quick, must not block, and must bound what they
/// buffer. One that panics is not called again, and the stream goes on without it.
///
/// ```
/// use streaming_accumulator::{Meter, MeterSet, Protocol, Reading, StreamingAccumulatorLayer, Usage};
///
/// /// One token a line; the line `end` is the protocol's end.
/// #[derive(Default)]
/// struct Lines {
///     line: Vec<u8>,
///     tokens: u64,
///     ended: bool,
/// }
///
/// impl Meter for Lines {
///     fn feed(&mut self, bytes: &[u8], reading: &mut Reading) {
///         for byte in bytes {
///             match byte {
///                 b'\n' => self.finish(reading),
///                 byte if self.line.len() < 100 => self.line.push(*byte),
///                 _ => {} // Longer lines are cut: nothing here grows without bound.
///             }
///         }
///     }
///
///     fn finish(&mut self, reading: &mut Reading) {
///         let line = std::mem::take(&mut self.line);
///         if line.is_empty() {
///             return;
///         }
///         reading.event(line.len());
///         self.ended = line == b"end";
///         if self.ended {
///             let mut usage = Usage::default();
///             usage.output_tokens = Some(self.tokens);
///             reading.usage(usage, "");
///             reading.usage_is_final();
///         } else {
///             self.tokens += 1;
///             reading.text(0, &String::from_utf8_lossy(&line));
///         }
///     }
///
///     fn is_terminated(&self) -> Option<bool> {
///         Some(self.ended)
///     }
/// }
///
/// let meters = MeterSet::detect().with(|answer| {
///     let is_ours = answer.headers.get("content-type")? == "text/x-tokens";
///     is_ours.then(|| Box::new(Lines::default()) as Box<dyn Meter>)
/// });
/// let layer = StreamingAccumulatorLayer::builder().meter(meters).build()?;
/// # let _ = layer;
/// # Ok::<(), streaming_accumulator::ConfigError>(())
/// ```
pub trait Meter: Send + 'static {
    /// Reads the next bytes. They may be cut anywhere, and the answer must not depend on where.
    fn feed(&mut self, bytes: &[u8], reading: &mut Reading);

    /// The body is over, at its end or cut off: reads what waited for more bytes.
    fn finish(&mut self, reading: &mut Reading);

    /// Whether the protocol's own end was seen; `None` where it has none.
    ///
    /// A stream that is dropped after it is completed, with [`Evidence::LogicalEnd`](crate::Evidence::LogicalEnd):
    /// clients close on the last event, and do not wait for the end of the body.
    fn is_terminated(&self) -> Option<bool>;

    /// Bytes that it buffers, for the memory budget. Default 0.
    fn buffered(&self) -> usize {
        0
    }
}
