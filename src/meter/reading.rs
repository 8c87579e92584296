//! What a meter writes down while it reads.

use std::borrow::Cow;
use std::mem;
use std::ops::Range;
use std::time::Duration;

use crate::meter::report::{InBandError, Incomplete, LlmChoice, LlmReport, Protocol};
use crate::meter::usage::{Usage, UsageBasis};

/// More choices than any provider serves for one request; the numbers of further ones are not believed.
const MAX_CHOICES: usize = 128;

/// Longer names of models and reasons are cut: nobody sends them.
const MAX_WORD: usize = 256;

/// Longer usage objects and errors are not kept as they were sent.
const MAX_RAW: usize = 64 * 1024;

/// So many pieces of output may show the shape of an event, the first one among them.
const CHANCES: u8 = 3;

/// What a meter does with the texts of a stream.
///
/// To look at text, the JSON of nearly every event has to be parsed. Without it most events are told by a
/// few substring searches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextPolicy {
    /// Texts are not looked at, once the first one was seen.
    Skip,
    /// Texts are counted, not kept.
    Count,
    /// As `Count`, and so many bytes of them are kept.
    Keep(usize),
}

/// What a [`Meter`](super::Meter) has found so far: the meter writes it, the record shows it.
///
/// A meter says what it sees in the words below; what follows from that (first times, gaps, lengths, what is
/// kept, which report counts) is worked out here, alike for all meters.
#[derive(Debug)]
pub struct Reading {
    /// What is known for sure; texts and choices are added at the end.
    report: LlmReport,
    choices: Vec<Choice>,
    policy: TextPolicy,
    /// Bytes of text that may still be kept.
    room: usize,
    /// Characters of reasoning, refusals and tool calls.
    hidden: u64,
    usage: Option<Usage>,
    /// The provider's own object, of `usage`; apart, so that its room is used again.
    raw: String,
    is_final: bool,
    now: Duration,
    last_text: Option<Duration>,
    /// The number of the event that held it.
    text_event: u64,
    /// Of the event that is read now.
    effect: Effect,
    /// In so many more pieces of output the shape of their events is looked for, though no text is wanted.
    chances: u8,
}

/// What a piece of output is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Visible text of this choice.
    Text(u32),
    Reasoning,
    ToolCall,
    #[default]
    Hidden,
}

/// What an event has come to so far.
#[derive(Clone, Copy, Debug, Default)]
enum Effect {
    #[default]
    Nothing,
    /// One piece of output, by its place in memory.
    Piece {
        piece: Piece,
        start: usize,
        len: usize,
    },
    Other,
}

#[derive(Debug, Default)]
struct Choice {
    index: u32,
    text: String,
    len: u64,
    finish_reason: Option<Box<str>>,
}

// === impl Reading ===

impl Reading {
    pub(crate) fn new(policy: TextPolicy) -> Self {
        let room = if let TextPolicy::Keep(max) = policy { max } else { 0 };
        Self {
            report: LlmReport::default(),
            choices: Vec::new(),
            policy,
            room,
            hidden: 0,
            usage: None,
            raw: String::new(),
            is_final: false,
            now: Duration::ZERO,
            last_text: None,
            text_event: 0,
            effect: Effect::Nothing,
            chances: 0,
        }
    }

    /// An event begins.
    pub(crate) fn begin(&mut self) {
        self.effect = Effect::Nothing;
    }

    /// The event has come to more than one piece of output.
    pub(crate) fn note(&mut self) {
        self.effect = Effect::Other;
    }

    /// The shape of the event is known now.
    pub(crate) fn shaped(&mut self) {
        self.chances = 0;
    }

    /// What piece of output `event` was and where in it that stands, if it was one and nothing else.
    pub(crate) fn only_piece(&self, event: &[u8]) -> Option<(Piece, Range<usize>)> {
        let Effect::Piece { piece, start, len } = self.effect else {
            return None;
        };
        // A text with escapes was written anew, and stands elsewhere.
        let start = start.checked_sub(event.as_ptr() as usize)?;
        let place = start..start.checked_add(len)?;
        event.get(place.clone()).map(|_| (piece, place))
    }

