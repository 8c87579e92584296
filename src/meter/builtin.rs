//! The built-in meter: finds out framing and protocol, and hands whole events to the protocol's dialect.

use std::mem;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::de::IgnoredAny;

use super::detect::{Hint, Signature, dialect};
use super::dialect::{Dialect, in_band_error};
use super::event_stream::{EventStreamDecoder, EventStreamError, EventStreamMessage};
use super::fields::Json;
use super::grpc_body::GrpcBody;
use super::json::JsonDecoder;
use super::ndjson::NdjsonDecoder;
use super::sse::{Item, SseDecoder};
use super::{Meter, Reading};
use crate::llm::{InBandError, Incomplete, Protocol};

/// Blanks before the first character that tells something; more of them are no protocol's.
const MAX_BLANKS: usize = 256;

/// Reads any protocol that this crate knows.
pub(super) struct Builtin {
    framing: Framing,
    speaker: Speaker,
    max: usize,
}

/// How events are told apart.
enum Framing {
    /// Nothing has come that tells, but these blanks.
    Unknown {
        kind: Kind,
        blanks: Vec<u8>,
    },
    Sse {
        decoder: SseDecoder,
        stray: Option<JsonDecoder>,
    },
    Ndjson(NdjsonDecoder),
    Json(JsonDecoder),
    EventStream {
        decoder: EventStreamDecoder,
        is_sure: bool,
    },
    Grpc(GrpcBody),
    /// It is none of these.
    None,
}

/// What the content type says of the framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Events,
    Lines,
    EventStream,
    Grpc { is_web: bool, is_text: bool },
    Other,
}

/// Who reads the events.
struct Speaker {
    /// The protocol is known for sure.
    is_decided: bool,
    protocol: Option<Protocol>,
    dialect: Option<Box<dyn Dialect>>,
}

// === impl Builtin ===

impl Builtin {
    /// A meter for a response with these headers, to a request whose path gives `hint`. `is_sure`: the hint is
    /// none, but what the user said.
    pub(super) fn new(headers: &HeaderMap, hint: Hint, is_sure: bool, max: usize) -> Self {
        let kind = Kind::of(headers);
        let framing = match kind {
            Kind::EventStream => {
                Framing::EventStream { decoder: EventStreamDecoder::with_max(max), is_sure: true }
            }
            Kind::Grpc { is_web, is_text } => Framing::Grpc(GrpcBody::new(is_web, is_text)),
            kind => Framing::Unknown { kind, blanks: Vec::new() },
        };
        // A whole answer of InvokeModel has the model's own form.
        let is_decided = is_sure || (hint.protocol == Some(Protocol::BedrockInvoke) && kind == Kind::Other);
        let speaker = Speaker { is_decided, dialect: None, protocol: hint.protocol };
        Self { framing, speaker, max }
    }

    /// Tells the framing by the first character that is no blank.
    fn begin(&mut self, bytes: &[u8], reading: &mut Reading) {
        let Framing::Unknown { kind, blanks } = &mut self.framing else {
            return;
        };
        let told = bytes.iter().position(|byte| !b" \t\r\n\xEF\xBB\xBF".contains(byte));
        let Some(first) = told.and_then(|at| bytes.get(at)) else {
            blanks.extend_from_slice(bytes);
            if blanks.len() > MAX_BLANKS {
                self.framing = Framing::None;
            }
            return;
        };
        let max = self.max;
        let framing = match (first, *kind) {
            (b'{' | b'[', Kind::Lines) => Framing::Ndjson(NdjsonDecoder::with_max(max)),
            // Also where events were announced: errors come as whole JSON.
            (b'{' | b'[', _) => Framing::Json(JsonDecoder::with_max(max)),
            (0, _) => Framing::EventStream { decoder: EventStreamDecoder::with_max(max), is_sure: false },
            (b'd' | b'e' | b'i' | b'r' | b':', _) | (_, Kind::Events) => {
                Framing::Sse { decoder: SseDecoder::with_max(max), stray: None }
            }
            _ => Framing::None,
        };
        let blanks = mem::take(blanks);
        self.framing = framing;
        self.read(&blanks, reading);
    }

