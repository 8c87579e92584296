//! Whole meters: the same report and the same counts however the body is cut, and whether texts are looked at or
//! not.

#![no_main]

mod common;

use common::{Head, knobs, metered, same_however_cut};
use streaming_accumulator::meter::{Incomplete, MeterSet, TextPolicy};

const TYPES: [&str; 8] = [
    "text/event-stream",
    "application/json",
    "application/x-ndjson",
    "application/vnd.amazon.eventstream",
    "application/grpc",
    "application/grpc-web",
    "application/grpc-web-text",
    "text/plain",
];

const PATHS: [&str; 13] = [
    "/any",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1beta/models/gemini-x:streamGenerateContent?alt=sse",
    "/v1beta/models/gemini-x:streamGenerateContent",
    "/model/some.model-v1%3A0/converse-stream",
    "/model/some.model-v1%3A0/invoke-with-response-stream",
    "/v1/chat",
    "/v2/chat",
    "/api/chat",
    "/api/generate",
];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut body = data;
    let Some(knobs) = knobs(&mut body) else { return };
    let choice = usize::from(knobs.choice);
    let head = Head::new(PATHS[choice / 8 % PATHS.len()], TYPES[choice % 8], "identity");
    let meters = MeterSet::detect().max_line(knobs.max);
    let (report, usage) = same_however_cut(body, &knobs.lengths, |pieces| metered(&meters, &head, pieces));
    if let Some(Incomplete::TooLong { limit, .. }) = report.incomplete {
        assert_eq!(limit, knobs.max);
    }
    let length = report.text.as_ref().map(|text| text.chars().count() as u64);
    assert_eq!(length, report.text_len, "all text is kept");

    let blind = meters.text(TextPolicy::Skip);
    let (skipped, skipped_usage) = metered(&blind, &head, &[body]);
    assert_eq!(skipped_usage, usage);
    assert_eq!(skipped.finish_reasons, report.finish_reasons);
    assert_eq!(skipped.response_model, report.response_model);
    assert_eq!(skipped.error, report.error);
    assert_eq!(skipped.terminated, report.terminated);
    assert_eq!((skipped.events, &skipped.protocol), (report.events, &report.protocol));
    assert_eq!(skipped.incomplete, report.incomplete);
});
