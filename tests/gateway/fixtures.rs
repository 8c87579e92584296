//! Recorded streams, replayed through the gateway.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{ALICE, BOB, Gateway, Temp, curl, curl_command, need_curl, parse};

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

#[tokio::test]
async fn every_recording_arrives_byte_for_byte_with_one_row() {
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
        let header = format!("x-replay: {name}");
        let answer = curl([&gateway.url("/any/path"), "-H", ALICE, "-H", &header, "-d", "{}"]).await;
        let body = fs::read(file).expect("the recording can be read");
        assert_eq!((answer.exit, answer.status), (Some(0), 200), "{name}");
        assert!(answer.body == body, "{name}: {} bytes came of {}", answer.body.len(), body.len());
        let said = fs::read(file.with_extension("expected.json")).expect("its answers can be read");
        let said: Value = serde_json::from_slice(&said).expect("they are JSON");
        assert_eq!(answer.header("content-type"), said["content_type"].as_str(), "{name}");
        expected.insert(answer.id().to_owned(), (name, body.len()));
    }
    let rows = gateway.rows().await;
    assert_eq!(rows.len(), recordings.len());
    for row in rows {
        let (name, length) = expected.remove(row["id"].as_str().expect("an id")).expect("one row each");
        assert_eq!(row["outcome"], "completed", "{name}");
        assert_eq!(row["bytes"], length, "{name}");
        assert_eq!(row["chunks"], length.div_ceil(512), "{name}");
    }
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
async fn recordings_are_cut_into_chunks_and_nothing_else_is_served() {
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
