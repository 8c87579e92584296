//! What a meter tells, and what follows from it.

use std::borrow::Cow;
use std::mem;
use std::ops::Range;
use std::time::Duration;

use super::choices::Choices;
use super::event_output::{EventOutput, Interest, OutputKind};
use super::text_policy::TextPolicy;
use crate::meter::char_boundary;
use crate::meter::protocol::Protocol;
use crate::meter::report::{InBandError, Incomplete, LlmReport};
use crate::meter::usage::{Usage, UsageBasis};

/// The longest name of a model or reason that is kept, in bytes. Nobody sends longer ones.
const MAX_WORD: usize = 256;

/// The longest usage object or error that is kept as it was sent, in bytes.
const MAX_RAW: usize = 64 * 1024;

/// Collects what a [`Meter`](crate::meter::Meter) finds in a stream.
///
/// A meter reports what it sees with the methods below. The builder works out what follows (first times, gaps,
/// lengths, what is kept, which usage counts), alike for all meters.
#[derive(Debug)]
pub struct ReportBuilder {
    /// Everything but texts and choices.
    report: LlmReport,
    choices: Choices,
    policy: TextPolicy,
    /// Characters of reasoning, refusals and tool calls.
    hidden: u64,
    usage: Option<Usage>,
    /// The provider's own object for `usage`. It stands apart so that its allocation is used again.
    raw: String,
    is_final: bool,
    now: Duration,
    last_text: Option<Duration>,
    /// The number of the event that held the last text.
    text_event: u64,
    event_output: EventOutput,
}

// === impl ReportBuilder ===

/// What a meter may ask and tell.
impl ReportBuilder {
    /// The time of the bytes that the meter is reading, since the stream was opened.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Whether texts are wanted. Where they are not, a meter may skip them once it has reported one.
    pub fn wants_text(&self) -> bool {
        self.policy != TextPolicy::Skip
    }

    /// Sets the protocol.
    pub fn protocol(&mut self, protocol: Protocol) {
        self.report.protocol = Some(protocol);
    }

    /// Sets the provider, unless it is known already.
    pub fn provider(&mut self, provider: impl Into<Cow<'static, str>>) {
        self.report.provider.get_or_insert_with(|| provider.into());
    }

    /// Sets the model that was asked for. An empty name is ignored.
    pub fn request_model(&mut self, model: &str) {
        if !model.is_empty() {
            self.report.request_model = Some(bounded(model));
        }
    }

    /// Sets the model that the response names, unless an earlier event named it. An empty name is ignored.
    pub fn model(&mut self, model: &str) {
        if self.report.response_model.is_none() {
            self.latest_model(model);
        }
    }

    /// Sets the model that the response names, in place of what an earlier event named. An empty name is ignored.
    pub fn latest_model(&mut self, model: &str) {
        if !model.is_empty() && self.report.response_model.as_deref() != Some(model) {
            self.event_output.note_other();
            self.report.response_model = Some(bounded(model));
        }
    }

    /// Counts one event of the protocol, or one message, of this many bytes.
    pub fn event(&mut self, bytes: usize) {
        self.report.time_to_first_event.get_or_insert(self.now);
        self.report.events += 1;
        self.report.event_bytes += bytes as u64;
        self.report.longest_event = self.report.longest_event.max(bytes as u64);
    }

    /// Adds visible text to a choice. Empty text is ignored.
    pub fn text(&mut self, choice: u32, text: &str) {
        if text.is_empty() {
            return;
        }
        self.first(|report| &mut report.time_to_first_text);
        self.event_output.add(OutputKind::Text(choice), text);
        if self.wants_text() {
            self.text_chunk();
            self.choices.add_text(choice, text);
        }
    }

    /// Adds reasoning, which is output and not text. Empty text is ignored.
    pub fn reasoning(&mut self, text: &str) {
        if !text.is_empty() {
            self.first(|report| &mut report.time_to_first_reasoning);
            self.event_output.add(OutputKind::Reasoning, text);
            self.count_hidden(text);
        }
    }

    /// Adds a part of a tool call, which is output and not text. It may be empty.
    pub fn tool_call(&mut self, text: &str) {
        self.first(|report| &mut report.time_to_first_tool_call);
        self.event_output.add(OutputKind::ToolCall, text);
        self.count_hidden(text);
    }

