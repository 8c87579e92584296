//! Who reads the events of a stream: finds out the protocol, and hands them to its dialect.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::Reading;
use super::detect::{Signature, dialect};
use super::dialect::{Dialect, in_band_error, is_error, unmistakable_error};
use super::event_stream::EventStreamMessage;
use super::fields::Json;
use super::json::JsonDecoder;
use super::reading::Piece;
use super::shape::{Shape, unescaped};
use super::sse::SseEvent;
use crate::meter::report::{InBandError, Protocol};

/// So many events may go by before one tells the protocol. The first one does, but for pings and the like.
const PATIENCE: u8 = 64;

/// Who reads the events.
pub(super) struct Speaker {
    /// The protocol is known for sure.
    is_decided: bool,
    /// Events that are still looked at for the protocol.
    patience: u8,
    protocol: Option<Protocol>,
    dialect: Option<Box<dyn Dialect>>,
    shape: Shape,
}

// === impl Speaker ===

impl Speaker {
    /// One that is to expect `protocol`; `is_decided`: whatever the events are.
    pub(super) fn new(protocol: Option<Protocol>, is_decided: bool) -> Self {
        Self { is_decided, patience: PATIENCE, protocol, dialect: None, shape: Shape::default() }
    }

    pub(super) fn is_terminated(&self) -> Option<bool> {
        match (&self.dialect, &self.protocol) {
            (Some(dialect), _) => dialect.is_terminated(),
            // Nothing has come.
            (None, Some(protocol)) => dialect(protocol)?.is_terminated(),
            (None, None) => None,
        }
    }

    /// The stream is over.
    pub(super) fn finish(&mut self, reading: &mut Reading) {
        if let Some(dialect) = &mut self.dialect {
            dialect.finish(reading);
        }
    }

    pub(super) fn buffered(&self) -> usize {
        self.shape.buffered() + self.dialect.as_ref().map_or(0, |dialect| dialect.buffered())
    }

    /// Whether there is any reason to think that the stream speaks a protocol.
    pub(super) fn expects_any(&self) -> bool {
        self.protocol.is_some()
    }

    pub(super) fn is_in_array(&self) -> bool {
        self.protocol == Some(Protocol::GeminiJsonArray)
    }

    pub(super) fn event(&mut self, name: &[u8], data: &[u8], reading: &mut Reading) {
        if self.take_plain(name, data, reading) {
            return;
        }
        if let Some(dialect) = self.dialect_of(data, true, reading) {
            dialect.event(name, data, reading);
            if name == b"error" && reading.in_band().is_none() {
                named_error(data, reading);
            }
        }
        self.learn(name, data, reading);
    }

    /// The event at the end of the body, which lacks its blank line. The standard drops it; where its JSON is
    /// whole, so is it.
    pub(super) fn last_event(&mut self, event: SseEvent<'_>, reading: &mut Reading) {
        let data = event.data();
        if is_json(data) {
            self.event(event.raw_name(), data, reading);
        }
    }

    /// A line, an element of an array, or a whole answer.
    pub(super) fn value(&mut self, data: &[u8], reading: &mut Reading) {
        if self.take_plain(b"", data, reading) {
            return;
        }
        if let Some(dialect) = self.dialect_of(data, false, reading) {
            dialect.value(data, reading);
        }
        self.learn(b"", data, reading);
    }

    /// Whether `data` is of the shape of the last event that was one piece of output and nothing else, and so needs
    /// no dialect.
    #[inline]
    fn take_plain(&mut self, name: &[u8], data: &[u8], reading: &mut Reading) -> bool {
        let Some((piece, text)) = self.plain(name, data, reading.wants_text()) else {
            reading.begin();
            return false;
        };
        reading.event(data.len());
        reading.piece(piece, &text);
        true
    }

