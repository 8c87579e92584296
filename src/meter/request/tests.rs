use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::reader::{MAX_DEPTH, MAX_WORD, RequestFacts, RequestReader, is_prompt, is_text};

/// All else that is held, apart from the prompt.
const CONSTANT: usize = 2 * MAX_WORD + MAX_DEPTH;

fn read(body: &[u8]) -> RequestFacts {
    read_in(body, body.len().max(1), 1024)
}

fn read_in(body: &[u8], size: usize, max: usize) -> RequestFacts {
    let mut reader = RequestReader::new(max);
    for chunk in body.chunks(size) {
        reader.feed(chunk);
        assert!(reader.held() <= max + CONSTANT, "{} bytes held of {max}", reader.held());
    }
    reader.facts()
}

fn read_json(body: &Value) -> RequestFacts {
    read(body.to_string().as_bytes())
}

fn facts(model: &str, stream: Option<bool>, strings: &[&str]) -> RequestFacts {
    RequestFacts {
        model: Some(model.into()),
        stream,
        prompt: strings.join("\n").into(),
        prompt_len: strings.iter().map(|string| string.chars().count() as u64).sum(),
    }
}

// What providers are sent.

#[test]
fn openai_chat_with_tools_and_an_image() {
    let body = json!({
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{\"at\":\"cat\"}"}},
            ]},
            {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "description": "x", "parameters": {"text": "no"}}}],
        "stream_options": {"include_usage": true, "model": "not this"},
        "stream": true,
        "model": "gpt-4o-mini",
    });
    let strings = ["Be brief.", "What is this?", "{\"at\":\"cat\"}", "a cat"];
    assert_eq!(read_json(&body), facts("gpt-4o-mini", Some(true), &strings));
}

#[test]
fn openai_completions_take_one_prompt_or_several() {
    let one = json!({"model": "davinci-002", "prompt": "Once", "stream": false});
    assert_eq!(read_json(&one), facts("davinci-002", Some(false), &["Once"]));
    let several = json!({"model": "davinci-002", "prompt": ["Once", "Twice"]});
    assert_eq!(read_json(&several), facts("davinci-002", None, &["Once", "Twice"]));
    let tokens = json!({"model": "davinci-002", "prompt": [[1, 2], [3]]});
    assert_eq!(read_json(&tokens), facts("davinci-002", None, &[]));
}

#[test]
fn openai_responses_take_text_or_items() {
    let text = json!({"model": "gpt-5", "instructions": "Rhyme.", "input": "Hello", "stream": true});
    assert_eq!(read_json(&text), facts("gpt-5", Some(true), &["Rhyme.", "Hello"]));
    let items = json!({"model": "gpt-5", "input": [
        {"role": "user", "content": [
            {"type": "input_text", "text": "Hello"},
            {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
        ]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "done"},
    ]});
    assert_eq!(read_json(&items), facts("gpt-5", None, &["Hello", "{}", "done"]));
}

#[test]
fn anthropic_messages() {
    let body = json!({
        "max_tokens": 10,
        "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
                {"type": "text", "text": "What?"},
            ]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
                {"type": "tool_use", "id": "t", "name": "f", "input": {"city": "Paris"}},
            ]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "rain"}]},
        ],
        "metadata": {"user_id": "u"},
        "model": "claude-sonnet-4",
        "stream": true,
    });
    let strings = ["Be kind.", "What?", "Hm.", "rain"];
    assert_eq!(read_json(&body), facts("claude-sonnet-4", Some(true), &strings));
    let plain =
        json!({"system": "Be kind.", "messages": [{"role": "user", "content": "Hi"}], "model": "claude"});
    assert_eq!(read_json(&plain), facts("claude", None, &["Be kind.", "Hi"]));
}