    /// The event is one piece of output.
    pub(crate) fn piece(&mut self, piece: Piece, text: &str) {
        match piece {
            Piece::Text(choice) => self.text(choice, text),
            Piece::Reasoning => self.reasoning(text),
            Piece::ToolCall => self.tool_call(text),
            Piece::Hidden => self.hidden(text),
        }
    }

    /// The event has come to one more piece of output.
    fn add(&mut self, piece: Piece, text: &str) {
        self.effect = match self.effect {
            Effect::Nothing => Effect::Piece { piece, start: text.as_ptr() as usize, len: text.len() },
            _ => Effect::Other,
        };
        self.chances = self.chances.saturating_sub(1);
    }

    /// The first text, reasoning, or tool call. Its event often has more to say, unlike those that follow.
    fn first(&mut self, time: fn(&mut LlmReport) -> &mut Option<Duration>) {
        let time = time(&mut self.report);
        if time.is_none() {
            *time = Some(self.now);
            self.chances = CHANCES;
        }
    }

    /// Counts what is no text.
    fn count(&mut self, text: &str) {
        if self.wants_text() {
            self.hidden += text.chars().count() as u64;
        }
    }

    /// The time of the bytes that the meter is fed with now, from the stream's opening.
    pub fn now(&self) -> Duration {
        self.now
    }

    pub(crate) fn set_now(&mut self, now: Duration) {
        self.now = now;
    }

    /// Whether texts are of interest. Where they are not, a meter may spare itself the trouble once it has
    /// reported one.
    pub fn wants_text(&self) -> bool {
        self.policy != TextPolicy::Skip
    }

    /// What is still looked at: where no text is wanted, only what comes first, and the shape of what follows it.
    pub(crate) fn awaits(&self) -> Awaits {
        let wants_all = self.wants_text() || self.chances > 0;
        Awaits {
            text: wants_all || self.report.time_to_first_text.is_none(),
            reasoning: wants_all || self.report.time_to_first_reasoning.is_none(),
            tool_call: wants_all || self.report.time_to_first_tool_call.is_none(),
            model: self.report.response_model.is_none(),
        }
    }

    /// The protocol is this one.
    pub fn protocol(&mut self, protocol: Protocol) {
        self.report.protocol = Some(protocol);
    }

    /// The provider is this one, unless that is known already.
    pub fn provider(&mut self, provider: impl Into<Cow<'static, str>>) {
        self.report.provider.get_or_insert_with(|| provider.into());
    }

    /// The model that was asked for.
    pub fn request_model(&mut self, model: &str) {
        if !model.is_empty() {
            self.report.request_model = Some(bounded(model));
        }
    }

    /// The response names its model. The first name that is not empty stands.
    pub fn model(&mut self, model: &str) {
        if self.report.response_model.is_none() {
            self.latest_model(model);
        }
    }

    /// The response names its model, and does so better than before.
    pub fn latest_model(&mut self, model: &str) {
        if !model.is_empty() && self.report.response_model.as_deref() != Some(model) {
            self.note();
            self.report.response_model = Some(bounded(model));
        }
    }

    /// An event of the protocol, or a message, of so many bytes.
    pub fn event(&mut self, bytes: usize) {
        self.report.time_to_first_event.get_or_insert(self.now);
        self.report.events += 1;
        self.report.event_bytes += bytes as u64;
        self.report.longest_event = self.report.longest_event.max(bytes as u64);
    }

    /// As [`event`](Self::event), of all messages so far.
    pub(crate) fn messages(&mut self, messages: u64, bytes: u64, longest: u64) {
        if messages > 0 {
            self.report.time_to_first_event.get_or_insert(self.now);
        }
        self.report.events = messages;
        self.report.event_bytes = bytes;
        self.report.longest_event = longest;
    }

    /// More visible text of a choice. Empty text is none.
    pub fn text(&mut self, choice: u32, text: &str) {
        if text.is_empty() {
            return;
        }
        self.first(|report| &mut report.time_to_first_text);
        self.add(Piece::Text(choice), text);
        if !self.wants_text() {
            return;
        }
        self.text_chunk();
        let kept = &text[..text.floor_char_boundary(self.room)];
        self.room = if kept.len() < text.len() { 0 } else { self.room - kept.len() };
        if let Some(choice) = self.choice(choice) {
            choice.len += text.chars().count() as u64;
            choice.text.push_str(kept);
        }
    }

