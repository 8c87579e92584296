//! OpenAI Responses.
//!
//! Text comes in `response.output_text.delta`, and again, whole, in up to four later events. Only the deltas are
//! read. Only the final event has usage; a stream that is cut has none.

use std::str;

use once_cell::sync::Lazy;
use serde::de::MapAccess;

use super::counts::latest;
use super::error::{in_band_error, is_error};
use super::key_filter::KeyFilter;
use super::provider_trait::Provider;
use crate::meter::lenient::{FieldValue, Fields, Json, Text, read};
use crate::meter::report::InBandError;
use crate::meter::report_builder::Interest;
use crate::meter::report_builder::ReportBuilder;
use crate::meter::usage::Usage;

/// Reads response events, and whole responses.
#[derive(Debug, Default)]
pub(super) struct OpenAiResponses {
    is_terminated: bool,
    counts: ResponsesCounts,
}

#[derive(Debug, Default)]
struct ResponsesCounts {
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    cached: Option<u64>,
    cache_write: Option<u64>,
    reasoning: Option<u64>,
}

#[derive(Default)]
struct ResponsesEvent<'de> {
    kind: Text<'de>,
    object: Text<'de>,
    delta: Text<'de>,
    response: ResponsesObject<'de>,
    item: ResponsesItem<'de>,
    /// The top level of a whole response, or of an error.
    top: ResponsesObject<'de>,
    code: Text<'de>,
    message: Text<'de>,
}

#[derive(Default)]
struct ResponsesObject<'de> {
    model: Text<'de>,
    status: Text<'de>,
    usage: Option<&'de str>,
    error: Option<&'de str>,
    reason: IncompleteReason<'de>,
    /// Read in whole responses. In events, it repeats the deltas.
    output: Vec<ResponsesItem<'de>>,
}

#[derive(Default)]
struct IncompleteReason<'de> {
    reason: Text<'de>,
}

/// An item of the output, or a part of its content.
#[derive(Default)]
struct ResponsesItem<'de> {
    kind: Text<'de>,
    text: Text<'de>,
    parts: Vec<ResponsesItem<'de>>,
}

/// The start of nearly every event, which shows its type without parsing.
const HEAD: &[u8] = b"{\"type\":\"";

/// For events whose type does not stand first: only those that carry the whole response have these keys.
static FILTER: Lazy<KeyFilter> = Lazy::new(|| {
    KeyFilter::new(&["usage"]).string_ends(&[
        "response",
        "error",
        "completed",
        "incomplete",
        "failed",
        "cancelled",
    ])
});

/// Whether an event of this type is read.
fn is_read(kind: &str, interest: Interest) -> bool {
    match kind {
        "error" => true,
        // These events echo the request, which may be long, and say nothing new once the model is known.
        "response.created" | "response.in_progress" | "response.queued" => interest.model,
        "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled" => true,
        "response.output_text.delta" | "response.refusal.delta" => interest.text,
        "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => interest.reasoning,
        "response.output_item.added" => interest.tool_call,
        kind => interest.tool_call && kind.ends_with("_call_arguments.delta"),
    }
}

// === impl OpenAiResponses ===

impl OpenAiResponses {
    /// Whether `data` may hold anything that is wanted. `name` is the event's name in the framing.
    fn matters(name: &[u8], data: &[u8], report: &ReportBuilder) -> bool {
        let interest = report.interest();
        let kind = match data.strip_prefix(HEAD) {
            Some(rest) => rest.split(|byte| *byte == b'"').next().unwrap_or_default(),
            // If the type stands elsewhere, the name repeats it.
            None if name.starts_with(b"response.") => name,
            None => &[],
        };
        match str::from_utf8(kind) {
            Ok(kind) if !kind.is_empty() && !kind.contains('\\') => is_read(kind, interest),
            _ => interest.text || interest.reasoning || interest.tool_call || FILTER.may_match(data, report),
        }
    }

    /// Reads a response that did not come in events. A background response may still be in progress.
    fn whole(&mut self, response: &ResponsesObject<'_>, report: &mut ReportBuilder) {
        response.output.iter().for_each(|item| item.read(report));
        match response.status.as_deref() {
            Some("queued" | "in_progress") => self.response(response, report),
            _ => self.end("", response, report),
        }
    }

    fn response(&mut self, response: &ResponsesObject<'_>, report: &mut ReportBuilder) {
        if let Some(model) = &response.model {
            report.latest_model(model);
        }
        if let Some(raw) = response.usage
            && read(raw, &mut self.counts)
        {
            report.usage(self.counts.normal_form(), raw);
        }
        if let Some(error) = response.error {
            report.error(in_band_error(error));
        }
    }

    /// Ends the response, as its status says, or else `kind`, the event's.
    fn end(&mut self, kind: &str, response: &ResponsesObject<'_>, report: &mut ReportBuilder) {
        self.is_terminated = true;
        self.response(response, report);
        report.usage_is_final();
        let status = response.status.as_deref().unwrap_or(kind);
        match (status, &response.reason.reason) {
            ("incomplete", Some(reason)) => report.finish_reason(0, reason),
            (status, _) => report.finish_reason(0, status),
        }
        if status == "failed" {
            // This applies only if the provider has sent no other error.
            report.error(InBandError { message: "response.failed".into(), ..InBandError::default() });
        }
    }
}

