//! Recorded streams, replayed through the gateway.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::curl::{Answer, curl, curl_command, need_curl, parse};
use crate::process::{ALICE, BOB, Gateway, Temp};
use crate::support::is_thorough;

/// The recordings, where this checkout has them beside it.
fn fixtures() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures/streams");
    dir.is_dir().then_some(dir)
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("the folder can be read");
    let mut entries: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    entries
}

/// `PROTOCOL/NAME` and the file of every recording.
fn recordings(dir: &Path) -> Vec<(String, PathBuf)> {
    let folders = entries(dir).into_iter().filter(|folder| folder.is_dir());
    let files = folders.flat_map(|folder| entries(&folder));
    let streams = files.filter(|file| file.extension().is_some_and(|extension| extension == "stream"));
    let named = streams.map(|file| {
        let name = file.strip_prefix(dir).expect("it lies in there").with_extension("");
        (name.to_str().expect("a plain name").to_owned(), file)
    });
    named.collect()
}

/// Where requests of a protocol go.
fn path_of(protocol: &str) -> &'static str {
    match protocol {
        "openai_completions" => "/v1/completions",
        "openai_responses" => "/v1/responses",
        "anthropic_messages" => "/v1/messages",
        "gemini_sse" => "/v1beta/models/asked:streamGenerateContent?alt=sse",
        "gemini_json_array" => "/v1beta/models/asked:streamGenerateContent",
        "bedrock_converse" => "/model/asked/converse-stream",
        "bedrock_invoke" => "/model/asked/invoke-with-response-stream",
        "cohere_v1" => "/v1/chat",
        "cohere_v2" => "/v2/chat",
        "ollama_chat" => "/api/chat",
        "ollama_generate" => "/api/generate",
        _ => "/v1/chat/completions",
    }
}

/// Makes the gateway send a recording, and returns what came.
async fn replay(gateway: &Gateway, name: &str) -> Answer {
    let (protocol, _) = name.split_once('/').expect("PROTOCOL/NAME");
    let header = format!("x-replay: {name}");
    let request = r#"{"model":"asked","stream":true}"#;
    let json = "content-type: application/json";
    curl([&gateway.url(path_of(protocol)), "-H", ALICE, "-H", json, "-H", &header, "-d", request]).await
}

fn read_json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).expect("the answers can be read")).expect("they are JSON")
}

/// What a row must say of a recording whose answers are `said`.
fn check(name: &str, row: &Value, said: &Value) {
    let (protocol, _) = name.split_once('/').expect("PROTOCOL/NAME");
    // Cut before anything was said, it may be any protocol's.
    let is_blank =
        said["text"] == "" && ["model", "finish_reason", "usage"].iter().all(|name| said[name].is_null());
    assert!(row["protocol"] == protocol || is_blank && row["protocol"].is_null(), "{name}: {row}");
    // Some protocols name no model: it is the request's then.
    let model = said["model"].as_str().unwrap_or("asked");
    assert_eq!(row["model"], model, "{name}: {row}");
    assert_eq!(row["finish_reason"], said["finish_reason"], "{name}: {row}");
    let text = said["text"].as_str().expect("a text");
    assert_eq!(row["text_len"], text.chars().count(), "{name}: {row}");

    let usage = &said["usage"];
    let basis = row["usage_basis"].as_str().expect("a basis");
    // An estimate stands only where nothing was reported.
    let estimated = basis == "estimated";
    for (count, expected) in [
        ("input_tokens", &usage["input_tokens"]),
        ("output_tokens", &usage["output_tokens"]),
        ("cached_input_tokens", &usage["cached_input_tokens"]),
        ("cache_write_input_tokens", &usage["cache_creation_input_tokens"]),
        ("reasoning_tokens", &usage["reasoning_tokens"]),
        ("total_tokens", &usage["total_tokens"]),
    ] {
        assert!(row[count] == *expected || estimated && expected.is_null(), "{name}: {count}: {row}");
    }
    assert!(!usage.is_null() || matches!(basis, "estimated" | "absent"), "{name}: {row}");
}

