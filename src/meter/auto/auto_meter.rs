//! The built-in meter: detects the framing, and passes whole events to the protocol reader.

use std::mem;

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::grpc_body::GrpcBody;
use super::path_hint::PathHint;
use super::protocol_reader::{ProtocolReader, is_json};
use crate::meter::framing::{
    EventStreamDecoder, EventStreamError, JsonDecoder, NdjsonDecoder, SseDecoder, SseItem,
};
use crate::meter::meter_trait::Meter;
use crate::meter::protocol::Protocol;
use crate::meter::report::Incomplete;
use crate::meter::report_builder::ReportBuilder;

/// The most blanks at the start of a line that are kept until the framing is known: those of a BOM, and one more,
/// with which the line is not an event's. Servers that make their clients wait send empty lines without end.
const MAX_BLANKS: usize = 4;

/// Reads any protocol that this crate knows.
pub(crate) struct AutoMeter {
    framing: Framing,
    reader: ProtocolReader,
    max: usize,
}

/// What separates events.
enum Framing {
    /// Only blanks have come; these are on the last line.
    Unknown {
        kind: BodyKind,
        blanks: Vec<u8>,
    },
    Sse {
        decoder: SseDecoder,
        stray: Option<JsonDecoder>,
        is_sure: bool,
    },
    Ndjson(NdjsonDecoder),
    Json(JsonDecoder),
    EventStream {
        decoder: EventStreamDecoder,
        is_sure: bool,
    },
    Grpc(GrpcBody),
    /// None of these.
    None,
}

/// What the content type says about the framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyKind {
    Events,
    Lines,
    EventStream,
    Grpc { is_web: bool, is_text: bool },
    Other,
}

// === impl AutoMeter ===

impl AutoMeter {
    /// Makes a meter for a response with these headers, to a request whose path gives `hint`. `is_sure` says that the
    /// user set the protocol in the hint.
    pub(crate) fn new(headers: &HeaderMap, hint: PathHint, is_sure: bool, max: usize) -> Self {
        let kind = BodyKind::of(headers);
        let framing = match kind {
            BodyKind::EventStream => {
                Framing::EventStream { decoder: EventStreamDecoder::with_max(max), is_sure: true }
            }
            BodyKind::Grpc { is_web, is_text } => Framing::Grpc(GrpcBody::new(is_web, is_text)),
            kind => Framing::Unknown { kind, blanks: Vec::new() },
        };
        // A whole response of InvokeModel has the model's own form.
        let is_decided =
            is_sure || (hint.protocol == Some(Protocol::BedrockInvoke) && kind == BodyKind::Other);
        let reader = ProtocolReader::new(hint.protocol, is_decided);
        Self { framing, reader, max }
    }

    /// Detects the framing by the first character that is not a blank. Returns what is still to be read.
    fn begin<'a>(&mut self, bytes: &'a [u8], report: &mut ReportBuilder) -> &'a [u8] {
        let Framing::Unknown { kind, blanks } = &mut self.framing else {
            return bytes;
        };
        let told = bytes.iter().position(|byte| !b" \t\r\n\xEF\xBB\xBF".contains(byte));
        let (before, rest) = bytes.split_at(told.unwrap_or(bytes.len()));
        let line = before.rsplit(|byte| b"\r\n".contains(byte)).next().unwrap_or_default();
        if line.len() < before.len() {
            blanks.clear();
        }
        blanks.extend_from_slice(&line[..line.len().min(MAX_BLANKS - blanks.len())]);
        let Some(first) = rest.first() else {
            return rest;
        };
        let max = self.max;
        let framing = match (first, *kind) {
            (b'{' | b'[', BodyKind::Lines) => Framing::Ndjson(NdjsonDecoder::with_max(max)),
            // Also if events were announced: errors come as whole JSON.
            (b'{' | b'[', _) => Framing::Json(JsonDecoder::with_max(max)),
            (0, _) => Framing::EventStream { decoder: EventStreamDecoder::with_max(max), is_sure: false },
            (b'd' | b'e' | b'i' | b'r' | b':', _) | (_, BodyKind::Events) => {
                let is_sure = *kind == BodyKind::Events || self.reader.expects_any();
                Framing::Sse { decoder: SseDecoder::with_max(max), stray: None, is_sure }
            }
            _ => Framing::None,
        };
        let blanks = mem::take(blanks);
        self.framing = framing;
        // A decoder of lines would take a BOM for a part of the first line.
        if !matches!(self.framing, Framing::Ndjson(_)) {
            self.read(&blanks, report);
        }
        rest
    }

    fn read(&mut self, mut bytes: &[u8], report: &mut ReportBuilder) {
        let Self { framing, reader, max } = self;
        match framing {
            Framing::Sse { decoder, stray, is_sure } => {
                while let Some(item) = decoder.next_item(&mut bytes) {
                    match item {
                        SseItem::Event(event) => {
                            *is_sure = true;
                            reader.event(event.raw_name(), event.data(), report);
                        }
                        SseItem::Stray(line) => reader.stray_line(line, stray, *max, report),
                    }
                    if stray.as_ref().is_some_and(JsonDecoder::has_overflowed) {
                        break;
                    }
                }
            }
            Framing::Ndjson(decoder) => {
                while let Some(line) = decoder.next(&mut bytes) {
                    reader.value(line, report);
                }
            }
            Framing::Json(decoder) => {
                while let Some(value) = decoder.next(&mut bytes) {
                    reader.value(value, report);
                }
            }
            Framing::EventStream { decoder, is_sure } => {
                while let Some(message) = decoder.next(&mut bytes) {
                    match message {
                        Ok(message) => {
                            *is_sure = true;
                            reader.message(&message, report);
                        }
                        // It only looked like a message.
                        Err(_) if !*is_sure => {}
                        Err(EventStreamError::TooLong { limit }) => {
                            report.incomplete(Incomplete::TooLong { limit });
                        }
                        Err(error) => report.incomplete(Incomplete::Corrupt(error.to_string().into())),
                    }
                }
            }
            Framing::Grpc(body) => body.feed(bytes, report),
            Framing::Unknown { .. } | Framing::None => {}
        }
        self.check(report);
    }

    /// Stops the meter if something was too long to be read.
    fn check(&self, report: &mut ReportBuilder) {
        let has_overflowed = match &self.framing {
            // If not sure, it only looked like events.
            Framing::Sse { decoder, stray, is_sure } => {
                let has_stray_overflowed = stray.as_ref().is_some_and(JsonDecoder::has_overflowed);
                *is_sure && (decoder.has_overflowed() || has_stray_overflowed)
            }
            Framing::Ndjson(decoder) => decoder.has_overflowed(),
            Framing::Json(decoder) => decoder.has_overflowed(),
            _ => false,
        };
        if has_overflowed {
            report.incomplete(Incomplete::TooLong { limit: self.max });
        }
    }
}

