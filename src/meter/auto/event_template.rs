//! A template for events that are one output and nothing else.
//!
//! Nearly all events of a stream differ only in their output (a text, or a part of a tool call) and in fields that
//! nobody reads: padding, times, running numbers. Once an event was parsed, the next one is compared with it byte
//! by byte. If they differ in those values only, parsing could yield nothing but the string in the same place, and
//! only that string is read.

use std::borrow::Cow;
use std::ops::Range;
use std::str;

use memchr::memchr2;
use memchr::memmem::Finder;
use once_cell::sync::Lazy;

use crate::meter::report_builder::OutputKind;

/// Fields that no provider reads, up to their values.
const IGNORED: [(&str, SlotKind); 5] = [
    ("\"obfuscation\":\"", SlotKind::Ignored),
    ("\"p\":\"", SlotKind::Ignored),
    ("\"created_at\":\"", SlotKind::Ignored),
    ("\"created\":", SlotKind::Number),
    ("\"sequence_number\":", SlotKind::Number),
];

/// The last event that was one output and nothing else, with slots for what may differ.
#[derive(Debug, Default)]
pub(super) struct EventTemplate {
    name: Vec<u8>,
    event: Vec<u8>,
    output: OutputKind,
    /// What may differ, in order. Empty: there is no template yet.
    slots: Vec<TemplateSlot>,
}

#[derive(Clone, Debug)]
struct TemplateSlot {
    /// Where in the event.
    place: Range<usize>,
    kind: SlotKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotKind {
    /// The inside of the string that is the output.
    Text,
    /// The inside of a string that nobody reads.
    Ignored,
    /// A whole number that nobody reads.
    Number,
}

// === impl EventTemplate ===

impl EventTemplate {
    /// The output of `event` and the place of its text, if the event fits the template.
    #[inline]
    pub(super) fn match_event(&self, name: &[u8], event: &[u8]) -> Option<(OutputKind, Range<usize>)> {
        // Some providers pad with blanks.
        let event = event.trim_ascii_end();
        let mut rest = event;
        let mut text = None;
        let mut from = 0;
        for TemplateSlot { place, kind } in &self.slots {
            rest = rest.strip_prefix(&self.event[from..place.start])?;
            let (value, after) = rest.split_at(kind.length(rest)?);
            if *kind == SlotKind::Text {
                let start = event.len() - rest.len();
                text = Some(start..start + value.len());
            }
            (rest, from) = (after, place.end);
        }
        let text = text.filter(|_| rest == &self.event[from..] && self.is_named(name))?;
        Some((self.output, text))
    }

    #[inline]
    fn is_named(&self, name: &[u8]) -> bool {
        // Most events have no name. `memcmp` of two empty slices may load with an empty mask from a dangling
        // pointer, which costs more on some processors than the rest of the event.
        if name.is_empty() { self.name.is_empty() } else { name == self.name }
    }