#[tokio::test]
async fn recordings_arrive_byte_for_byte_with_one_row() {
    need_curl!();
    let Some(dir) = fixtures() else {
        println!("skipped: there are no recordings at ../shared/fixtures/streams");
        return;
    };
    let recordings = recordings(&dir);
    assert!(recordings.len() > 50, "{} recordings", recordings.len());
    let dir = dir.to_str().expect("a plain path");
    let gateway = Gateway::start(&["--replay", dir, "--token-interval", "0ms"]).await;
    let mut expected = HashMap::new();
    for (name, file) in &recordings {
        let answer = replay(&gateway, name).await;
        let body = fs::read(file).expect("the recording can be read");
        assert_eq!((answer.exit, answer.status), (Some(0), 200), "{name}");
        assert!(answer.body == body, "{name}: {} bytes came of {}", answer.body.len(), body.len());
        let said = read_json(&file.with_extension("expected.json"));
        assert_eq!(answer.header("content-type"), said["content_type"].as_str(), "{name}");
        expected.insert(answer.id().to_owned(), (name, body.len(), said));
    }
    let rows = gateway.rows().await;
    assert_eq!(rows.len(), recordings.len());
    for row in rows {
        let (name, length, said) = expected.remove(row["id"].as_str().expect("an id")).expect("one row each");
        assert_eq!(row["bytes"], length, "{name}");
        assert_eq!(row["bytes_produced"], length, "{name}");
        assert_eq!(row["chunks"], length.div_ceil(512), "{name}");
        let is_error = said.get("error").is_some_and(|error| !error.is_null());
        assert_eq!(row["outcome"], if is_error { "failed" } else { "completed" }, "{name}: {row}");
        assert_eq!(row["in_band_error"].is_string(), is_error, "{name}: {row}");
        // An event whose last blank line is missing counts, if its JSON is whole.
        let said = said.get("if_flushed").map_or(said.clone(), |flushed| merged(&said, flushed));
        if said.get("unterminated_tail").is_none() {
            let terminated = said["terminated"].as_bool().map(u8::from);
            assert_eq!(row["terminated"], Value::from(terminated), "{name}: {row}");
        }
        check(name, &row, &said);
        assert!(said["usage"].is_null() || row["usage_basis"] == "reported", "{name}: {row}");
    }
}

/// `said`, with what `instead` has in its place.
fn merged(said: &Value, instead: &Value) -> Value {
    let mut said = said.as_object().expect("an object").clone();
    said.extend(instead.as_object().expect("an object").clone());
    Value::Object(said)
}

/// A folder with recordings that were cut, and what their rows must say.
fn cut(dir: &Path) -> (Temp, HashMap<String, Value>) {
    let root = Temp::new("");
    let mut expected = HashMap::new();
    for (name, file) in recordings(dir) {
        let Ok(cuts) = fs::read_to_string(file.with_extension("cuts.jsonl")) else { continue };
        let body = fs::read(&file).expect("the recording can be read");
        let content_type = &read_json(&file.with_extension("expected.json"))["content_type"];
        // The first, the last and those between are all alike to the gateway: every second one will do.
        for said in cuts.lines().step_by(2) {
            let said: Value = serde_json::from_str(said).expect("the answers are JSON");
            let at = said["at"].as_u64().expect("a place") as usize;
            let name = format!("{name}-{at}");
            let file = root.path().join(&name);
            fs::create_dir_all(file.parent().expect("a folder")).expect("the folder can be made");
            // Not `with_extension`: the names have dots.
            let extended = |extension: &str| PathBuf::from(format!("{}{extension}", file.display()));
            fs::write(extended(".stream"), &body[..at]).expect("written");
            let head = serde_json::json!({"content_type": content_type}).to_string();
            fs::write(extended(".expected.json"), head).expect("written");
            expected.insert(name, said);
        }
    }
    (root, expected)
}