    /// Adds output that is neither text nor reasoning nor a tool call: a refusal. Empty text is ignored.
    pub fn hidden(&mut self, text: &str) {
        if !text.is_empty() {
            self.event_output.add(OutputKind::Hidden, text);
            self.count_hidden(text);
        }
    }

    /// Sets why a choice ended. The last reason counts; an empty one is ignored.
    pub fn finish_reason(&mut self, choice: u32, reason: &str) {
        if !reason.is_empty() {
            self.event_output.note_other();
            self.choices.set_finish_reason(choice, reason, bounded);
        }
    }

    /// Announces a choice, with or without text: [`is_finished`](Self::is_finished) waits for it.
    pub fn begin_choice(&mut self, choice: u32) {
        if self.choices.begin(choice) {
            self.event_output.note_other();
        }
    }

    /// Whether the first choice, and every other one that has come, has ended.
    pub fn is_finished(&self) -> bool {
        self.choices.are_finished()
    }

    /// Sets the counts as they stand now, in place of all earlier ones. `raw` is the provider's own object.
    ///
    /// The basis of `usage` is ignored: the record works it out. A usage without any count replaces none.
    pub fn usage(&mut self, usage: Usage, raw: &str) {
        self.event_output.note_other();
        if self.has_usage() && !usage.has_counts() {
            return;
        }
        self.raw.clear();
        if raw.len() <= MAX_RAW {
            self.raw.push_str(raw);
        }
        self.usage = Some(usage);
    }

    /// Marks the counts as the protocol's final report.
    pub fn usage_is_final(&mut self) {
        self.event_output.note_other();
        self.is_final = true;
    }

    /// Sets the error that the provider sent inside the stream. The first one counts.
    pub fn error(&mut self, error: InBandError) {
        self.event_output.note_other();
        let raw = error.raw.filter(|raw| raw.len() <= MAX_RAW);
        self.report.error.get_or_insert(InBandError { raw, ..error });
    }

    /// Stops the meter, and sets why. The first reason counts.
    pub fn incomplete(&mut self, reason: Incomplete) {
        self.report.incomplete.get_or_insert(reason);
    }
}

/// What the built-in meter uses beyond that.
impl ReportBuilder {
    pub(crate) fn new(policy: TextPolicy) -> Self {
        Self {
            report: LlmReport::default(),
            choices: Choices::new(policy),
            policy,
            hidden: 0,
            usage: None,
            raw: String::new(),
            is_final: false,
            now: Duration::ZERO,
            last_text: None,
            text_event: 0,
            event_output: EventOutput::default(),
        }
    }

    pub(crate) fn set_now(&mut self, now: Duration) {
        self.now = now;
    }

    /// What to look for in the next event: without texts, only what comes first, and a template for later events.
    pub(crate) fn interest(&self) -> Interest {
        let wants_all = self.wants_text() || self.event_output.is_sampling();
        Interest {
            text: wants_all || self.report.time_to_first_text.is_none(),
            reasoning: wants_all || self.report.time_to_first_reasoning.is_none(),
            tool_call: wants_all || self.report.time_to_first_tool_call.is_none(),
            model: self.report.response_model.is_none(),
        }
    }

    /// Starts an event.
    pub(crate) fn begin_event(&mut self) {
        self.event_output.begin();
    }

    /// Notes that the current event says more than one output.
    pub(crate) fn note_other(&mut self) {
        self.event_output.note_other();
    }

    /// The kind of the current event's one output and its place in `event`; `None` if the event says anything else.
    pub(crate) fn sole_output(&self, event: &[u8]) -> Option<(OutputKind, Range<usize>)> {
        self.event_output.sole_output(event)
    }

    /// Notes that later events have a template.
    pub(crate) fn template_is_known(&mut self) {
        self.event_output.stop_sampling();
    }

    /// Adds output of any kind.
    pub(crate) fn output(&mut self, kind: OutputKind, text: &str) {
        match kind {
            OutputKind::Text(choice) => self.text(choice, text),
            OutputKind::Reasoning => self.reasoning(text),
            OutputKind::ToolCall => self.tool_call(text),
            OutputKind::Hidden => self.hidden(text),
        }
    }

    /// Sets the counts of all messages so far, as [`event`](Self::event) would have counted them.
    pub(crate) fn messages(&mut self, messages: u64, bytes: u64, longest: u64) {
        if messages > 0 {
            self.report.time_to_first_event.get_or_insert(self.now);
        }
        self.report.events = messages;
        self.report.event_bytes = bytes;
        self.report.longest_event = longest;
    }