    #[inline]
    fn plain<'d>(&self, name: &[u8], data: &'d [u8], wants_text: bool) -> Option<(Piece, Cow<'d, str>)> {
        let (piece, text) = self.shape.piece(name, data)?;
        // Where none is wanted, only the first matters, by which the shape was learned.
        Some((piece, if wants_text { unescaped(data, text)? } else { Cow::Borrowed("") }))
    }

    fn learn(&mut self, name: &[u8], data: &[u8], reading: &mut Reading) {
        if let Some((piece, place)) = reading.only_piece(data) {
            self.shape.learn(name, data, piece, place);
            reading.shaped();
        }
    }

    fn dialect_of(
        &mut self,
        data: &[u8],
        in_events: bool,
        reading: &mut Reading,
    ) -> Option<&mut (dyn Dialect + 'static)> {
        reading.event(data.len());
        let is_open = !self.is_decided || self.dialect.is_none();
        if is_open && self.patience > 0 {
            self.patience -= 1;
            self.decide(data, in_events, reading);
        }
        self.dialect.as_deref_mut()
    }

    /// A message of an event stream: Amazon names its protocol by the types of its events.
    pub(super) fn message(&mut self, message: &EventStreamMessage<'_>, reading: &mut Reading) {
        let payload = message.payload();
        // Exceptions and errors have none.
        let name = message.text(":event-type").unwrap_or_default();
        if !name.is_empty() && self.take_plain(name.as_bytes(), payload, reading) {
            return;
        }
        reading.event(payload.len());
        match name {
            _ if self.is_decided => self.presume(reading),
            "chunk" => self.speak(Protocol::BedrockInvoke, reading),
            "messageStart" | "contentBlockStart" | "contentBlockDelta" | "messageStop" => {
                self.speak(Protocol::BedrockConverse, reading);
            }
            _ => self.presume(reading),
        }
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
                if let Some(dialect) = &mut self.dialect {
                    dialect.event(name.as_bytes(), payload, reading);
                    self.learn(name.as_bytes(), payload, reading);
                }
            }
        }
    }

    /// A line that is no field of an event. llama.cpp puts errors into `error:` lines; Vertex ends a stream that
    /// fails with bare JSON.
    pub(super) fn stray(
        &mut self,
        line: &[u8],
        stray: &mut Option<JsonDecoder>,
        max: usize,
        reading: &mut Reading,
    ) {
        // Where nothing is known of a stream, it is somebody's text.
        if self.protocol.is_none() {
            return;
        }
        if let Some(error) = line.strip_prefix(b"error:") {
            self.unnamed_error(error.trim_ascii(), true, reading);
            return;
        }
        if stray.is_none() && !line.starts_with(b"{") && !line.starts_with(b"[{") {
            return;
        }
        let decoder = stray.get_or_insert_with(|| JsonDecoder::with_max(max));
        for mut part in [line, b"\n"] {
            while let Some(value) = decoder.next(&mut part) {
                self.unnamed_error(value, false, reading);
            }
        }
    }

    /// An error outside of any event: under `error`, or, where its line `says_so`, by itself.
    fn unnamed_error(&mut self, data: &[u8], says_so: bool, reading: &mut Reading) {
        let json = Json::of(data);
        let Some(signature) = json.get::<Signature<'_>>() else {
            return;
        };
        let bare = Some(json.as_str()).filter(|_| says_so).filter(is_error);
        if let Some(error) = signature.error.or(bare) {
            self.presume(reading);
            reading.error(in_band_error(error));
        }
    }

    fn decide(&mut self, data: &[u8], in_events: bool, reading: &mut Reading) {
        let json = Json::of(data);
        let signature = json.get::<Signature<'_>>().unwrap_or_default();
        let told = if self.is_decided { None } else { signature.protocol(in_events) };
        match told {
            Some(protocol) => self.speak(protocol, reading),
            // Nothing to be told from: a ping, an error, `[DONE]`. Other paths end like those of the protocols, and
            // of their answers nothing is presumed.
            None if in_events || self.is_decided || signature.is_error() => self.presume(reading),
            None => {}
        }
        if let (None, Some(error)) = (&self.dialect, signature.error.and_then(unmistakable_error)) {
            reading.error(error);
        }
    }

    /// Until the events tell, the protocol is the one that the path says.
    fn presume(&mut self, reading: &mut Reading) {
        if let (None, Some(protocol)) = (&self.dialect, self.protocol.clone()) {
            let is_decided = self.is_decided;
            self.speak(protocol, reading);
            self.is_decided = is_decided;
        }
    }

    /// From here on the stream speaks `protocol`.
    fn speak(&mut self, protocol: Protocol, reading: &mut Reading) {
        if self.dialect.is_none() || self.protocol.as_ref() != Some(&protocol) {
            self.finish(reading);
            self.dialect = dialect(&protocol);
        }
        self.is_decided = true;
        reading.protocol(protocol.clone());
        self.protocol = Some(protocol);
    }
}

/// An event is called an error, and its protocol knows no such error: a proxy's, with whatever it has to say.
fn named_error(data: &[u8], reading: &mut Reading) {
    let said = String::from_utf8_lossy(data.trim_ascii());
    if is_json(data) && is_error(&&*said) {
        reading.error(in_band_error(&said));
    } else if !is_json(data) && !said.is_empty() {
        reading.error(InBandError { message: said.into(), ..InBandError::default() });
    }
}

/// Whether `data` is one JSON value, all of it.
pub(super) fn is_json(data: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(data).is_ok()
}
