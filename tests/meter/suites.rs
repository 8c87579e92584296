//! Conformance suites of others: server-sent events, and messages of AWS event streams.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use streaming_accumulator::meter::{EventStreamDecoder, EventStreamValue, SseDecoder};

use crate::recordings::{files, fixtures, json_lines};
use crate::support::rounds;

fn decoded(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().expect("base64")).expect("base64")
}

fn sse_events<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Value>, Option<u64>) {
    // One case has an event of more than a mebibyte.
    let mut decoder = SseDecoder::with_max(16 << 20);
    let mut events = Vec::new();
    for mut piece in pieces {
        while let Some(event) = decoder.next(&mut piece) {
            events.push(json!({"event": event.name(), "data": event.data_str(), "id": event.id()}));
        }
        assert!(piece.is_empty(), "all is taken");
    }
    (events, decoder.retry())
}

#[test]
fn every_case_of_the_event_suites() {
    let Some(dir) = fixtures() else { return };
    let mut cases = 0;
    for file in files(&dir.join("sse"), "jsonl") {
        for case in json_lines(&file) {
            let name = format!("{}: {}", file.display(), case["name"]);
            let input = decoded(&case["input_b64"]);
            let wanted: Vec<Value> = case["events"].as_array().expect("events").clone();
            let retry = case["retry"].as_u64();
            assert_eq!(sse_events([&*input]), (wanted.clone(), retry), "{name}, whole");
            assert_eq!(sse_events(input.chunks(1)), (wanted.clone(), retry), "{name}, byte by byte");
            if let Some(chunks) = case["chunks_b64"].as_array() {
                let chunks: Vec<Vec<u8>> = chunks.iter().map(decoded).collect();
                let found = sse_events(chunks.iter().map(Vec::as_slice));
                assert_eq!(found, (wanted.clone(), retry), "{name}, in its own pieces");
            }
            // Of the longest case every cut would take minutes.
            let most = if input.len() > 10_000 { 20 } else { rounds(500, 2_000) };
            for at in 1..input.len().min(most) {
                let (left, right) = input.split_at(at);
                assert_eq!(sse_events([left, right]), (wanted.clone(), retry), "{name}, cut at {at}");
            }
            cases += 1;
        }
    }
    assert!(cases > 50, "{cases} cases");
}

fn header(value: EventStreamValue<'_>) -> Value {
    match value {
        EventStreamValue::Bool(value) => value.into(),
        EventStreamValue::Integer(value) | EventStreamValue::Timestamp(value) => value.into(),
        EventStreamValue::Bytes(value) => json!({"bytes_b64": STANDARD.encode(value)}),
        EventStreamValue::Text(value) => value.into(),
        EventStreamValue::Uuid(value) => uuid(&value),
        other => panic!("{other:?} is new"),
    }
}

/// Sixteen bytes as the suite of the test in question writes them: as a number, or as bytes.
fn uuid(value: &[u8; 16]) -> Value {
    let digits = value.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if value.is_ascii() { json!({"bytes_b64": STANDARD.encode(value)}) } else { digits.into() }
}

/// The one message of `pieces`: its headers and payload.
fn message<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<(Value, Vec<u8>)> {
    let mut decoder = EventStreamDecoder::new();
    let mut found = None;
    for mut piece in pieces {
        while let Some(message) = decoder.next(&mut piece) {
            let message = message.ok()?;
            let headers = message.headers().map(|(name, value)| (name.to_owned(), header(value))).collect();
            assert!(found.is_none(), "one message");
            found = Some((headers, message.payload().to_vec()));
        }
    }
    assert!(!decoder.is_cut(), "a whole message");
    found
}

#[test]
fn every_case_of_the_frame_suite() {
    let Some(dir) = fixtures() else { return };
    let cases = json_lines(&dir.join("eventstream/frames.jsonl"));
    assert!(cases.len() > 5, "{} cases", cases.len());
    for case in cases {
        let input = decoded(&case["input_b64"]);
        let wanted =
            (case["valid"] == true).then(|| (case["headers"].clone(), decoded(&case["payload_b64"])));
        let name = &case["name"];
        assert_eq!(message([&*input]), wanted, "{name}");
        assert_eq!(message(input.chunks(1)), wanted, "{name}, byte by byte");
    }
}
