//! The reader of a stream's events: detects the protocol, and passes events to its provider.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::event_template::{EventTemplate, unescaped};
use super::signature::Signature;
use crate::meter::framing::{EventStreamMessage, JsonDecoder, SseEvent};
use crate::meter::lenient::Json;
use crate::meter::protocol::Protocol;
use crate::meter::provider::{Provider, in_band_error, is_error, provider_for, unmistakable_error};
use crate::meter::report::InBandError;
use crate::meter::report_builder::{OutputKind, ReportBuilder};

/// How many events are inspected before detection gives up. Usually the first one is enough, unless it is a ping.
const MAX_UNDECIDED: u8 = 64;

/// Reads the events of a stream.
pub(super) struct ProtocolReader {
    /// Whether the protocol is certain.
    is_decided: bool,
    /// How many more events are inspected for the protocol.
    undecided: u8,
    protocol: Option<Protocol>,
    provider: Option<Box<dyn Provider>>,
    template: EventTemplate,
}

// === impl ProtocolReader ===

impl ProtocolReader {
    /// Makes a reader that expects `protocol`; `is_decided` says that events cannot change it.
    pub(super) fn new(protocol: Option<Protocol>, is_decided: bool) -> Self {
        Self {
            is_decided,
            undecided: MAX_UNDECIDED,
            protocol,
            provider: None,
            template: EventTemplate::default(),
        }
    }

    pub(super) fn is_terminated(&self) -> Option<bool> {
        match (&self.provider, &self.protocol) {
            (Some(provider), _) => provider.is_terminated(),
            // No event has come.
            (None, Some(protocol)) => provider_for(protocol)?.is_terminated(),
            (None, None) => None,
        }
    }

    /// Ends the stream.
    pub(super) fn finish(&mut self, report: &mut ReportBuilder) {
        if let Some(provider) = &mut self.provider {
            provider.finish(report);
        }
    }

    pub(super) fn buffered(&self) -> usize {
        self.template.buffered() + self.provider.as_ref().map_or(0, |provider| provider.buffered())
    }

    /// Whether any protocol is expected.
    pub(super) fn expects_any(&self) -> bool {
        self.protocol.is_some()
    }

    pub(super) fn is_in_array(&self) -> bool {
        self.protocol == Some(Protocol::GeminiJsonArray)
    }

    pub(super) fn event(&mut self, name: &[u8], data: &[u8], report: &mut ReportBuilder) {
        if self.take_by_template(name, data, report) {
            return;
        }
        if let Some(provider) = self.provider_of(data, true, report) {
            provider.event(name, data, report);
            if name == b"error" && report.in_band().is_none() {
                named_error(data, report);
            }
        }
        self.update_template(name, data, report);
    }

    /// Reads the event at the end of the body, which lacks its blank line. The standard drops it; if its JSON is
    /// whole, the event is whole, too.
    pub(super) fn last_event(&mut self, event: SseEvent<'_>, report: &mut ReportBuilder) {
        let data = event.data();
        if is_json(data) {
            self.event(event.raw_name(), data, report);
        }
    }

    /// Reads a line, an element of an array, or a whole response.
    pub(super) fn value(&mut self, data: &[u8], report: &mut ReportBuilder) {
        if self.take_by_template(b"", data, report) {
            return;
        }
        if let Some(provider) = self.provider_of(data, false, report) {
            provider.value(data, report);
        }
        self.update_template(b"", data, report);
    }

    /// Reads `data` without its provider if it fits the template of earlier events; false if it does not.
    #[inline]
    fn take_by_template(&mut self, name: &[u8], data: &[u8], report: &mut ReportBuilder) -> bool {
        let Some((kind, text)) = self.match_template(name, data, report.wants_text()) else {
            report.begin_event();
            return false;
        };
        report.event(data.len());
        report.output(kind, &text);
        true
    }

