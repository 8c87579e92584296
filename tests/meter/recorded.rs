//! Recorded streams, metered whole, in pieces, and cut short.

use serde_json::{Value, json};
use streaming_accumulator::Usage;
use streaming_accumulator::meter::{LlmReport, MeterSet, TextPolicy};

use crate::recordings::{Recording, meter, meter_at, recordings};
use crate::support::{is_thorough, rounds};

/// What a meter found, in the form in which the recordings have their answers.
fn answer(report: &LlmReport, usage: &Usage) -> Value {
    let counts = json!({
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "cache_creation_input_tokens": usage.cache_write_input_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "total_tokens": usage.total_tokens,
    });
    json!({
        "text": report.text,
        "finish_reason": report.finish_reason(),
        "usage": (*usage != Usage::default()).then_some(counts),
        "model": report.response_model,
        "terminated": report.terminated,
    })
}

/// The answer as the recording has it, the keys alone that are compared.
fn wanted(expected: &Value) -> Value {
    let keys = ["text", "finish_reason", "usage", "model", "terminated"];
    keys.into_iter().map(|key| (key.to_owned(), expected[key].clone())).collect()
}

/// The answer for a whole body. An event without its last blank line counts if its JSON is whole.
fn wanted_whole(recording: &Recording) -> Value {
    let mut wanted = wanted(&recording.expected);
    if let Some(flushed) = recording.expected["if_flushed"].as_object() {
        wanted.as_object_mut().expect("an object").extend(flushed.clone());
    }
    wanted
}

fn content_type(recording: &Recording) -> &str {
    recording.expected["content_type"].as_str().expect("a content type")
}

/// As the answer to the path that the protocol is served at.
fn metered<'a>(recording: &Recording, pieces: impl IntoIterator<Item = &'a [u8]>) -> Value {
    let path = match recording.expected["protocol"].as_str().expect("a protocol") {
        "openai_chat" | "mistral_chat" => "/v1/chat/completions",
        "openai_completions" => "/v1/completions",
        "openai_responses" => "/v1/responses",
        "anthropic_messages" => "/v1/messages",
        "gemini_sse" => "/v1beta/models/gemini-x:streamGenerateContent?alt=sse",
        "gemini_json_array" => "/v1beta/models/gemini-x:streamGenerateContent",
        "bedrock_converse" => "/model/some.model-v1%3A0/converse-stream",
        "bedrock_invoke" => "/model/some.model-v1%3A0/invoke-with-response-stream",
        "cohere_v1" => "/v1/chat",
        "cohere_v2" => "/v2/chat",
        "ollama_chat" => "/api/chat",
        "ollama_generate" => "/api/generate",
        other => panic!("where is {other} served?"),
    };
    let (report, usage) = meter_at(&MeterSet::detect(), path, content_type(recording), pieces);
    answer(&report, &usage)
}