#[tokio::test]
async fn cut_recording_is_billed_for_what_was_reported() {
    need_curl!();
    let Some(dir) = fixtures() else {
        println!("skipped: there are no recordings at ../shared/fixtures/streams");
        return;
    };
    let (root, expected) = cut(&dir);
    assert!(expected.len() > 50, "{} cuts", expected.len());
    let dir = root.path().to_str().expect("a plain path");
    let gateway = Gateway::start(&["--replay", dir, "--token-interval", "0ms"]).await;
    // Each takes a process of curl: by default one in three.
    let step = if is_thorough() { 1 } else { 3 };
    for (name, said) in expected.iter().step_by(step) {
        let answer = replay(&gateway, name).await;
        assert_eq!((answer.exit, answer.status), (Some(0), 200), "{name}");
        let row = gateway.row(answer.id()).await;
        let terminated = said["terminated"].as_bool().map(u8::from);
        assert_eq!(row["terminated"], Value::from(terminated), "{name}: {row}");
        check(name, &row, said);
    }
    drop(gateway);
    fs::remove_dir_all(root.path()).expect("the folder can be removed");
}

/// A folder with one recording, and something outside that must not be reachable.
fn small() -> (Temp, PathBuf) {
    let root = Temp::new("");
    let dir = root.path().join("streams");
    let protocol = dir.join("openai_chat");
    fs::create_dir_all(&protocol).expect("the folder can be made");
    fs::write(protocol.join("short.stream"), "0123456789").expect("written");
    fs::write(protocol.join("short.expected.json"), r#"{"content_type":"Text/Odd; a=b"}"#).expect("written");
    fs::write(root.path().join("secret.stream"), "secret").expect("written");
    fs::write(root.path().join("secret.expected.json"), r#"{"content_type":"text/plain"}"#).expect("written");
    (root, dir)
}

#[tokio::test]
async fn only_recordings_are_served_in_chunks() {
    need_curl!();
    let (root, dir) = small();
    let dir = dir.to_str().expect("a plain path");
    let gateway = Gateway::start(&["--replay", dir, "--token-interval", "1ms", "--chunk-bytes", "3"]).await;
    let url = gateway.url("/v1/messages");
    let answer = curl([&url, "-H", BOB, "-H", "x-replay: openai_chat/short", "-d", "{}"]).await;
    assert_eq!(answer.text(), "0123456789");
    assert_eq!(answer.header("content-type"), Some("Text/Odd; a=b"));
    let row = gateway.row(answer.id()).await;
    assert_eq!((row["chunks"].as_u64(), row["bytes"].as_u64()), (Some(4), Some(10)));

    for name in
        ["openai_chat/shot", "../secret", "openai_chat/../../secret", "/etc/passwd", "openai_chat", "x"]
    {
        let answer = curl([&url, "-H", BOB, "-H", &format!("x-replay: {name}"), "-d", "{}"]).await;
        assert_eq!(answer.status, 404, "{name}");
        let message = answer.json()["error"]["message"].as_str().expect("a message").to_owned();
        assert!(message.contains("openai_chat/short") && message.contains(name), "{message}");
        assert_eq!(gateway.row(answer.id()).await["status"], 404);
    }
    let none = curl([&url, "-H", BOB, "-d", "{}"]).await;
    assert_eq!(none.status, 400);
    assert!(none.text().contains("x-replay"), "{none:?}");

    let head = curl_command([&url, "-H", BOB, "-H", "x-replay: openai_chat/short", "-I"]);
    let mut head = head;
    let output = head.output().await.expect("curl runs");
    assert_eq!(parse(output.status.code(), &output.stdout).status, 405);
    assert_eq!(gateway.rows().await.len(), 8);
    drop(gateway);
    fs::remove_dir_all(root.path()).expect("the folder can be removed");
}