    fn read(&mut self, mut bytes: &[u8], reading: &mut Reading) {
        let Self { framing, speaker, max } = self;
        match framing {
            Framing::Sse { decoder, stray } => {
                while let Some(item) = decoder.next_item(&mut bytes) {
                    match item {
                        Item::Event(event) => {
                            speaker.event(event.raw_name(), event.data(), true, reading);
                        }
                        Item::Stray(line) => speaker.stray(line, stray, *max, reading),
                    }
                }
            }
            Framing::Ndjson(decoder) => {
                while let Some(line) = decoder.next(&mut bytes) {
                    speaker.event(b"", line, false, reading);
                }
            }
            Framing::Json(decoder) => {
                while let Some(value) = decoder.next(&mut bytes) {
                    speaker.event(b"", value, false, reading);
                }
            }
            Framing::EventStream { decoder, is_sure } => {
                while let Some(message) = decoder.next(&mut bytes) {
                    match message {
                        Ok(message) => {
                            *is_sure = true;
                            speaker.message(&message, reading);
                        }
                        // It only looked like one.
                        Err(_) if !*is_sure => {}
                        Err(EventStreamError::TooLong { limit }) => {
                            reading.incomplete(Incomplete::TooLong { limit });
                        }
                        Err(error) => reading.incomplete(Incomplete::Corrupt(error.to_string().into())),
                    }
                }
            }
            Framing::Grpc(body) => body.feed(bytes, reading),
            Framing::Unknown { .. } | Framing::None => {}
        }
        self.check(reading);
    }

    /// Whether something was too long to be read.
    fn check(&self, reading: &mut Reading) {
        let is_overflown = match &self.framing {
            Framing::Sse { decoder, stray } => {
                decoder.is_overflown() || stray.as_ref().is_some_and(JsonDecoder::is_overflown)
            }
            Framing::Ndjson(decoder) => decoder.is_overflown(),
            Framing::Json(decoder) => decoder.is_overflown(),
            _ => false,
        };
        if is_overflown {
            reading.incomplete(Incomplete::TooLong { limit: self.max });
        }
    }
}

impl Meter for Builtin {
    fn feed(&mut self, bytes: &[u8], reading: &mut Reading) {
        if matches!(self.framing, Framing::Unknown { .. }) {
            self.begin(bytes, reading);
        }
        self.read(bytes, reading);
    }

    fn finish(&mut self, reading: &mut Reading) {
        let Self { framing, speaker, .. } = self;
        match framing {
            Framing::Sse { decoder, .. } => {
                // The standard drops an event that lacks its blank line. Where its JSON is whole, so is it.
                if let Some(event) = decoder.finish()
                    && serde_json::from_slice::<IgnoredAny>(event.data()).is_ok()
                {
                    speaker.event(event.raw_name(), event.data(), true, reading);
                }
            }
            Framing::Ndjson(decoder) => {
                if let Some(line) = decoder.finish() {
                    speaker.event(b"", line, false, reading);
                }
            }
            Framing::Grpc(body) => body.finish(reading),
            Framing::Json(_) | Framing::EventStream { .. } | Framing::Unknown { .. } | Framing::None => {}
        }
        self.check(reading);
    }

    fn is_terminated(&self) -> Option<bool> {
        match &self.framing {
            Framing::Grpc(body) => body.is_terminated(),
            // An array of chunks ends with its bracket.
            Framing::Json(decoder) if decoder.is_array() => Some(decoder.is_closed()),
            _ => self.speaker.is_terminated(),
        }
    }

    fn buffered(&self) -> usize {
        match &self.framing {
            Framing::Sse { decoder, stray } => {
                decoder.buffered() + stray.as_ref().map_or(0, JsonDecoder::buffered)
            }
            Framing::Ndjson(decoder) => decoder.buffered(),
            Framing::Json(decoder) => decoder.buffered(),
            Framing::EventStream { decoder, .. } => decoder.buffered(),
            Framing::Grpc(_) | Framing::Unknown { .. } | Framing::None => 0,
        }
    }
}

// === impl Kind ===

