//! Decoders: the same answer however the bytes are cut, that of a naive reader of the whole, and bounded buffers.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;
use streaming_accumulator::meter::{EventStreamError, EventStreamValue};

use crate::properties_reference::{
    event_stream, grpc, grpc_reference, json, json_reference, ndjson, ndjson_reference, same_however_cut,
    sealed, sse, sse_reference, written_header,
};

/// No input comes near it.
const UNBOUNDED: usize = 1024 * 1024;

/// Lengths of pieces.
pub(crate) fn cuts() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![0..4_usize, 0..60_usize], 1..4)
}

/// Bytes among which those that mean something to a decoder are frequent.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let telling = b"\r\n: {}[]\",\\d\0\xEF\xBB\xBF".as_slice();
    vec(prop_oneof![select(telling), any::<u8>()], 0..200)
}

/// A text without line ends.
fn word() -> impl Strategy<Value = String> {
    prop_oneof!["", " ?[a-z0-9:\\\\\" é😀\u{fffd}]{0,12}", Just("\0".to_owned())]
}

/// A line of an event stream, its end excluded.
fn sse_line() -> impl Strategy<Value = String> {
    let fields = vec!["data", "data", "event", "id", "retry", "", "data ", "Data", "error", "\u{feff}data"];
    let field = (select(fields), select(vec![":", ": ", ":  ", ""]), prop_oneof![word(), "[0-9]{1,21}"]);
    prop_oneof![
        4 => field.prop_map(|(name, colon, value)| {
            if colon.is_empty() { name.to_owned() } else { format!("{name}{colon}{value}") }
        }),
        2 => Just(String::new()),
    ]
}

fn sse_text() -> impl Strategy<Value = Vec<u8>> {
    let bom = select(vec!["", "\u{feff}", "\u{feff}\u{feff}"]);
    let lines = vec((sse_line(), select(vec!["\n", "\r", "\r\n", "\n\n"])), 0..20);
    (bom, lines, sse_line()).prop_map(|(bom, lines, rest)| {
        let lines: String = lines.into_iter().map(|(line, end)| line + end).collect();
        (bom.to_owned() + &lines + &rest).into_bytes()
    })
}

/// Any JSON value.
pub(crate) fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z{}\\[\\]\"\\\\é😀 ]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec(("[a-z\"}\\\\]{0,4}", inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn written(value: &Value, is_pretty: bool) -> String {
    if is_pretty { format!("{value:#}") } else { value.to_string() }
}

/// A header of an AWS event stream, as it is written.
fn header() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0..2_u8).prop_map(|kind| written_header("flag", kind, EventStreamValue::Bool(kind == 0))),
        (2..6_u8, any::<i64>()).prop_map(|(kind, value)| {
            written_header(&format!("number-{kind}"), kind, EventStreamValue::Integer(value))
        }),
        vec(any::<u8>(), 0..20).prop_map(|bytes| written_header("bytes", 6, EventStreamValue::Bytes(&bytes))),
        word().prop_map(|text| written_header(":event-type", 7, EventStreamValue::Text(&text))),
        any::<i64>().prop_map(|time| written_header("time", 8, EventStreamValue::Timestamp(time))),
        any::<[u8; 16]>().prop_map(|uuid| written_header("é", 9, EventStreamValue::Uuid(uuid))),
    ]
}

/// Messages of an AWS event stream: those whose headers are all of different names.
fn messages() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let headers = vec(header(), 0..4).prop_map(|mut headers| {
        headers.sort();
        headers.dedup_by(|a, b| a[..=usize::from(a[0])] == b[..=usize::from(b[0])]);
        headers.concat()
    });
    let message =
        (headers, vec(any::<u8>(), 0..50)).prop_map(|(headers, payload)| sealed(&headers, &payload));
    vec(message, 0..5)
}

/// A message of gRPC, or trailers of gRPC-Web.
fn grpc_message() -> impl Strategy<Value = Vec<u8>> {
    (select(vec![0_u8, 1, 0x80, 0x81, 2]), vec(any::<u8>(), 0..40))
        .prop_map(|(flags, message)| [&[flags], &(message.len() as u32).to_be_bytes()[..], &message].concat())
}