#[test]
fn gemini_names_its_model_in_the_path() {
    let body = json!({
        "contents": [{"role": "user", "parts": [
            {"text": "Hello"},
            {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
        ]}],
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "generationConfig": {"responseMimeType": "text/plain"},
    });
    assert_eq!(read_json(&body), RequestFacts { model: None, ..facts("", None, &["Hello", "Be brief."]) });
}

#[test]
fn bedrock_converse() {
    let body = json!({
        "messages": [{"role": "user", "content": [
            {"text": "Hello"},
            {"image": {"format": "png", "source": {"bytes": "iVBORw0KGgo="}}},
        ]}],
        "system": [{"text": "Be brief."}],
        "inferenceConfig": {"maxTokens": 5},
    });
    assert_eq!(read_json(&body), RequestFacts { model: None, ..facts("", None, &["Hello", "Be brief."]) });
}

#[test]
fn cohere_in_both_versions() {
    let v1 = json!({
        "model": "command-r", "preamble": "Be brief.", "message": "And now?", "stream": true,
        "chat_history": [{"role": "USER", "message": "Hello"}, {"role": "CHATBOT", "message": "Hi"}],
    });
    let strings = ["Be brief.", "And now?", "Hello", "Hi"];
    assert_eq!(read_json(&v1), facts("command-r", Some(true), &strings));
    let v2 = json!({"model": "command-a", "messages": [{"role": "user", "content": "Hello"}]});
    assert_eq!(read_json(&v2), facts("command-a", None, &["Hello"]));
}

#[test]
fn ollama_chat_and_generate() {
    let chat = json!({"model": "llama3", "messages": [
        {"role": "user", "content": "Hello", "images": ["iVBORw0KGgo="]},
    ]});
    assert_eq!(read_json(&chat), facts("llama3", None, &["Hello"]));
    let generate = json!({"model": "llama3", "system": "Be brief.", "prompt": "Hello", "images": ["iVBO"]});
    assert_eq!(read_json(&generate), facts("llama3", None, &["Be brief.", "Hello"]));
}

// What is no prompt, and what is no JSON.

#[test]
fn the_last_model_wins_and_none_deeper_counts() {
    let body = br#"{"model":"a","messages":[{"model":"x"}],"options":{"model":"y"},"model":"b","model":7}"#;
    assert_eq!(read(body).model.as_deref(), Some("b"));
}

#[test]
fn long_model_is_cut_at_a_character() {
    let body = json!({"model": format!("{}é-and-more", "m".repeat(MAX_WORD - 1))});
    assert_eq!(read_json(&body).model.as_deref(), Some("m".repeat(MAX_WORD - 1).as_str()));
}

#[test]
fn keys_in_strings_and_escaped_keys_differ() {
    let body = br#"{"user":"\",\"model\":\"x","\u006dodel":"y","prompt":"say \"stream\":true \\"}"#;
    assert_eq!(read(body), facts("y", None, &["say \"stream\":true \\"]));
}

#[test]
fn half_a_surrogate_pair_is_one_replacement_character() {
    let body = br#"{"prompt":["\ud83d\ude00","\ud83d","\ud83dx","\ude00","\ud83d\ud83d\ude00","\ud83d\n"]}"#;
    let expected = ["😀", "\u{fffd}", "\u{fffd}x", "\u{fffd}", "\u{fffd}😀", "\u{fffd}\n"].join("\n");
    for size in 1..body.len() {
        assert_eq!(&*read_in(body, size, 1024).prompt, expected, "in chunks of {size}");
    }
}

#[test]
fn partial_data_url_is_text() {
    let body = json!({"prompt": ["data", "data:image/png;base64,AA", "dat", "", "date: now", "da\u{301}"]});
    let expected = facts("", None, &["data", "dat", "date: now", "da\u{301}"]);
    for size in 1..20 {
        let found = read_in(body.to_string().as_bytes(), size, 1024);
        assert_eq!(found, RequestFacts { model: None, ..expected.clone() }, "in chunks of {size}");
    }
}

#[test]
fn malformed_rest_keeps_what_was_found() {
    for rest in
        ["]", "\"x\"", "\"prompt\":,", "\"prompt\":\"\\x\"", "\"prompt\":\"\\u12g4\"", "\"a\" 1", "\"a\":#"]
    {
        let body = format!("{{\"model\":\"m\",\"prompt\":\"p\",{rest},\"model\":\"n\"}}");
        assert_eq!(read(body.as_bytes()), facts("m", None, &["p"]), "{rest}");
    }
    let body = b"{\"model\":\"m\",\"prompt\":\"p\xff\",\"model\":\"n\"}";
    assert_eq!(read(body).model.as_deref(), Some("m"));
    let body = br#"{"model":"m"} {"model":"n"}"#;
    assert_eq!(read(body).model.as_deref(), Some("m"));
    for body in ["[{\"model\":\"m\"}]", "\"model\"", "", "model=m", "\u{feff}{\"model\":\"m\"}"] {
        assert_eq!(read(body.as_bytes()), RequestFacts::default(), "{body}");
    }
}

#[test]
fn a_cut_request_tells_what_came() {
    let body = br#"{"model":"m","messages":[{"content":"Hello, wor"#;
    assert_eq!(read(body), facts("m", None, &["Hello, wor"]));
    assert_eq!(read(br#"{"prompt":"p","model":"gpt-4"#).model, None, "half a name is none");
}

// Bounds.

#[test]
fn prompt_beyond_limit_is_counted_only() {
    let text = "0123456789é".repeat(10_000);
    let body = json!({"messages": [{"content": text}, {"content": "more"}], "model": "m"}).to_string();
    for max in [0, 1, 10, 11, 12, 1000, 65_537] {
        let found = read_in(body.as_bytes(), 1000, max);
        assert_eq!(&*found.prompt, &text[..text.floor_char_boundary(max)]);
        assert_eq!(found.prompt_len, 110_004);
        assert_eq!(found.model.as_deref(), Some("m"));
    }
}

#[test]
fn what_lies_too_deep_is_passed_over() {
    let deep = 100_000;
    let nested = |open: &str, close: &str| {
        let (open, close) = (open.repeat(deep), close.repeat(deep));
        format!("{{\"input\":[{open}\"lost\"{close},\"found\"],\"tools\":{open}1{close},\"model\":\"m\"}}")
    };
    assert_eq!(read(nested("[", "]").as_bytes()), facts("m", None, &["found"]));
    assert_eq!(read(nested("{\"text\":", "}").as_bytes()), facts("m", None, &["found"]));
}

#[test]
fn an_image_costs_no_memory() {
    let image = "iVBORw0KGgo/".repeat(1 << 20);
    let body =
        json!({"messages": [{"content": [{"source": {"data": image}}, {"text": "what?"}]}], "model": "m"});
    assert_eq!(read_in(body.to_string().as_bytes(), 16 * 1024, 100), facts("m", None, &["what?"]));
}

// Against a plain walk over the whole value.

fn walked(body: &Value, max: usize) -> RequestFacts {
    let Value::Object(body) = body else {
        return RequestFacts::default();
    };
    let mut strings = Vec::new();
    for (key, value) in body.iter().filter(|(key, _)| is_prompt(key)) {
        walk(value, is_text(key), &mut strings);
    }
    let prompt = strings.join("\n");
    let model = body.get("model").and_then(Value::as_str).filter(|model| !model.is_empty());
    RequestFacts {
        model: model.map(|model| model[..model.floor_char_boundary(MAX_WORD)].into()),
        stream: body.get("stream").and_then(Value::as_bool),
        prompt: prompt[..prompt.floor_char_boundary(max)].into(),
        prompt_len: strings.iter().map(|string| string.chars().count() as u64).sum(),
    }
}

fn walk<'a>(value: &'a Value, counts: bool, strings: &mut Vec<&'a str>) {
    match value {
        Value::String(text) if counts && !text.is_empty() && !text.starts_with("data:") => strings.push(text),
        Value::Array(values) => values.iter().for_each(|value| walk(value, counts, strings)),
        Value::Object(members) => {
            members.iter().for_each(|(key, value)| walk(value, is_text(key), strings));
        }
        _ => {}
    }
}

/// Writes `value` with escapes and spaces where `choices` says so.
fn written(value: &Value, choices: &mut impl Iterator<Item = u8>) -> String {
    let spaces = ["", "", " ", "\n\t"];
    let mut space = || spaces[choices.next().unwrap_or(0) as usize % spaces.len()];
    let (before, after) = (space(), space());
    let text = match value {
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(|value| written(value, choices)).collect();
            format!("[{}]", values.join(","))
        }
        Value::Object(members) => {
            let mut members_written = Vec::new();
            for (key, value) in members {
                let key = written(&Value::from(key.as_str()), choices);
                members_written.push(format!("{key}:{}", written(value, choices)));
            }
            format!("{{{}}}", members_written.join(","))
        }
        Value::String(text) => format!("\"{}\"", escaped(text, choices)),
        scalar => scalar.to_string(),
    };
    format!("{before}{text}{after}")
}

fn escaped(text: &str, choices: &mut impl Iterator<Item = u8>) -> String {
    let mut escaped = String::new();
    for char in text.chars() {
        let plain = Value::from(char.to_string()).to_string();
        match choices.next() {
            Some(0..60) => {
                let units = char
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .map(|unit| format!("\\u{unit:04x}"))
                    .collect::<String>();
                escaped.push_str(&units);
            }
            Some(_) if char == '/' => escaped.push_str("\\/"),
            _ => escaped.push_str(&plain[1..plain.len() - 1]),
        }
    }
    escaped
}

const FILTER: [&str; 24] = [
    "arguments",
    "chat_history",
    "content",
    "contents",
    "data",
    "input",
    "instructions",
    "message",
    "messages",
    "model",
    "output",
    "preamble",
    "prompt",
    "stream",
    "system",
    "systemInstruction",
    "system_instruction",
    "text",
    "thinking",
    "url",
    "tex",
    "texts",
    "",
    "parts",
];

fn keys() -> impl Strategy<Value = String> {
    prop_oneof![9 => prop::sample::select(&FILTER[..]).prop_map(str::to_owned), 1 => any::<String>()]
}

fn strings() -> impl Strategy<Value = String> {
    let data = prop::sample::select(vec!["d", "dat", "data", "data:", "data:x", "datax"]);
    prop_oneof![3 => any::<String>(), 1 => data.prop_map(str::to_owned), 1 => "[a-z\"\\\\/{}\\[\\],:]{0,20}"]
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => strings().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<i16>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from), objects(inner),]
    })
}