impl Provider for OpenAiResponses {
    fn event(&mut self, name: &[u8], data: &[u8], report: &mut ReportBuilder) {
        if !Self::matters(name, data, report) {
            return;
        }
        let json = Json::of(data);
        let mut event = ResponsesEvent::default();
        if !json.read(&mut event) {
            return;
        }
        let delta = event.delta.as_deref().unwrap_or_default();
        match event.kind.as_deref() {
            Some("response.output_text.delta") => report.text(0, delta),
            Some("response.refusal.delta") => report.hidden(delta),
            Some("response.reasoning_text.delta" | "response.reasoning_summary_text.delta") => {
                report.reasoning(delta);
            }
            Some("response.output_item.added") if event.item.is_call() => report.tool_call(""),
            Some(kind) if kind.ends_with("_call_arguments.delta") => report.tool_call(delta),
            Some("response.created" | "response.in_progress" | "response.queued") => {
                self.response(&event.response, report);
            }
            Some(
                kind @ ("response.completed"
                | "response.incomplete"
                | "response.failed"
                | "response.cancelled"),
            ) => self.end(&kind["response.".len()..], &event.response, report),
            Some("error") => report.error(event.error(&json)),
            None if event.object.as_deref() == Some("response") => self.whole(&event.top, report),
            // A plain error in place of events, or an error of a gateway.
            None => self.response(&event.top, report),
            _ => {}
        }
    }

    fn is_terminated(&self) -> Option<bool> {
        Some(self.is_terminated)
    }
}

// === impl ResponsesCounts ===

impl ResponsesCounts {
    fn normal_form(&self) -> Usage {
        Usage {
            input_tokens: self.input,
            output_tokens: self.output,
            cached_input_tokens: self.cached,
            cache_write_input_tokens: self.cache_write,
            reasoning_tokens: self.reasoning,
            total_tokens: self.total,
            ..Usage::default()
        }
    }
}

impl<'de> Fields<'de> for ResponsesCounts {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "input_tokens" => latest(&mut self.input, value.count()?),
            "output_tokens" => latest(&mut self.output, value.count()?),
            "total_tokens" => latest(&mut self.total, value.count()?),
            "cached_tokens" => latest(&mut self.cached, value.count()?),
            "cache_write_tokens" => latest(&mut self.cache_write, value.count()?),
            "reasoning_tokens" => latest(&mut self.reasoning, value.count()?),
            "input_tokens_details" | "output_tokens_details" => {
                value.object(self)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

// === impl ResponsesEvent ===

impl<'de> ResponsesEvent<'de> {
    /// The error of an `error` event: nested in newer servers, the event itself in others.
    fn error(self, json: &Json<'_>) -> InBandError {
        match self.top.error {
            Some(error) => in_band_error(error),
            None => InBandError {
                code: self.code.map(Into::into),
                message: self.message.unwrap_or_default().into(),
                raw: Some(json.as_str().into()),
            },
        }
    }
}

impl<'de> Fields<'de> for ResponsesEvent<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "type" => self.kind = value.text()?,
            "object" => self.object = value.text()?,
            "delta" => self.delta = value.text()?,
            "response" => {
                value.object(&mut self.response)?;
            }
            "item" => {
                value.object(&mut self.item)?;
            }
            "code" => self.code = value.word()?,
            "message" => self.message = value.text()?,
            _ => self.top.field(key, value)?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for ResponsesObject<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "model" => self.model = value.text()?,
            "status" => self.status = value.text()?,
            "usage" => self.usage = value.raw()?,
            "error" => self.error = value.raw()?.filter(is_error),
            "output" => {
                value.objects(&mut self.output)?;
            }
            "incomplete_details" => {
                value.object(&mut self.reason)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for IncompleteReason<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "reason" => self.reason = value.text()?,
            _ => value.skip()?,
        }
        Ok(())
    }
}

impl ResponsesItem<'_> {
    fn is_call(&self) -> bool {
        self.kind.as_deref().is_some_and(|kind| kind.ends_with("_call"))
    }

    fn read(&self, report: &mut ReportBuilder) {
        let text = self.text.as_deref().unwrap_or_default();
        match self.kind.as_deref() {
            Some("message") => self.parts.iter().for_each(|part| part.read(report)),
            Some("output_text") => report.text(0, text),
            Some("refusal") => report.hidden(text),
            Some("reasoning") => self.parts.iter().for_each(|part| part.read(report)),
            Some("reasoning_text" | "summary_text") => report.reasoning(text),
            Some(_) if self.is_call() => report.tool_call(text),
            _ => {}
        }
    }
}

impl<'de> Fields<'de> for ResponsesItem<'de> {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, value: FieldValue<'_, 'de, A>) -> Result<(), A::Error> {
        match key {
            "type" => self.kind = value.text()?,
            "text" | "refusal" | "arguments" => self.text = value.text()?,
            "content" | "summary" => {
                value.objects(&mut self.parts)?;
            }
            _ => value.skip()?,
        }
        Ok(())
    }
}