impl Kind {
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

// === impl Speaker ===

impl Speaker {
    fn is_terminated(&self) -> Option<bool> {
        match (&self.dialect, &self.protocol) {
            (Some(dialect), _) => dialect.is_terminated(),
            // Nothing has come.
            (None, Some(protocol)) => dialect(protocol)?.is_terminated(),
            (None, None) => None,
        }
    }

    fn event(&mut self, name: &[u8], data: &[u8], in_events: bool, reading: &mut Reading) {
        reading.event(data.len());
        if !self.is_decided || self.dialect.is_none() {
            self.decide(data, in_events, reading);
        }
        if let Some(dialect) = &mut self.dialect {
            dialect.event(name, data, reading);
        }
    }

    /// A message of an event stream: Amazon names its protocol by the types of its events.
    fn message(&mut self, message: &EventStreamMessage<'_>, reading: &mut Reading) {
        let payload = message.payload();
        reading.event(payload.len());
        match message.text(":message-type") {
            Some("exception") => {
                let code = message.text(":exception-type").map(Into::into);
                let text = String::from_utf8_lossy(payload);
                reading.error(InBandError { code, ..in_band_error(&text) });
            }
            Some("error") => reading.error(InBandError {
                code: message.text(":error-code").map(Into::into),
                message: message.text(":error-message").unwrap_or_default().into(),
                raw: None,
            }),
            _ => {
                let name = message.text(":event-type").unwrap_or_default();
                if !self.is_decided || self.dialect.is_none() {
                    match name {
                        "chunk" => self.speak(Protocol::BedrockInvoke, reading),
                        "messageStart" | "contentBlockStart" | "contentBlockDelta" | "messageStop" => {
                            self.speak(Protocol::BedrockConverse, reading);
                        }
                        _ => {}
                    }
                }
                if let Some(dialect) = &mut self.dialect {
                    dialect.event(name.as_bytes(), payload, reading);
                }
            }
        }
    }

    /// A line that is no field of an event. llama.cpp puts errors into `error:` lines; Vertex ends a stream that
    /// fails with bare JSON.
    fn stray(&mut self, line: &[u8], stray: &mut Option<JsonDecoder>, max: usize, reading: &mut Reading) {
        if let Some(error) = line.strip_prefix(b"error:") {
            self.unnamed_error(error.trim_ascii(), reading);
            return;
        }
        if stray.is_none() && !line.starts_with(b"{") && !line.starts_with(b"[{") {
            return;
        }
        let decoder = stray.get_or_insert_with(|| JsonDecoder::with_max(max));
        for mut part in [line, b"\n"] {
            while let Some(value) = decoder.next(&mut part) {
                self.unnamed_error(value, reading);
            }
        }
    }

    /// An error outside of any event: under `error`, or by itself.
    fn unnamed_error(&self, data: &[u8], reading: &mut Reading) {
        let json = Json::of(data);
        if let Some(signature) = json.get::<Signature<'_>>() {
            reading.error(in_band_error(signature.error.unwrap_or(json.as_str())));
        }
    }

    fn decide(&mut self, data: &[u8], in_events: bool, reading: &mut Reading) {
        let json = Json::of(data);
        let signature = json.get::<Signature<'_>>().unwrap_or_default();
        let told = if self.is_decided { None } else { signature.protocol(in_events) };
        match told {
            Some(protocol) => self.speak(protocol, reading),
            // Nothing to be told from: a ping, an error, `[DONE]`.
            None if self.dialect.is_none() => {
                if let Some(protocol) = self.protocol.clone() {
                    let is_decided = self.is_decided;
                    self.speak(protocol, reading);
                    self.is_decided = is_decided;
                }
            }
            None => {}
        }
        if let (None, Some(error)) = (&self.dialect, signature.error) {
            reading.error(in_band_error(error));
        }
    }

    /// From here on the stream speaks `protocol`.
    fn speak(&mut self, protocol: Protocol, reading: &mut Reading) {
        if self.dialect.is_none() || self.protocol.as_ref() != Some(&protocol) {
            self.dialect = dialect(&protocol);
        }
        self.is_decided = true;
        reading.protocol(protocol.clone());
        self.protocol = Some(protocol);
    }
}