    /// Makes a template of `event`. Parsing has shown that it is this output, the string at `text`, and nothing else.
    pub(super) fn update(&mut self, name: &[u8], event: &[u8], output: OutputKind, text: Range<usize>) {
        static FINDERS: Lazy<Vec<(Finder<'static>, SlotKind)>> =
            Lazy::new(|| IGNORED.iter().map(|(field, kind)| (Finder::new(*field), *kind)).collect());
        let event = event.trim_ascii_end();
        self.output = output;
        self.name.clear();
        self.name.extend_from_slice(name);
        self.event.clear();
        self.event.extend_from_slice(event);
        self.slots.clear();
        for (finder, kind) in FINDERS.iter() {
            for at in finder.find_iter(event) {
                let value = at + finder.needle().len();
                // A value with escapes, or one that is not a number, must not differ.
                if let Some(length) = kind.length(&event[value..]) {
                    self.slots.push(TemplateSlot { place: value..value + length, kind: *kind });
                }
            }
        }
        self.slots.push(TemplateSlot { place: text, kind: SlotKind::Text });
        self.slots.sort_by_key(|slot| slot.place.start);
    }

    /// Bytes that the template holds.
    pub(super) fn buffered(&self) -> usize {
        self.name.capacity() + self.event.capacity()
    }
}

/// The string whose inside is `text`, a part of `event`; `None` if it is not a string.
#[inline]
pub(super) fn unescaped(event: &[u8], text: Range<usize>) -> Option<Cow<'_, str>> {
    let inside = &event[text.clone()];
    if !inside.contains(&b'\\') {
        return str::from_utf8(inside).ok().map(Cow::Borrowed);
    }
    let quoted = &event[text.start - 1..=text.end];
    serde_json::from_slice::<String>(quoted).ok().map(Cow::Owned)
}

// === impl SlotKind ===

impl SlotKind {
    /// The length of the value at the start of `rest`.
    #[inline]
    fn length(self, rest: &[u8]) -> Option<usize> {
        match self {
            Self::Text => {
                let mut end = memchr2(b'"', b'\\', rest)?;
                while rest[end] == b'\\' {
                    let after = end + 2;
                    end = after + memchr2(b'"', b'\\', rest.get(after..)?)?;
                }
                is_printable(&rest[..end]).then_some(end)
            }
            Self::Ignored => {
                let end = memchr2(b'"', b'\\', rest)?;
                (rest[end] == b'"' && is_printable(&rest[..end])).then_some(end)
            }
            Self::Number => {
                let end = rest.iter().position(|byte| !byte.is_ascii_digit())?;
                // JSON has no leading zeros.
                (end > 0 && (end == 1 || rest[0] != b'0')).then_some(end)
            }
        }
    }
}

/// Whether there are no control characters, which JSON forbids in strings.
#[inline]
fn is_printable(bytes: &[u8]) -> bool {
    // Without an early exit, which would cost more than it saves.
    bytes.iter().fold(true, |is_printable, byte| is_printable & (*byte >= b' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str =
        r#"{"id":"a","created":17,"choices":[{"delta":{"content":"Hi"}}],"obfuscation":"xyz"}"#;

    fn template() -> EventTemplate {
        let mut template = EventTemplate::default();
        let at = EVENT.find("Hi").expect("it is there");
        template.update(b"name", EVENT.as_bytes(), OutputKind::Text(3), at..at + 2);
        template
    }

    fn text(template: &EventTemplate, event: &str) -> Option<String> {
        text_of(template, event.as_bytes())
    }

    fn text_of(template: &EventTemplate, event: &[u8]) -> Option<String> {
        let (output, text) = template.match_event(b"name", event)?;
        assert_eq!(output, OutputKind::Text(3));
        unescaped(event, text).map(Cow::into_owned)
    }

    #[test]
    fn events_that_differ_in_slots_match() {
        let template = template();
        assert_eq!(text(&template, EVENT).as_deref(), Some("Hi"));
        let other = EVENT.replace("Hi", "höchst").replace("xyz", "").replace("17", "1812") + "  ";
        assert_eq!(text(&template, &other).as_deref(), Some("höchst"));
        assert_eq!(text(&template, &EVENT.replace("Hi", "")).as_deref(), Some(""));
        let escaped = EVENT.replace("Hi", r#"\"\ud83d\ude00\\\n\""#);
        assert_eq!(text(&template, &escaped).as_deref(), Some("\"😀\\\n\""));
    }

    #[test]
    fn events_that_differ_elsewhere_do_not_match() {
        let template = template();
        let others = [
            EVENT.replace("content", "refusal"),
            EVENT.replace(']', r#"],"usage":{}"#),
            EVENT.replace("Hi", r"\ud83d"),
            EVENT.replace("Hi", r"\x"),
            EVENT.replace(r#"Hi""#, r#"Hi\""#),
            EVENT.replace("Hi", "H\ni"),
            EVENT.replace("xyz", r#"x","usage":{"a":"b"#),
            EVENT.replace("17", "017"),
            EVENT.replace("17", "1.7"),
            EVENT.replace("17", ""),
            EVENT[..EVENT.len() - 1].to_owned(),
            format!("{EVENT}}}"),
            String::new(),
        ];
        for other in others {
            assert_eq!(text(&template, &other), None, "{other}");
        }
        let mut no_text = EVENT.replace("Hi", "H?").into_bytes();
        no_text[EVENT.find("Hi").expect("it is there") + 1] = 0xFF;
        assert_eq!(text_of(&template, &no_text), None);
        assert_eq!(template.match_event(b"other", EVENT.as_bytes()), None);
        assert_eq!(EventTemplate::default().match_event(b"", b""), None);
    }
}