    /// Whether any counts were reported.
    pub(crate) fn has_usage(&self) -> bool {
        self.usage.as_ref().is_some_and(Usage::has_counts)
    }

    /// Bytes of text that are kept.
    pub(crate) fn held(&self) -> usize {
        self.choices.held()
    }

    /// Drops all texts, and keeps no more.
    pub(crate) fn drop_texts(&mut self) {
        self.choices.drop_texts();
    }

    /// Why the meter stopped reading, if it did.
    pub(crate) fn stopped(&self) -> Option<&Incomplete> {
        self.report.incomplete.as_ref()
    }

    /// The error that the provider sent inside the stream.
    pub(crate) fn in_band(&self) -> Option<&InBandError> {
        self.report.error.as_ref()
    }
}

/// What becomes of it when the stream is over.
impl ReportBuilder {
    /// Everything but texts and choices.
    pub(crate) fn known(&self) -> &LlmReport {
        &self.report
    }

    /// The report. `terminated` is the meter's word on the protocol's end.
    pub(crate) fn to_report(&self, terminated: Option<bool>) -> LlmReport {
        let keeps = matches!(self.policy, TextPolicy::Keep(_));
        // The text of a stream whose protocol is unknown is unknown, too; that of an empty stream is empty.
        let is_empty = self.report.events == 0 && self.report.incomplete.is_none();
        let has_text = self.wants_text() && (self.report.protocol.is_some() || is_empty);
        let choices = self.choices.to_report(self.policy);
        let first = choices.iter().find(|choice| choice.index == 0);
        LlmReport {
            finish_reasons: choices.iter().filter_map(|choice| choice.finish_reason.clone()).collect(),
            text: (has_text && keeps)
                .then(|| first.and_then(|choice| choice.text.clone()).unwrap_or_default()),
            text_len: has_text.then(|| first.and_then(|choice| choice.text_len).unwrap_or(0)),
            text_chunks: has_text.then(|| self.report.text_chunks.unwrap_or(0)),
            choices,
            terminated,
            ..self.report.clone()
        }
    }

    /// The counts as reported. `has_ended` says that the stream ended by itself: that makes the last report of a
    /// protocol without an end marker its final one.
    pub(crate) fn to_usage(&self, has_ended: bool) -> Usage {
        let Some(usage) = &self.usage else {
            return Usage::default();
        };
        let basis = if !usage.has_counts() {
            UsageBasis::Absent
        } else if self.is_final || has_ended {
            UsageBasis::Reported
        } else {
            UsageBasis::Partial
        };
        let raw = (!self.raw.is_empty()).then(|| self.raw.as_str().into());
        let total =
            usage.total_tokens.or_else(|| Some(usage.input_tokens?.saturating_add(usage.output_tokens?)));
        Usage { basis, raw, total_tokens: total, ..usage.clone() }
    }

    /// The basis for an estimate of the output: texts that are kept, the length of all text, and the length of all
    /// other output, both in characters.
    pub(crate) fn all_output(&self) -> (impl Iterator<Item = &str>, u64, u64) {
        (self.choices.texts(), self.choices.len(), self.hidden)
    }
}

impl ReportBuilder {
    /// Sets the time of the first text, reasoning, or tool call.
    fn first(&mut self, time: fn(&mut LlmReport) -> &mut Option<Duration>) {
        let time = time(&mut self.report);
        if time.is_none() {
            *time = Some(self.now);
            self.event_output.start_sampling();
        }
    }

    /// Counts an event that holds text. Several parts of one event, or several choices, are one chunk.
    fn text_chunk(&mut self) {
        let event = self.report.events;
        // A meter that reports no events has one chunk for each call.
        if event > 0 && mem::replace(&mut self.text_event, event) == event {
            return;
        }
        self.report.text_chunks = Some(self.report.text_chunks.unwrap_or(0) + 1);
        if let Some(last) = self.last_text.replace(self.now) {
            let gap = self.now.saturating_sub(last);
            self.report.longest_text_gap = self.report.longest_text_gap.max(Some(gap));
        }
    }

    /// Counts output that is not text.
    fn count_hidden(&mut self, text: &str) {
        if self.wants_text() {
            self.hidden += text.chars().count() as u64;
        }
    }
}

fn bounded(word: &str) -> Box<str> {
    char_boundary::cut(word, MAX_WORD).into()
}
