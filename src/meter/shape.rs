//! The shape of events that are one piece of output and nothing else.
//!
//! Nearly all events of a stream differ in that piece only, a text or a part of a tool call, and in fields that
//! nobody reads: padding, times, running numbers. Once one was parsed, the next one is compared with it byte by
//! byte. Where all but those values is the same, parsing it could yield nothing but the string that stands in the
//! same place: so only that is read.

use std::borrow::Cow;
use std::ops::Range;
use std::str;

use memchr::memchr2;
use memchr::memmem::Finder;
use once_cell::sync::Lazy;

use super::reading::Piece;

/// Fields that no dialect reads, up to their values.
const IGNORED: [(&str, Kind); 5] = [
    ("\"obfuscation\":\"", Kind::Ignored),
    ("\"p\":\"", Kind::Ignored),
    ("\"created_at\":\"", Kind::Ignored),
    ("\"created\":", Kind::Number),
    ("\"sequence_number\":", Kind::Number),
];

/// The shape of the last event that was one piece of output and nothing else.
#[derive(Debug, Default)]
pub(super) struct Shape {
    name: Vec<u8>,
    event: Vec<u8>,
    piece: Piece,
    /// What may differ, in order. Empty: nothing is known.
    holes: Vec<Hole>,
}

#[derive(Clone, Debug)]
struct Hole {
    /// Where in the event.
    place: Range<usize>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The inside of the string that is the piece.
    Text,
    /// The inside of a string that nobody reads.
    Ignored,
    /// A whole number that nobody reads.
    Number,
}

// === impl Shape ===

impl Shape {
    /// The piece of output that `event` is, if it is of this shape: where its text stands.
    #[inline]
    pub(super) fn piece(&self, name: &[u8], event: &[u8]) -> Option<(Piece, Range<usize>)> {
        // Some providers pad with blanks.
        let event = event.trim_ascii_end();
        let mut rest = event;
        let mut text = None;
        let mut from = 0;
        for Hole { place, kind } in &self.holes {
            rest = rest.strip_prefix(&self.event[from..place.start])?;
            let (value, after) = rest.split_at(kind.length(rest)?);
            if *kind == Kind::Text {
                let start = event.len() - rest.len();
                text = Some(start..start + value.len());
            }
            (rest, from) = (after, place.end);
        }
        let text = text.filter(|_| rest == &self.event[from..] && self.is_named(name))?;
        Some((self.piece, text))
    }

    #[inline]
    fn is_named(&self, name: &[u8]) -> bool {
        // Most events have no name, and comparing nothing with nothing is no matter of nothing: `memcmp` may load
        // with an empty mask from where an empty slice points, which is nowhere, and the processor takes longer to
        // find that out than for all the rest of the event.
        if name.is_empty() { self.name.is_empty() } else { name == self.name }
    }

    /// Takes the shape of `event`, of which parsing has shown that it is a `piece`, the string at `text`, and nothing
    /// else.
    pub(super) fn learn(&mut self, name: &[u8], event: &[u8], piece: Piece, text: Range<usize>) {
        static FINDERS: Lazy<Vec<(Finder<'static>, Kind)>> =
            Lazy::new(|| IGNORED.iter().map(|(field, kind)| (Finder::new(*field), *kind)).collect());
        let event = event.trim_ascii_end();
        self.piece = piece;
        self.name.clear();
        self.name.extend_from_slice(name);
        self.event.clear();
        self.event.extend_from_slice(event);
        self.holes.clear();
        for (finder, kind) in FINDERS.iter() {
            for at in finder.find_iter(event) {
                let value = at + finder.needle().len();
                // A value that has escapes, or is no number, is no hole.
                if let Some(length) = kind.length(&event[value..]) {
                    self.holes.push(Hole { place: value..value + length, kind: *kind });
                }
            }
        }
        self.holes.push(Hole { place: text, kind: Kind::Text });
        self.holes.sort_by_key(|hole| hole.place.start);
    }

    /// Bytes that are held.
    pub(super) fn buffered(&self) -> usize {
        self.name.capacity() + self.event.capacity()
    }
}

/// The string whose inside is `text`, a part of `event`; if it is one.
#[inline]
pub(super) fn unescaped(event: &[u8], text: Range<usize>) -> Option<Cow<'_, str>> {
    let inside = &event[text.clone()];
    if !inside.contains(&b'\\') {
        return str::from_utf8(inside).ok().map(Cow::Borrowed);
    }
    let quoted = &event[text.start - 1..=text.end];
    serde_json::from_slice::<String>(quoted).ok().map(Cow::Owned)
}

// === impl Kind ===

impl Kind {
    /// How long the value is with which `rest` begins.
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
                // Nor zeros before a number.
                (end > 0 && (end == 1 || rest[0] != b'0')).then_some(end)
            }
        }
    }
}

/// Whether there are no control characters, which JSON has not in strings.
#[inline]
fn is_printable(bytes: &[u8]) -> bool {
    // Without an early exit, which would cost more than it spares.
    bytes.iter().fold(true, |is_printable, byte| is_printable & (*byte >= b' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str =
        r#"{"id":"a","created":17,"choices":[{"delta":{"content":"Hi"}}],"obfuscation":"xyz"}"#;

    fn shape() -> Shape {
        let mut shape = Shape::default();
        let at = EVENT.find("Hi").expect("it is there");
        shape.learn(b"name", EVENT.as_bytes(), Piece::Text(3), at..at + 2);
        shape
    }

    fn text(shape: &Shape, event: &str) -> Option<String> {
        text_of(shape, event.as_bytes())
    }

    fn text_of(shape: &Shape, event: &[u8]) -> Option<String> {
        let (piece, text) = shape.piece(b"name", event)?;
        assert_eq!(piece, Piece::Text(3));
        unescaped(event, text).map(Cow::into_owned)
    }

    #[test]
    fn what_differs_in_text_and_ignored_values_is_of_the_same_shape() {
        let shape = shape();
        assert_eq!(text(&shape, EVENT).as_deref(), Some("Hi"));
        let other = EVENT.replace("Hi", "höchst").replace("xyz", "").replace("17", "1812") + "  ";
        assert_eq!(text(&shape, &other).as_deref(), Some("höchst"));
        assert_eq!(text(&shape, &EVENT.replace("Hi", "")).as_deref(), Some(""));
        let escaped = EVENT.replace("Hi", r#"\"\ud83d\ude00\\\n\""#);
        assert_eq!(text(&shape, &escaped).as_deref(), Some("\"😀\\\n\""));
    }

    #[test]
    fn what_differs_elsewhere_is_not() {
        let shape = shape();
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
            assert_eq!(text(&shape, &other), None, "{other}");
        }
        let mut no_text = EVENT.replace("Hi", "H?").into_bytes();
        no_text[EVENT.find("Hi").expect("it is there") + 1] = 0xFF;
        assert_eq!(text_of(&shape, &no_text), None);
        assert_eq!(shape.piece(b"other", EVENT.as_bytes()), None);
        assert_eq!(Shape::default().piece(b"", b""), None);
    }
}