    #[inline]
    fn match_template<'d>(
        &self,
        name: &[u8],
        data: &'d [u8],
        wants_text: bool,
    ) -> Option<(OutputKind, Cow<'d, str>)> {
        let (kind, text) = self.template.match_event(name, data)?;
        // If texts are skipped, only the first one matters, and the template was made of it.
        Some((kind, if wants_text { unescaped(data, text)? } else { Cow::Borrowed("") }))
    }

    fn update_template(&mut self, name: &[u8], data: &[u8], report: &mut ReportBuilder) {
        if let Some((kind, place)) = report.sole_output(data) {
            self.template.update(name, data, kind, place);
            report.template_is_known();
        }
    }

    fn provider_of(
        &mut self,
        data: &[u8],
        in_events: bool,
        report: &mut ReportBuilder,
    ) -> Option<&mut (dyn Provider + 'static)> {
        report.event(data.len());
        let is_open = !self.is_decided || self.provider.is_none();
        if is_open && self.undecided > 0 {
            self.undecided -= 1;
            self.decide(data, in_events, report);
        }
        self.provider.as_deref_mut()
    }

    /// Reads a message of an event stream. Its event types name the protocol.
    pub(super) fn message(&mut self, message: &EventStreamMessage<'_>, report: &mut ReportBuilder) {
        let payload = message.payload();
        // Exceptions and errors have no event type.
        let name = message.text(":event-type").unwrap_or_default();
        if !name.is_empty() && self.take_by_template(name.as_bytes(), payload, report) {
            return;
        }
        report.event(payload.len());
        match name {
            _ if self.is_decided => self.assume_protocol(report),
            "chunk" => self.set_protocol(Protocol::BedrockInvoke, report),
            "messageStart" | "contentBlockStart" | "contentBlockDelta" | "messageStop" => {
                self.set_protocol(Protocol::BedrockConverse, report);
            }
            _ => self.assume_protocol(report),
        }
        match message.text(":message-type") {
            Some("exception") => {
                let code = message.text(":exception-type").map(Into::into);
                let text = String::from_utf8_lossy(payload);
                report.error(InBandError { code, ..in_band_error(&text) });
            }
            Some("error") => report.error(InBandError {
                code: message.text(":error-code").map(Into::into),
                message: message.text(":error-message").unwrap_or_default().into(),
                raw: None,
            }),
            _ => {
                if let Some(provider) = &mut self.provider {
                    provider.event(name.as_bytes(), payload, report);
                    self.update_template(name.as_bytes(), payload, report);
                }
            }
        }
    }

    /// Reads a line that is not a field of an event. llama.cpp puts errors into `error:` lines, and Vertex ends a
    /// failed stream with bare JSON.
    pub(super) fn stray_line(
        &mut self,
        line: &[u8],
        stray: &mut Option<JsonDecoder>,
        max: usize,
        report: &mut ReportBuilder,
    ) {
        // In an unknown protocol, the line may be any text.
        if self.protocol.is_none() {
            return;
        }
        if let Some(error) = line.strip_prefix(b"error:") {
            self.unnamed_error(error.trim_ascii(), true, report);
            return;
        }
        if stray.is_none() && !line.starts_with(b"{") && !line.starts_with(b"[{") {
            return;
        }
        let decoder = stray.get_or_insert_with(|| JsonDecoder::with_max(max));
        for mut part in [line, b"\n"] {
            while let Some(value) = decoder.next(&mut part) {
                self.unnamed_error(value, false, report);
            }
        }
    }

    /// Reads an error outside of any event: the value of `error`, or, if the line `says_so`, the value itself.
    fn unnamed_error(&mut self, data: &[u8], says_so: bool, report: &mut ReportBuilder) {
        let json = Json::of(data);
        let Some(signature) = json.get::<Signature<'_>>() else {
            return;
        };
        let bare = Some(json.as_str()).filter(|_| says_so).filter(is_error);
        if let Some(error) = signature.error.or(bare) {
            self.assume_protocol(report);
            report.error(in_band_error(error));
        }
    }

    fn decide(&mut self, data: &[u8], in_events: bool, report: &mut ReportBuilder) {
        let json = Json::of(data);
        let signature = json.get::<Signature<'_>>().unwrap_or_default();
        let told = if self.is_decided { None } else { signature.protocol(in_events) };
        match told {
            Some(protocol) => self.set_protocol(protocol, report),
            // This event shows no protocol: a ping, an error, `[DONE]`. The paths of other services end like those of
            // the protocols, and nothing is assumed about their whole responses.
            None if in_events || self.is_decided || signature.is_error() => self.assume_protocol(report),
            None => {}
        }
        if let (None, Some(error)) = (&self.provider, signature.error.and_then(unmistakable_error)) {
            report.error(error);
        }
    }

    /// Uses the protocol of the path until an event shows the protocol.
    fn assume_protocol(&mut self, report: &mut ReportBuilder) {
        if let (None, Some(protocol)) = (&self.provider, self.protocol.clone()) {
            let is_decided = self.is_decided;
            self.set_protocol(protocol, report);
            self.is_decided = is_decided;
        }
    }

    /// Sets the protocol for all later events.
    fn set_protocol(&mut self, protocol: Protocol, report: &mut ReportBuilder) {
        if self.provider.is_none() || self.protocol.as_ref() != Some(&protocol) {
            self.finish(report);
            self.provider = provider_for(&protocol);
        }
        self.is_decided = true;
        report.protocol(protocol.clone());
        self.protocol = Some(protocol);
    }
}

/// Reads an event named `error` in a protocol that has no such event: it comes from a proxy.
fn named_error(data: &[u8], report: &mut ReportBuilder) {
    let said = String::from_utf8_lossy(data.trim_ascii());
    if is_json(data) && is_error(&&*said) {
        report.error(in_band_error(&said));
    } else if !is_json(data) && !said.is_empty() {
        report.error(InBandError { message: said.into(), ..InBandError::default() });
    }
}

/// Whether `data` is exactly one JSON value.
pub(super) fn is_json(data: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(data).is_ok()
}