#[test]
fn every_recording_is_read_right() {
    let mut wrong = Vec::new();
    for recording in recordings() {
        let (report, usage) = meter(&MeterSet::detect(), content_type(&recording), [&*recording.body]);
        let mut found = answer(&report, &usage);
        let mut wanted = wanted_whole(&recording);
        if recording.expected["unterminated_tail"] == true {
            // The answers are those of strict readers there.
            found["terminated"] = Value::Null;
            wanted["terminated"] = Value::Null;
        }
        if found != wanted {
            wrong.push(format!("{}:\n found {found}\nwanted {wanted}", recording.name));
        }
        let protocol = report.protocol.as_ref().map(|protocol| protocol.as_str());
        if protocol != recording.expected["protocol"].as_str() {
            wrong.push(format!("{}: protocol {protocol:?}", recording.name));
        }
        if report.error.is_some() != recording.expected["error"].is_object() {
            wrong.push(format!("{}: error {:?}", recording.name, report.error));
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_recording_cut_short_is_read_right() {
    let mut wrong = Vec::new();
    for recording in recordings() {
        for cut in &recording.cuts {
            let at = usize::try_from(cut["at"].as_u64().expect("a place")).expect("a place in the body");
            let found = metered(&recording, [&recording.body[..at]]);
            let wanted = wanted(cut);
            if found != wanted {
                wrong.push(format!("{} at {at}:\n found {found}\nwanted {wanted}", recording.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn recordings_in_pieces_give_the_same() {
    for recording in recordings() {
        let whole = metered(&recording, [&*recording.body]);
        let bytes = metered(&recording, recording.body.chunks(1));
        assert_eq!(bytes, whole, "{}, byte by byte", recording.name);
        for seed in 0..rounds(4, 20) as u64 {
            let pieces = split(&recording.body, seed);
            let count = pieces.len();
            let found = metered(&recording, pieces);
            assert_eq!(found, whole, "{}, in {count} pieces of seed {seed}", recording.name);
        }
    }
}

/// The beginnings: no border inside an event is left out.
#[test]
fn recordings_cut_in_two_give_the_same() {
    // By default one cut in five, and other ones for the next recording.
    let step = if is_thorough() { 1 } else { 5 };
    for (number, recording) in recordings().iter().enumerate() {
        let body = &recording.body[..recording.body.len().min(700)];
        let whole = metered(recording, [body]);
        for at in (1 + number % step..body.len()).step_by(step) {
            let (left, right) = body.split_at(at);
            assert_eq!(metered(recording, [left, right]), whole, "{} at {at}", recording.name);
        }
    }
}

#[test]
fn choices_are_kept_apart() {
    for recording in recordings() {
        let Some(choices) = recording.expected["choices"].as_array() else { continue };
        let (report, _) = meter(&MeterSet::detect(), content_type(&recording), [&*recording.body]);
        let found: Vec<Value> = report
            .choices
            .iter()
            .map(|choice| {
                json!({"index": choice.index, "text": choice.text, "finish_reason": choice.finish_reason})
            })
            .collect();
        assert_eq!(&found, choices, "{}", recording.name);
    }
}

/// The provider's own object stands beside the counts.
#[test]
fn usage_is_kept_as_it_was_sent() {
    for recording in recordings() {
        let (_, usage) = meter(&MeterSet::detect(), content_type(&recording), [&*recording.body]);
        let raw = usage.raw.as_deref().map(|raw| serde_json::from_str::<Value>(raw).expect("JSON"));
        let Some(wanted) = recording.expected.get("usage_raw").filter(|raw| raw.is_object()) else {
            continue;
        };
        let raw = raw.unwrap_or_else(|| panic!("{}: no raw usage", recording.name));
        for (key, value) in wanted.as_object().expect("an object") {
            assert_eq!(&raw[key], value, "{}: {key} of {raw}", recording.name);
        }
    }
}

/// Without texts the counts, reasons and ends are the same, though most events are not parsed.
#[test]
fn skipped_texts_change_nothing_else() {
    for recording in recordings() {
        let full = meter(&MeterSet::detect(), content_type(&recording), [&*recording.body]);
        for policy in [TextPolicy::Skip, TextPolicy::Count, TextPolicy::Keep(10)] {
            let meters = MeterSet::detect().text(policy);
            let (report, usage) = meter(&meters, content_type(&recording), [&*recording.body]);
            let name = &recording.name;
            assert_eq!(usage, full.1, "{name}");
            assert_eq!(report.finish_reasons, full.0.finish_reasons, "{name}");
            assert_eq!(report.response_model, full.0.response_model, "{name}");
            assert_eq!(report.terminated, full.0.terminated, "{name}");
            assert_eq!(report.error, full.0.error, "{name}");
            assert_eq!(report.events, full.0.events, "{name}");
            let kept = report.text.as_deref();
            let text = full.0.text.as_deref().unwrap_or_default();
            match policy {
                TextPolicy::Skip => assert_eq!((kept, report.text_len), (None, None), "{name}"),
                TextPolicy::Count => assert_eq!((kept, report.text_len), (None, full.0.text_len), "{name}"),
                _ => {
                    assert_eq!(report.text_len, Some(text.chars().count() as u64), "{name}");
                    assert!(kept.is_some_and(|kept| kept.len() <= 10 && text.starts_with(kept)), "{name}");
                }
            }
        }
    }
}

/// Pieces of random lengths, empty ones among them.
fn split(body: &[u8], seed: u64) -> Vec<&[u8]> {
    let mut random = fastrand::Rng::with_seed(seed);
    let longest = *[3, 17, 200, 5_000].get(random.usize(..4)).expect("one of four");
    let mut pieces = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (piece, left) = rest.split_at(random.usize(0..=longest.min(rest.len())));
        pieces.push(piece);
        rest = left;
    }
    pieces
}
