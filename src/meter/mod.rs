//! Meters: incremental readers that find model, text, finish reason and usage in a stream.
//!
//! A meter is fed the bytes of a response as they go by, cut anywhere, and never holds them up. It is
//! sans-IO: no clock, no task, no body; time is an argument. It forgets what it has read and does not need, which
//! bounds its memory by one line.
//!
//! # How a stream is read
//!
//! ```text
//! bytes ─▶ encoding ─▶ framing ─▶ provider ─▶ ReportBuilder ─▶ Usage, LlmReport
//!          gzip, br,   SSE, NDJSON,   one file      last usage wins,
//!          zstd        event stream,  a protocol    texts, times
//!                      JSON
//! ```
//!
//! # What stands on what
//!
//! Each line imports only from lines below it, and nothing here from the rest of the crate.
//!
//! ```text
//! set                                   chooses the meter of a response
//! stream_meter                          one stream: decompresses, meters, charges, survives panics
//! stream_report    auto                 what an ended stream shows │ detects framing and protocol
//! estimate         provider             one file for each protocol
//! request          meter_trait          request: model and prompt, read as they go by
//! encoding         report_builder       works out the report from what a meter tells
//! quota            framing, lenient     separates events │ reads JSON with surprises
//! response_head    report
//!                  protocol, usage      plain data
//!                  parse_error, char_boundary
//! ```
//!
//! # The trap: substrings
//!
//! Parsing the JSON of every event costs more than everything else together. Providers therefore look first whether
//! an event can matter. They search for keys, such as `usage"` followed by a colon: inside a string, the quote would
//! have a backslash before it, and a text that speaks of `"usage":{` is never taken for a key. The search only
//! decides whether an event is parsed; it is never believed.

mod auto;
mod char_boundary;
mod encoding;
mod estimate;
mod framing;
mod lenient;
mod meter_trait;
mod parse_error;
mod protocol;
mod provider;
mod quota;
mod report;
mod report_builder;
mod request;
mod response_head;
mod set;
mod stream_meter;
mod stream_report;
mod usage;

#[cfg(feature = "llm-estimate")]
pub use self::estimate::TokenEstimator;
pub use self::estimate::{CharsPerToken, Estimator};
pub use self::framing::{
    EventStreamDecoder, EventStreamError, EventStreamMessage, EventStreamValue, GrpcDecoder, JsonDecoder,
    NdjsonDecoder, SseDecoder, SseEvent,
};
pub use self::meter_trait::Meter;
pub use self::parse_error::ParseError;
pub use self::protocol::Protocol;
pub(crate) use self::quota::{Charge, Quota};
pub use self::report::{InBandError, Incomplete, LlmChoice, LlmReport};
pub use self::report_builder::{ReportBuilder, TextPolicy};
pub(crate) use self::request::{RequestFacts, RequestReader};
pub use self::response_head::ResponseHead;
pub use self::set::MeterSet;
pub use self::stream_meter::StreamMeter;
pub(crate) use self::stream_report::StreamReport;
pub use self::usage::{Usage, UsageBasis};