fn objects(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let members = prop::collection::vec((keys(), inner), 0..8);
    members.prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>()))
}

proptest! {
    #[test]
    fn facts_match_a_walk_over_the_value(
        body in objects(values()),
        choices in prop::collection::vec(any::<u8>(), 0..400),
        sizes in prop::collection::vec(1..40usize, 1..20),
        max in 0..200usize,
    ) {
        let text = written(&body, &mut choices.into_iter());
        prop_assert_eq!(&serde_json::from_str::<Value>(&text).unwrap(), &body);
        let expected = walked(&body, max);
        prop_assert_eq!(read_in(text.as_bytes(), text.len(), max), expected.clone());
        prop_assert_eq!(read_in(text.as_bytes(), 1, max), expected.clone());

        let mut reader = RequestReader::new(max);
        let mut rest = text.as_bytes();
        for size in sizes.iter().cycle() {
            let (chunk, more) = rest.split_at((*size).min(rest.len()));
            reader.feed(chunk);
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(reader.facts(), expected);
    }

    #[test]
    fn any_bytes_give_the_same_facts_in_any_chunks(
        body in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"\"\\{}[],:u0d8 "[..])], 0..200),
        size in 1..20usize,
    ) {
        let body = [br#"{"model":"m","input":"#, &body[..]].concat();
        prop_assert_eq!(read_in(&body, size, 50), read_in(&body, body.len(), 50));
    }

    #[test]
    fn a_cut_or_broken_request_is_read_alike_in_any_chunks(
        body in objects(values()),
        cut in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        size in 1..20usize,
    ) {
        let mut body = body.to_string().into_bytes();
        let at = cut.index(body.len());
        body[at] = byte;
        prop_assert_eq!(read_in(&body, size, 50), read_in(&body, body.len(), 50));
        body.truncate(at);
        prop_assert_eq!(read_in(&body, size, 50), read_in(&body, body.len().max(1), 50));
    }
}
