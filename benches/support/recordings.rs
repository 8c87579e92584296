//! Streams of providers: recorded ones, or, where there are none, made in their shapes.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Value, json};
use streaming_accumulator::meter::{EventStreamDecoder, JsonDecoder, NdjsonDecoder, SseDecoder};

pub(crate) struct Recording {
    pub(crate) protocol: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// One event each.
    pub(crate) chunks: Vec<Range<usize>>,
}

/// How the events of a protocol are told apart.
#[derive(Clone, Copy)]
enum Framing {
    Sse,
    Ndjson,
    EventStream,
    Json,
}

/// All streams, by protocol.
pub(crate) fn all() -> Vec<Recording> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures/streams");
    let dir = std::env::var_os("METER_RECORDINGS").map_or(beside, PathBuf::from);
    let mut recordings = if dir.is_dir() { recorded(&dir) } else { Vec::new() };
    if recordings.is_empty() {
        println!("no recordings at {}: made up streams instead", dir.display());
        recordings = made_up();
    }
    recordings.sort_by(|left, right| left.protocol.cmp(&right.protocol));
    recordings
}

fn recorded(dir: &Path) -> Vec<Recording> {
    let entries = |dir: &Path| {
        let entries = fs::read_dir(dir).expect("a folder");
        entries.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()
    };
    let folders = entries(dir).into_iter().filter(|path| path.is_dir());
    let files = folders.flat_map(|folder| entries(&folder));
    let streams = files.filter(|file| file.extension().is_some_and(|extension| extension == "stream"));
    streams
        .map(|file| {
            let expected = fs::read(file.with_extension("expected.json")).expect("its answers");
            let expected: Value = serde_json::from_slice(&expected).expect("answers in JSON");
            let text = |key: &str| expected[key].as_str().expect("text").to_owned();
            Recording::new(text("protocol"), &text("content_type"), fs::read(&file).expect("a stream"))
        })
        .collect()
}

/// A made-up answer of 400 words by OpenAI's chat.
pub(crate) fn chat() -> Recording {
    let mut made_up = made_up();
    made_up.swap_remove(0)
}

/// 400 events each of some 300 bytes, with counts at the end. OpenAI's chat is the first.
fn made_up() -> Vec<Recording> {
    let word = |number: usize| format!(" word{number}");
    let sse = |events: Vec<Value>, end: &str| {
        let events = events.iter().map(|event| format!("data: {event}\n\n"));
        events.collect::<String>() + end
    };
    let chat = |choices: Value, usage: Value| {
        json!({"id": "chatcmpl-9f8e7d6c5b4a", "object": "chat.completion.chunk", "created": 1_700_000_000,
            "model": "gpt-4o", "service_tier": "default", "system_fingerprint": "fp_1", "choices": choices,
            "usage": usage, "obfuscation": "abcdefghijklmnopqrst"})
    };
    let choice = |delta: Value, reason: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}]);
    let words = 0..400;
    let mut chunks: Vec<Value> = words
        .clone()
        .map(|number| chat(choice(json!({"content": word(number)}), Value::Null), Value::Null))
        .collect();
    chunks.push(chat(choice(json!({}), "stop".into()), Value::Null));
    chunks.push(chat(json!([]), json!({"prompt_tokens": 9, "completion_tokens": 400, "total_tokens": 409})));

    let start = json!({"type": "message_start", "message": {"model": "claude", "content": [],
        "usage": {"input_tokens": 9, "output_tokens": 1}}});
    let delta = |number| {
        json!({"type": "content_block_delta", "index": 0,
            "delta": {"type": "text_delta", "text": word(number)}})
    };
    let ends = [
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 400}}),
        json!({"type": "message_stop"}),
    ];
    let messages: Vec<Value> = [start].into_iter().chain(words.clone().map(delta)).chain(ends).collect();

    let candidates: Vec<Value> = words
        .clone()
        .map(|number| {
            json!({"candidates": [{"content": {"parts": [{"text": word(number)}], "role": "model"}, "index": 0}],
                "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": number + 1,
                "totalTokenCount": number + 10}, "modelVersion": "gemini", "responseId": "abc"})
        })
        .collect();

    let line = |number| {
        json!({"model": "llama3", "created_at": "2026-01-01T00:00:00.000000Z",
            "message": {"role": "assistant", "content": word(number)}, "done": false})
    };
    let last = json!({"model": "llama3", "done": true, "done_reason": "stop", "prompt_eval_count": 9,
        "eval_count": 400});
    let lines: String = words.map(line).chain([last]).map(|line| format!("{line}\n")).collect();

    let events = "text/event-stream";
    vec![
        Recording::new("openai_chat".into(), events, sse(chunks, "data: [DONE]\n\n").into()),
        Recording::new("anthropic_messages".into(), events, sse(messages, "").into()),
        Recording::new("gemini_sse".into(), events, sse(candidates, "").into()),
        Recording::new("ollama_chat".into(), "application/x-ndjson", lines.into()),
    ]
}

// === impl Recording ===

impl Recording {
    fn new(protocol: String, content_type: &str, body: Vec<u8>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).expect("a header"));
        let mut recording = Self { protocol, headers, body, chunks: Vec::new() };
        let mut ends = vec![0];
        recording.walk([&*recording.body], |_, left| ends.push(recording.body.len() - left));
        ends.push(recording.body.len());
        ends.dedup();
        recording.chunks = ends.windows(2).map(|ends| ends[0]..ends[1]).collect();
        recording
    }

    fn framing(&self) -> Framing {
        match &*self.protocol {
            "bedrock_converse" | "bedrock_invoke" => Framing::EventStream,
            "cohere_v1" | "ollama_chat" | "ollama_generate" => Framing::Ndjson,
            "gemini_json_array" => Framing::Json,
            _ => Framing::Sse,
        }
    }

    pub(crate) fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().map(|chunk| &self.body[chunk.clone()])
    }

    /// Calls `each` with the data of every event, the stream coming in its chunks.
    pub(crate) fn events(&self, mut each: impl FnMut(&[u8])) {
        self.walk(self.chunks(), |event, _| each(event));
    }

    /// Calls `each` with the data of every event, and the length of what follows it in its piece.
    fn walk<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>, mut each: impl FnMut(&[u8], usize)) {
        let pieces = pieces.into_iter();
        match self.framing() {
            Framing::Sse => {
                let mut decoder = SseDecoder::new();
                for mut piece in pieces {
                    while let Some(event) = decoder.next(&mut piece) {
                        each(event.data(), piece.len());
                    }
                }
            }
            Framing::Ndjson => {
                let mut decoder = NdjsonDecoder::new();
                for mut piece in pieces {
                    while let Some(line) = decoder.next(&mut piece) {
                        each(line, piece.len());
                    }
                }
            }
            Framing::EventStream => {
                let mut decoder = EventStreamDecoder::new();
                for mut piece in pieces {
                    while let Some(message) = decoder.next(&mut piece) {
                        each(message.expect("a message").payload(), piece.len());
                    }
                }
            }
            Framing::Json => {
                let mut decoder = JsonDecoder::new();
                for mut piece in pieces {
                    while let Some(value) = decoder.next(&mut piece) {
                        each(value, piece.len());
                    }
                }
            }
        }
    }
}
