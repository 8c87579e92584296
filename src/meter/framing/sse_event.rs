//! One server-sent event, and the fields that it consists of.

use std::borrow::Cow;

/// One server-sent event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SseEvent<'a> {
    pub(super) name: &'a [u8],
    pub(super) data: &'a [u8],
    pub(super) id: &'a [u8],
}

/// A field of the standard, with its value.
pub(super) enum SseField<'a> {
    /// The empty line, which ends an event.
    End,
    Data(&'a [u8]),
    Event(&'a [u8]),
    Id(&'a [u8]),
    Retry(&'a [u8]),
    Comment,
    Stray,
}

// === impl SseEvent ===

impl<'a> SseEvent<'a> {
    /// The type of the event; `message` if none was sent.
    pub fn name(&self) -> Cow<'a, str> {
        if self.name.is_empty() { Cow::Borrowed("message") } else { String::from_utf8_lossy(self.name) }
    }

    /// The data as it was sent, its lines joined by LF.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The data as text, with U+FFFD for invalid UTF-8.
    pub fn data_str(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.data)
    }

    /// The last event id that was sent, with this event or before it; empty if there was none.
    pub fn id(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.id)
    }

    /// The type of the event as it was sent; empty if none was.
    pub(crate) fn raw_name(&self) -> &'a [u8] {
        self.name
    }
}

// === impl SseField ===

impl<'a> SseField<'a> {
    #[inline]
    pub(super) fn of(line: &'a [u8]) -> Self {
        if let Some(value) = line.strip_prefix(b"data:") {
            return Self::Data(without_space(value));
        }
        if line.is_empty() {
            return Self::End;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = match colon {
            Some(0) => return Self::Comment,
            Some(colon) => (&line[..colon], without_space(&line[colon + 1..])),
            None => (line, &[][..]),
        };
        match name {
            b"data" => Self::Data(value),
            b"event" => Self::Event(value),
            b"id" => Self::Id(value),
            b"retry" => Self::Retry(value),
            _ => Self::Stray,
        }
    }
}

/// Drops one leading space of a value.
fn without_space(value: &[u8]) -> &[u8] {
    value.strip_prefix(b" ").unwrap_or(value)
}
