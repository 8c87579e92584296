//! The choices of a response: their texts and why they ended.

use super::text_policy::TextPolicy;
use crate::meter::char_boundary;
use crate::meter::report::LlmChoice;

/// More choices than any provider serves for one request; higher numbers of them are not believed.
const MAX_CHOICES: usize = 128;

/// The choices that have come.
#[derive(Debug)]
pub(super) struct Choices {
    choices: Vec<ChoiceBuilder>,
    /// Bytes of text that may still be kept.
    room: usize,
}

#[derive(Debug, Default)]
struct ChoiceBuilder {
    index: u32,
    text: String,
    len: u64,
    finish_reason: Option<Box<str>>,
}

// === impl Choices ===

impl Choices {
    pub(super) fn new(policy: TextPolicy) -> Self {
        let room = if let TextPolicy::Keep(max) = policy { max } else { 0 };
        Self { choices: Vec::new(), room }
    }

    /// Adds text to a choice, and keeps as much of it as there is room for.
    pub(super) fn add_text(&mut self, index: u32, text: &str) {
        let kept = char_boundary::cut(text, self.room);
        self.room = if kept.len() < text.len() { 0 } else { self.room - kept.len() };
        if let Some(choice) = self.choice(index) {
            choice.len += text.chars().count() as u64;
            choice.text.push_str(kept);
        }
    }

    pub(super) fn set_finish_reason(&mut self, index: u32, reason: &str, bound: fn(&str) -> Box<str>) {
        if let Some(choice) = self.choice(index)
            && choice.finish_reason.as_deref() != Some(reason)
        {
            choice.finish_reason = Some(bound(reason));
        }
    }

    /// Adds a choice; false if it was there.
    pub(super) fn begin(&mut self, index: u32) -> bool {
        let known = self.choices.len();
        self.choice(index);
        self.choices.len() > known
    }

    /// Whether the first choice, and every other one that has come, has ended.
    pub(super) fn are_finished(&self) -> bool {
        let is_first_there = self.choices.iter().any(|choice| choice.index == 0);
        is_first_there && self.choices.iter().all(|choice| choice.finish_reason.is_some())
    }

    /// Bytes of text that are kept.
    pub(super) fn held(&self) -> usize {
        self.choices.iter().map(|choice| choice.text.capacity()).sum()
    }

    /// Drops all texts, and keeps no more.
    pub(super) fn drop_texts(&mut self) {
        self.room = 0;
        for choice in &mut self.choices {
            choice.text = String::new();
        }
    }

    /// The texts that are kept.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.choices.iter().map(|choice| choice.text.as_str())
    }

    /// The length of all texts, kept or not, in characters.
    pub(super) fn len(&self) -> u64 {
        self.choices.iter().map(|choice| choice.len).sum()
    }

    /// All choices by index, as the report shows them.
    pub(super) fn to_report(&self, policy: TextPolicy) -> Vec<LlmChoice> {
        let mut choices: Vec<&ChoiceBuilder> = self.choices.iter().collect();
        choices.sort_by_key(|choice| choice.index);
        let keeps = matches!(policy, TextPolicy::Keep(_));
        let counts = policy != TextPolicy::Skip;
        let report = choices.into_iter().map(|choice| LlmChoice {
            index: choice.index,
            text: keeps.then(|| choice.text.as_str().into()),
            text_len: counts.then_some(choice.len),
            finish_reason: choice.finish_reason.clone(),
        });
        report.collect()
    }

    fn choice(&mut self, index: u32) -> Option<&mut ChoiceBuilder> {
        let place = self.choices.iter().position(|choice| choice.index == index);
        if place.is_none() && self.choices.len() < MAX_CHOICES {
            self.choices.push(ChoiceBuilder { index, ..ChoiceBuilder::default() });
        }
        match place {
            Some(place) => self.choices.get_mut(place),
            None => self.choices.last_mut().filter(|choice| choice.index == index),
        }
    }
}