    /// An event holds text. Several parts of one event, or several choices, are one chunk.
    fn text_chunk(&mut self) {
        let event = self.report.events;
        // A meter that reports no events has its texts told apart by its calls.
        if event > 0 && mem::replace(&mut self.text_event, event) == event {
            return;
        }
        self.report.text_chunks = Some(self.report.text_chunks.unwrap_or(0) + 1);
        if let Some(last) = self.last_text.replace(self.now) {
            let gap = self.now.saturating_sub(last);
            self.report.longest_text_gap = self.report.longest_text_gap.max(Some(gap));
        }
    }

    /// Reasoning, which is output and no text.
    pub fn reasoning(&mut self, text: &str) {
        if !text.is_empty() {
            self.first(|report| &mut report.time_to_first_reasoning);
            self.add(Piece::Reasoning, text);
            self.count(text);
        }
    }

    /// A part of a tool call: what it says, which is output and no text.
    pub fn tool_call(&mut self, text: &str) {
        self.first(|report| &mut report.time_to_first_tool_call);
        self.add(Piece::ToolCall, text);
        self.count(text);
    }

    /// Output that is neither text nor reasoning nor a tool call: a refusal.
    pub fn hidden(&mut self, text: &str) {
        if !text.is_empty() {
            self.add(Piece::Hidden, text);
            self.count(text);
        }
    }

    /// Why a choice ended. The last reason that is not empty stands.
    pub fn finish_reason(&mut self, choice: u32, reason: &str) {
        if reason.is_empty() {
            return;
        }
        self.note();
        if let Some(choice) = self.choice(choice)
            && choice.finish_reason.as_deref() != Some(reason)
        {
            choice.finish_reason = Some(bounded(reason));
        }
    }

    /// A choice has come, with or without a text: [`is_finished`](Self::is_finished) waits for it.
    pub fn began(&mut self, choice: u32) {
        let known = self.choices.len();
        self.choice(choice);
        if self.choices.len() > known {
            self.note();
        }
    }

    /// Whether the first choice, and every other one that has come, has ended.
    pub fn is_finished(&self) -> bool {
        let is_first_there = self.choices.iter().any(|choice| choice.index == 0);
        is_first_there && self.choices.iter().all(|choice| choice.finish_reason.is_some())
    }

    /// The counts as they stand now, in the place of all earlier ones. `raw` is the provider's own object.
    ///
    /// The basis of `usage` is not looked at: the record works it out. One without any count replaces none.
    pub fn usage(&mut self, usage: Usage, raw: &str) {
        self.note();
        if self.has_usage() && !has_counts(&usage) {
            return;
        }
        self.raw.clear();
        if raw.len() <= MAX_RAW {
            self.raw.push_str(raw);
        }
        self.usage = Some(usage);
    }

    /// Whether any counts were reported.
    pub(crate) fn has_usage(&self) -> bool {
        self.usage.as_ref().is_some_and(has_counts)
    }

    /// The counts are the protocol's last word.
    pub fn usage_is_final(&mut self) {
        self.note();
        self.is_final = true;
    }

    /// The provider reports an error inside the stream. The first one stands.
    pub fn error(&mut self, error: InBandError) {
        self.note();
        let raw = error.raw.filter(|raw| raw.len() <= MAX_RAW);
        self.report.error.get_or_insert(InBandError { raw, ..error });
    }

    /// What the meter cannot read. The first reason stands.
    pub fn incomplete(&mut self, reason: Incomplete) {
        self.report.incomplete.get_or_insert(reason);
    }

    /// Bytes of text that are kept.
    pub(crate) fn held(&self) -> usize {
        self.choices.iter().map(|choice| choice.text.capacity()).sum()
    }

    /// No more text is kept; what there is goes.
    pub(crate) fn drop_texts(&mut self) {
        self.room = 0;
        for choice in &mut self.choices {
            choice.text = String::new();
        }
    }

