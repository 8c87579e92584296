//! What the properties and the fuzz targets have found, case by case.

use streaming_accumulator::meter::{
    EventStreamDecoder, Incomplete, JsonDecoder, MeterSet, NdjsonDecoder, Protocol, SseDecoder, TextPolicy,
};

use crate::recordings::meter_at;

/// A buffer that doubles its room would hold nearly twice the limit.
#[test]
fn buffer_capacity_stays_within_its_limit() {
    let line = vec![b'x'; 1000];
    // The cut leaves room for 600 bytes; doubled, that is more than is ever needed.
    let pieces = [&line[..600], &line[600..900]];
    let mut events = SseDecoder::with_max(1000);
    let mut lines = NdjsonDecoder::with_max(1000);
    for mut piece in pieces {
        assert!(events.next(&mut { piece }).is_none());
        assert!(lines.next(&mut piece).is_none());
    }
    assert!((900..=1000).contains(&events.buffered()), "{}", events.buffered());
    assert!((900..=1000).contains(&lines.buffered()), "{}", lines.buffered());

    let value = [b"{", &line[..900]].concat();
    let mut values = JsonDecoder::with_max(1000);
    assert!(values.next(&mut &value[..600]).is_none());
    assert!(values.next(&mut &value[600..]).is_none());
    assert!((900..=1000).contains(&values.buffered()), "{}", values.buffered());

    let lengths = [1016_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat();
    let checksum = crc32fast::hash(&lengths).to_be_bytes();
    let message = [&lengths[..], &checksum, &line].concat();
    let mut messages = EventStreamDecoder::with_max(2000);
    assert!(messages.next(&mut &message[..600]).is_none());
    assert!(messages.next(&mut &message[600..900]).is_none());
    assert!((900..=1016).contains(&messages.buffered()), "{}", messages.buffered());
}

#[test]
fn event_without_its_blank_line_keeps_its_id() {
    let mut decoder = SseDecoder::new();
    let mut input: &[u8] = b"id: 1\ndata: a\n\nid: 2\ndata: b\n";
    assert_eq!(decoder.next(&mut input).expect("an event").id(), "1");
    assert!(decoder.next(&mut input).is_none());
    assert_eq!(decoder.finish().expect("the last event").id(), "2");
}

#[test]
fn event_with_an_overlong_line_is_dropped() {
    let mut decoder = SseDecoder::with_max(10);
    assert!(decoder.next(&mut &b"data: {}\ndata: too long\n"[..]).is_none());
    assert!(decoder.has_overflowed());
    assert!(decoder.finish().is_none());
}

#[test]
fn nothing_is_read_behind_an_overlong_value() {
    let mut decoder = JsonDecoder::with_max(4);
    assert!(decoder.next(&mut &b"{\"long\":"[..]).is_none());
    assert!(decoder.has_overflowed());
    for mut rest in [&b"1}"[..], b"[]"] {
        assert!(decoder.next(&mut rest).is_none());
        assert!(rest.is_empty() && !decoder.is_array(), "nothing is read");
    }
}

#[test]
fn empty_grpc_body_is_grpc() {
    for pieces in [&[][..], &[&b""[..]]] {
        let pieces = pieces.iter().copied();
        let (report, _) = meter_at(&MeterSet::detect(), "/", "application/grpc", pieces);
        assert_eq!((report.protocol, report.events), (Some(Protocol::Grpc), 0));
    }
}

#[test]
fn an_error_that_is_false_is_none() {
    let body = br#"{"model":"m","message":{"content":"a"},"error":false,"done":true}"#;
    for policy in [TextPolicy::Keep(10), TextPolicy::Skip] {
        let meters = MeterSet::detect().text(policy);
        let (report, _) = meter_at(&meters, "/api/chat", "application/x-ndjson", [&body[..]]);
        assert_eq!((report.error, report.terminated), (None, Some(true)), "{policy:?}");
    }
}

#[test]
fn escaped_hyphen_is_seen_without_parsing() {
    let body = [
        &br#"{"event_type":"text-generation","text":"a"}"#[..],
        b"\n",
        br#"{"event_type":"tool\u002dcalls\u002dchunk"}"#,
        b"\n",
    ];
    let meters = MeterSet::detect().text(TextPolicy::Skip);
    let (report, _) = meter_at(&meters, "/v1/chat", "application/x-ndjson", body);
    assert!(report.time_to_first_tool_call.is_some());
}

#[test]
fn leading_blanks_count_alike_in_pieces() {
    for blanks in [4, 5, 256, 257, 10_000] {
        let body = [&b" ".repeat(blanks)[..], br#"{"done":true}"#].concat();
        let whole = meter_at(&MeterSet::detect(), "/api/chat", "text/plain", [&body[..]]).0;
        let bytes = meter_at(&MeterSet::detect(), "/api/chat", "text/plain", body.chunks(1)).0;
        assert_eq!((whole.events, bytes.events), (1, 1), "{blanks} blanks");
    }
}

#[test]
fn nothing_is_read_behind_an_overlong_error() {
    let line = format!("{{\"error\":\n{{\"message\":\n\"{}\"\n", "x".repeat(30));
    let body = format!("data: {{}}\n\n{line}{line}\ndata: {{}}\n\n");
    let meters = MeterSet::detect().max_line(40);
    for pieces in [body.as_bytes().chunks(1000), body.as_bytes().chunks(1)] {
        let (report, _) = meter_at(&meters, "/v1/chat/completions", "text/event-stream", pieces);
        assert!(matches!(report.incomplete, Some(Incomplete::TooLong { limit: 40, .. })), "{report:?}");
        assert_eq!(report.events, 1);
    }
}

/// What ends a stream is seen even where it says nothing else.
#[test]
fn ends_and_counts_are_seen_without_parsing() {
    let cases = [
        ("/v1/messages", r#"{"type":"message_start","message":{"model":"m"}}"#, r#"{"type":"message"}"#),
        ("/v1/responses", r#"{"type":"response.created"}"#, r#"{ "type": "response.completed"}"#),
        ("/v1/responses", r#"{"type":"response.created"}"#, r#"{"object":"response"}"#),
        ("/v2/chat", r#"{"type":"content-delta"}"#, r#"{"type":"message-end"}"#),
        ("/v2/chat", r#"{"type":"content-delta"}"#, r#"{"type":"message\u002dend"}"#),
        ("/v1/chat", r#"{"event_type":"text-generation"}"#, r#"{"event_type":"stream-end"}"#),
    ];
    for (path, first, last) in cases {
        let body = format!("{first}\n{last}\n");
        for policy in [TextPolicy::Skip, TextPolicy::Count] {
            let meters = MeterSet::detect().text(policy);
            let (report, _) = meter_at(&meters, path, "application/x-ndjson", [body.as_bytes()]);
            assert_eq!(report.terminated, Some(true), "{path}, {last}, {policy:?}");
        }
    }
}
