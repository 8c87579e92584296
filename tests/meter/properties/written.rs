//! Ways to write JSON, and to frame events of it.

use std::io;

use proptest::prelude::*;
use proptest::sample::select;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};
use serde_json::{Serializer, Value};

/// Stands for half a surrogate pair in the texts here; what is written is the escape.
pub(crate) const HALF: char = '\u{e000}';

/// How JSON is written.
#[derive(Clone, Debug)]
pub(crate) struct Style {
    layout: Layout,
    /// Of all that is not ASCII.
    escapes: bool,
    /// Of the first letters of keys.
    escaped_keys: bool,
    /// Where the fields of an object begin.
    turn: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    Compact,
    Spaced,
    Pretty,
}

/// As Python writes it.
struct Spaces;

impl Formatter for Spaces {
    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

impl Style {
    pub(crate) fn write(&self, value: &Value) -> String {
        let value = self.turned(value.clone());
        let mut json = Vec::new();
        let done = match self.layout {
            Layout::Compact => value.serialize(&mut Serializer::with_formatter(&mut json, CompactFormatter)),
            Layout::Spaced => value.serialize(&mut Serializer::with_formatter(&mut json, Spaces)),
            Layout::Pretty => {
                value.serialize(&mut Serializer::with_formatter(&mut json, PrettyFormatter::new()))
            }
        };
        done.expect("a vector takes all");
        let json = String::from_utf8(json).expect("JSON is UTF-8");
        let escaped = |char: char| -> String {
            char.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
        };
        let json: String = json
            .chars()
            .map(|char| match char {
                HALF => "\\ud83d".to_owned(),
                char if self.escapes && !char.is_ascii() => escaped(char),
                char => char.to_string(),
            })
            .collect();
        if !self.escaped_keys {
            return json;
        }
        // A text that holds one of these has a backslash before its quotes.
        let keys = ["usage", "finish_reason", "stop_reason", "content", "text", "error", "done", "type"];
        keys.into_iter().fold(json, |json, key| {
            let (first, rest) = key.split_at(1);
            json.replace(
                &format!("\"{key}\""),
                &format!("\"{}{rest}\"", escaped(first.chars().next().unwrap_or(' '))),
            )
        })
    }

    /// The fields in another order, at every depth.
    fn turned(&self, value: Value) -> Value {
        match value {
            Value::Array(values) => values.into_iter().map(|value| self.turned(value)).collect(),
            Value::Object(fields) => {
                let mut fields: Vec<_> =
                    fields.into_iter().map(|(key, value)| (key, self.turned(value))).collect();
                let turn = self.turn % fields.len().max(1);
                fields.rotate_left(turn);
                Value::Object(fields.into_iter().collect())
            }
            value => value,
        }
    }
}

pub(crate) fn styles() -> impl Strategy<Value = Style> {
    let layouts = select(vec![Layout::Compact, Layout::Spaced, Layout::Pretty]);
    (layouts, any::<bool>(), prop::bool::weighted(0.2), 0..4_usize)
        .prop_map(|(layout, escapes, escaped_keys, turn)| Style { layout, escapes, escaped_keys, turn })
}

/// How events are framed.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    end: &'static str,
    space: &'static str,
    between: &'static str,
    is_named: bool,
    bom: &'static str,
}

pub(crate) fn frames() -> impl Strategy<Value = Frame> {
    let ends = select(vec!["\n", "\r\n", "\r"]);
    let between = select(vec!["", ": ping", "id: 7", "retry: 10", "event: ping"]);
    (ends, select(vec!["", " "]), between, any::<bool>(), select(vec!["", "", "\u{feff}"]))
        .prop_map(|(end, space, between, is_named, bom)| Frame { end, space, between, is_named, bom })
}

impl Frame {
    pub(crate) fn events(&self, events: &[Value], style: &Style, last: &str) -> Vec<u8> {
        let Self { end, space, between, .. } = self;
        let mut body = self.bom.to_owned();
        for event in events {
            if let (true, Some(name)) = (self.is_named, event["type"].as_str()) {
                body += &format!("event:{space}{name}{end}");
            }
            for line in style.write(event).lines() {
                body += &format!("data:{space}{line}{end}");
            }
            body += &format!("{end}{between}{end}{end}");
        }
        (body + last).into_bytes()
    }
}