    /// Why the meter stopped reading, if it did.
    pub(crate) fn stopped(&self) -> Option<&Incomplete> {
        self.report.incomplete.as_ref()
    }

    /// The error that the provider sent inside the stream.
    pub(crate) fn in_band(&self) -> Option<&InBandError> {
        self.report.error.as_ref()
    }

    /// What is known without the texts and the choices.
    pub(crate) fn known(&self) -> &LlmReport {
        &self.report
    }

    /// All but the counts, with what the meter says of the protocol's end.
    pub(crate) fn report(&self, terminated: Option<bool>) -> LlmReport {
        let mut choices: Vec<&Choice> = self.choices.iter().collect();
        choices.sort_by_key(|choice| choice.index);
        let keeps = matches!(self.policy, TextPolicy::Keep(_));
        // Of a stream whose protocol is unknown the text is, too; of one in which nothing came it is empty.
        let is_empty = self.report.events == 0 && self.report.incomplete.is_none();
        let looked = self.wants_text() && (self.report.protocol.is_some() || is_empty);
        let choices: Vec<LlmChoice> = choices
            .into_iter()
            .map(|choice| LlmChoice {
                index: choice.index,
                text: keeps.then(|| choice.text.as_str().into()),
                text_len: self.wants_text().then_some(choice.len),
                finish_reason: choice.finish_reason.clone(),
            })
            .collect();
        let first = choices.iter().find(|choice| choice.index == 0);
        LlmReport {
            finish_reasons: choices.iter().filter_map(|choice| choice.finish_reason.clone()).collect(),
            text: (looked && keeps).then(|| first.and_then(|choice| choice.text.clone()).unwrap_or_default()),
            text_len: looked.then(|| first.and_then(|choice| choice.text_len).unwrap_or(0)),
            text_chunks: looked.then(|| self.report.text_chunks.unwrap_or(0)),
            choices,
            terminated,
            ..self.report.clone()
        }
    }

    /// The counts as reported. `ended` says that the stream ended by itself, which makes the last report of a
    /// protocol without an end marker its final one.
    pub(crate) fn reported(&self, ended: bool) -> Usage {
        let Some(usage) = &self.usage else {
            return Usage::default();
        };
        let basis = if !has_counts(usage) {
            UsageBasis::Absent
        } else if self.is_final || ended {
            UsageBasis::Reported
        } else {
            UsageBasis::Partial
        };
        let raw = (!self.raw.is_empty()).then(|| self.raw.as_str().into());
        let total =
            usage.total_tokens.or_else(|| Some(usage.input_tokens?.saturating_add(usage.output_tokens?)));
        Usage { basis, raw, total_tokens: total, ..usage.clone() }
    }

    /// What was put out, for an estimate of its tokens: text that was kept, the length of all text, and the
    /// length of what is no text, in characters.
    pub(crate) fn output(&self) -> (impl Iterator<Item = &str>, u64, u64) {
        let texts = self.choices.iter().map(|choice| choice.text.as_str());
        (texts, self.choices.iter().map(|choice| choice.len).sum(), self.hidden)
    }

    fn choice(&mut self, index: u32) -> Option<&mut Choice> {
        let place = self.choices.iter().position(|choice| choice.index == index);
        if place.is_none() && self.choices.len() < MAX_CHOICES {
            self.choices.push(Choice { index, ..Choice::default() });
        }
        match place {
            Some(place) => self.choices.get_mut(place),
            None => self.choices.last_mut().filter(|choice| choice.index == index),
        }
    }
}

/// What a meter still has to look at events for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Awaits {
    pub(crate) text: bool,
    pub(crate) reasoning: bool,
    pub(crate) tool_call: bool,
    pub(crate) model: bool,
}

/// Whether `usage` says anything.
fn has_counts(usage: &Usage) -> bool {
    let parts = [usage.cached_input_tokens, usage.cache_write_input_tokens, usage.reasoning_tokens];
    let sums = [usage.input_tokens, usage.output_tokens, usage.total_tokens];
    sums.into_iter().chain(parts).any(|count| count.is_some())
}

fn bounded(word: &str) -> Box<str> {
    word[..word.floor_char_boundary(MAX_WORD)].into()
}
