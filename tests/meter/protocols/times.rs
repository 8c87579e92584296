//! First times, gaps and counts, of a stream whose chunks come at known times. The events are those of Anthropic's and
//! OpenAI's documents; see their files.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, Uri};
use streaming_accumulator::meter::{LlmReport, MeterSet, ResponseHead, TextPolicy};

fn metered(meters: &MeterSet, chunks: &[(u64, String)]) -> LlmReport {
    let (headers, uri) = (HeaderMap::new(), Uri::from_static("/any/path"));
    let head = ResponseHead::new(&Method::POST, &uri, StatusCode::OK, &headers);
    let mut metering = meters.open(&head).expect("a meter");
    for (millis, chunk) in chunks {
        metering.feed(chunk.as_bytes(), Duration::from_millis(*millis));
    }
    metering.end(true).0
}

fn at(millis: u64) -> Option<Duration> {
    Some(Duration::from_millis(millis))
}

fn delta(delta: &str) -> String {
    format!("data: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{{delta}}}}}\n\n")
}

fn text(text: &str) -> String {
    delta(&format!(r#""type":"text_delta","text":"{text}""#))
}

fn chunks() -> Vec<(u64, String)> {
    let start = "data: {\"type\":\"message_start\",\"message\":{\"model\":\"m\"}}\n\n";
    let thinking = delta(r#""type":"thinking_delta","thinking":"hm""#);
    let call = delta(r#""type":"input_json_delta","partial_json":"{}""#);
    let (left, right) = start.split_at(20);
    vec![
        (5, ": a comment is no event\n\n".into()),
        (10, left.into()),
        (20, right.into()),
        (30, thinking.clone()),
        (40, text("")),
        (50, text("a")),
        (55, text("b") + &text("c")),
        (155, thinking),
        (200, call),
        (210, text("d")),
    ]
}

#[test]
fn first_times_are_of_the_completing_chunk() {
    let report = metered(&MeterSet::detect(), &chunks());
    assert_eq!(report.time_to_first_event, at(20));
    assert_eq!(report.time_to_first_reasoning, at(30));
    assert_eq!(report.time_to_first_text, at(50), "empty text is none");
    assert_eq!(report.time_to_first_tool_call, at(200));
    assert_eq!(report.text_chunks, Some(4));
    assert_eq!(report.longest_text_gap, at(155));
    assert_eq!((report.text.as_deref(), report.text_len), (Some("abcd"), Some(4)));
}

#[test]
fn first_times_are_known_without_texts() {
    let report = metered(&MeterSet::detect().text(TextPolicy::Skip), &chunks());
    assert_eq!((report.time_to_first_event, report.time_to_first_text), (at(20), at(50)));
    assert_eq!((report.time_to_first_reasoning, report.time_to_first_tool_call), (at(30), at(200)));
    assert_eq!((report.text_chunks, report.longest_text_gap, report.text_len), (None, None, None));
}

#[test]
fn one_event_with_several_texts_is_one_chunk() {
    let data = r#"{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}},{"index":1,"delta":{"content":"c"}}]}"#;
    let report = metered(&MeterSet::detect(), &[(10, format!("data: {data}\n\n"))]);
    assert_eq!((report.text_chunks, report.longest_text_gap), (Some(1), None), "no gap within one event");
    let twice = format!("data: {data}\n\ndata: {data}\n\n");
    let report = metered(&MeterSet::detect(), &[(10, twice)]);
    assert_eq!((report.text_chunks, report.longest_text_gap), (Some(2), at(0)));
}

#[test]
fn lengths_are_of_events_and_in_scalar_values() {
    let (data, longer) = (text("å😀"), text("a longer one, by far"));
    let length = |event: &str| event.trim_end().len() as u64 - 6;
    let report = metered(&MeterSet::detect(), &[(1, data.clone()), (2, longer.clone())]);
    assert_eq!((report.events, report.event_bytes), (2, length(&data) + length(&longer)));
    assert_eq!((report.longest_event, report.text_len), (length(&longer), Some(22)));
}