proptest! {
    #[test]
    fn events_are_those_of_the_standards_algorithm(
        body in prop_oneof![sse_text(), bytes()],
        cuts in cuts(),
    ) {
        let answer = same_however_cut(&body, &cuts, |pieces| sse(UNBOUNDED, pieces));
        prop_assert_eq!(answer, sse_reference(&body));
    }

    #[test]
    fn events_before_an_overlong_one_are_read(
        body in prop_oneof![sse_text(), bytes()],
        cuts in cuts(),
        max in 0..40_usize,
    ) {
        let answer = same_however_cut(&body, &cuts, |pieces| sse(max, pieces));
        let wanted = sse_reference(&body);
        // A BOM is not part of a line.
        let longest = body.split(|byte| b"\r\n".contains(byte)).map(<[u8]>::len).max().unwrap_or(0);
        prop_assert!(answer.has_overflowed || longest <= max + 3);
        if answer.has_overflowed {
            prop_assert!(wanted.events.starts_with(&answer.events));
            prop_assert_eq!(answer.last, None);
        } else {
            prop_assert_eq!(answer, wanted);
        }
    }

    #[test]
    fn lines_are_those_between_line_feeds(
        body in prop_oneof![vec(values(), 0..6).prop_map(|values| {
            values.iter().map(Value::to_string).collect::<Vec<_>>().join("\r\n").into_bytes()
        }), bytes()],
        cuts in cuts(),
        max in select(vec![UNBOUNDED, 200, 30, 8]),
    ) {
        let answer = same_however_cut(&body, &cuts, |pieces| ndjson(max, pieces));
        let wanted = ndjson_reference(&body);
        let longest = body.split(|byte| *byte == b'\n').map(<[u8]>::len).max().unwrap_or(0);
        prop_assert_eq!(answer.has_overflowed, longest > max);
        if answer.has_overflowed {
            prop_assert!(wanted.lines.starts_with(&answer.lines));
        } else {
            prop_assert_eq!(answer, wanted);
        }
    }

    #[test]
    fn values_are_array_elements_or_the_whole(
        value in values(),
        is_pretty in any::<bool>(),
        cuts in cuts(),
        max in select(vec![UNBOUNDED, 200, 30, 8]),
    ) {
        let body = written(&value, is_pretty);
        let answer = same_however_cut(body.as_bytes(), &cuts, |pieces| json(max, pieces));
        let wanted = json_reference(body.as_bytes()).expect("JSON");
        let found: Vec<Value> =
            answer.values.iter().map(|value| serde_json::from_slice(value).expect("JSON")).collect();
        if answer.has_overflowed {
            prop_assert!(max < UNBOUNDED && wanted.starts_with(&found));
        } else {
            prop_assert_eq!(found, wanted);
            prop_assert_eq!((answer.is_array, answer.is_closed), (value.is_array(), value.is_array()));
        }
    }

    #[test]
    fn cuts_do_not_change_the_values(
        body in bytes(),
        cuts in cuts(),
        max in select(vec![UNBOUNDED, 30, 8]),
    ) {
        let answer = same_however_cut(&body, &cuts, |pieces| json(max, pieces));
        prop_assert!(answer.values.iter().all(|value| value.len() <= max));
    }

    #[test]
    fn event_stream_messages_are_read_as_written(
        messages in messages(),
        rest in 0..20_usize,
        cuts in cuts(),
        max in select(vec![UNBOUNDED, 60]),
    ) {
        let mut body = messages.concat();
        let whole = body.len();
        body.extend(&sealed(b"", b"never whole")[..rest]);
        let answer = same_however_cut(&body, &cuts, |pieces| event_stream(max, &body, pieces));
        let fit: Vec<u8> = messages.iter().take_while(|message| message.len() <= max).flatten().copied().collect();
        let is_long = fit.len() < whole;
        prop_assert_eq!(answer.written, fit);
        prop_assert_eq!(answer.error.is_some(), is_long);
        prop_assert_eq!(answer.is_cut, !is_long && rest > 0);
    }

    #[test]
    fn event_stream_breaks_at_the_wrong_bit(
        messages in messages().prop_filter("a message", |messages| !messages.is_empty()),
        at in any::<prop::sample::Index>(),
        bit in 0..8,
        cuts in cuts(),
    ) {
        let mut body = messages.concat();
        let at = at.index(body.len());
        body[at] ^= 1_u8 << bit;
        let answer = same_however_cut(&body, &cuts, |pieces| event_stream(UNBOUNDED, &body, pieces));
        prop_assert_eq!(answer.error, Some(EventStreamError::Checksum));
        prop_assert!(answer.written.len() <= at && body.starts_with(&answer.written));
    }

    #[test]
    fn any_bytes_are_an_event_stream_or_not(body in bytes(), cuts in cuts(), max in 0..60_usize) {
        let answer = same_however_cut(&body, &cuts, |pieces| event_stream(max, &body, pieces));
        prop_assert!(answer.error.is_some() || answer.is_cut || answer.written.len() == body.len());
    }

    #[test]
    fn grpc_messages_are_counted_as_written(
        messages in vec(grpc_message(), 0..6),
        rest in bytes(),
        cuts in cuts(),
    ) {
        let body = [messages.concat(), rest].concat();
        prop_assert_eq!(same_however_cut(&body, &cuts, grpc), grpc_reference(&body));
    }
}