impl Meter for AutoMeter {
    fn feed(&mut self, bytes: &[u8], report: &mut ReportBuilder) {
        let bytes = self.begin(bytes, report);
        self.read(bytes, report);
    }

    fn finish(&mut self, report: &mut ReportBuilder) {
        let Self { framing, reader, max } = self;
        match framing {
            Framing::Sse { decoder, stray, .. } => {
                // The last line may lack its end.
                let mut end = &b"\n"[..];
                match decoder.next_item(&mut end) {
                    Some(SseItem::Event(event)) => reader.last_event(event, report),
                    Some(SseItem::Stray(line)) => reader.stray_line(line, stray, *max, report),
                    None => {}
                }
                if let Some(event) = decoder.finish() {
                    reader.last_event(event, report);
                }
            }
            Framing::Ndjson(decoder) => {
                // The last line needs no line feed, but has to be whole.
                if let Some(line) = decoder.finish().filter(|line| is_json(line)) {
                    reader.value(line, report);
                }
            }
            Framing::Grpc(body) => body.finish(report),
            Framing::Json(_) | Framing::EventStream { .. } | Framing::Unknown { .. } | Framing::None => {}
        }
        reader.finish(report);
        self.check(report);
    }

    fn is_terminated(&self) -> Option<bool> {
        match &self.framing {
            Framing::Grpc(body) => body.is_terminated(),
            // An array of chunks ends with its closing bracket.
            Framing::Json(decoder) if decoder.is_array() && self.reader.is_in_array() => {
                Some(decoder.is_closed())
            }
            _ => self.reader.is_terminated(),
        }
    }

    fn buffered(&self) -> usize {
        let framing = match &self.framing {
            Framing::Sse { decoder, stray, .. } => {
                decoder.buffered() + stray.as_ref().map_or(0, JsonDecoder::buffered)
            }
            Framing::Ndjson(decoder) => decoder.buffered(),
            Framing::Json(decoder) => decoder.buffered(),
            Framing::EventStream { decoder, .. } => decoder.buffered(),
            Framing::Grpc(_) | Framing::Unknown { .. } | Framing::None => 0,
        };
        framing + self.reader.buffered()
    }
}

// === impl BodyKind ===

impl BodyKind {
    fn of(headers: &HeaderMap) -> Self {
        let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match &*essence {
            "text/event-stream" => Self::Events,
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Self::Lines,
            "application/x-jsonlines" | "application/jsonlines" | "application/stream+json" => Self::Lines,
            "application/vnd.amazon.eventstream" => Self::EventStream,
            kind => match kind.strip_prefix("application/grpc") {
                Some(rest) if rest.is_empty() || rest.starts_with(['+', '-']) => {
                    Self::Grpc { is_web: rest.starts_with("-web"), is_text: rest.starts_with("-web-text") }
                }
                _ => Self::Other,
            },
        }
    }
}
