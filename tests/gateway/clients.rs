//! The official clients of OpenAI and Anthropic against the gateway: in Python, and OpenAI's in JavaScript.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use crate::curl::need_curl;
use crate::process::{Gateway, PATIENCE, PRICES};

/// The exit code of a script that cannot import the clients.
const NOT_INSTALLED: i32 = 77;

/// Runs one scene of `clients.py`: what it prints. None where the clients are not installed.
async fn play(gateway: &Gateway, scene: &str) -> Option<Vec<Value>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let venv = std::env::var_os("GATEWAY_TEST_VENV").map(PathBuf::from);
    let python = venv.unwrap_or_else(|| root.join("target/venv")).join("bin/python");
    if !python.exists() {
        println!("skipped: there is no {}", python.display());
        return None;
    }
    let mut script = Command::new(&python);
    script.arg(root.join("tests/gateway/clients.py")).args([scene, &gateway.base]);
    let seen = printed(script, scene).await;
    if seen.is_none() {
        println!("skipped: {} has no openai and anthropic", python.display());
    }
    seen
}

/// Runs one scene of `clients.mjs`, as [`play`] does.
async fn play_node(gateway: &Gateway, scene: &str) -> Option<Vec<Value>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !Command::new("node").arg("--version").output().await.is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no node");
        return None;
    }
    let npm = std::env::var_os("GATEWAY_TEST_NPM").map(PathBuf::from);
    let modules = npm.unwrap_or_else(|| root.join("target/npm")).join("node_modules");
    let mut script = Command::new("node");
    script.arg(root.join("tests/gateway/clients.mjs")).args([scene, &gateway.base]).arg(&modules);
    let seen = printed(script, scene).await;
    if seen.is_none() {
        println!("skipped: there is no openai in {}", modules.display());
    }
    seen
}

/// The list that a script prints. None if it says that the clients are not installed.
async fn printed(mut script: Command, scene: &str) -> Option<Vec<Value>> {
    let run = script.stderr(Stdio::inherit()).kill_on_drop(true).output();
    let Output { status, stdout, .. } =
        timeout(PATIENCE * 4, run).await.expect("the client ends").expect("the client runs");
    if status.code() == Some(NOT_INSTALLED) {
        return None;
    }
    assert!(status.success(), "{scene} failed: see its traceback above");
    Some(serde_json::from_slice(&stdout).expect("the client prints a JSON list"))
}

/// Every answer's row says what the client saw, and that the counts are the provider's own.
async fn same_in_the_ledger(gateway: &Gateway, seen: &[Value]) {
    for answer in seen {
        assert_eq!(answer["text"], "every stream ends once and", "{answer}");
        let row = gateway.row(answer["row"]["id"].as_str().expect("an x-stream-id")).await;
        for (name, value) in answer["row"].as_object().expect("a row") {
            assert_eq!(&row[name], value, "{name} of {answer} is another in {row}");
        }
        assert_eq!(row["outcome"], "completed", "{row}");
        assert_eq!(row["model"], "demo", "{row}");
        assert_eq!(row["usage_basis"], "reported", "{row}");
        assert_eq!((&row["input_tokens"], &row["output_tokens"]), (&json!(3), &json!(5)), "{row}");
        assert_eq!(row["total_tokens"], 8, "{row}");
    }
    assert_eq!(gateway.rows().await.len(), seen.len());
}

/// Every stream that a client left is billed for a part of it, and marked so.
async fn cut_in_the_ledger(gateway: &Gateway, seen: &[Value]) {
    for answer in seen {
        let row =
            gateway.row_within(answer["id"].as_str().expect("an x-stream-id"), Duration::from_secs(1)).await;
        assert_eq!((&row["outcome"], &row["ended_by"]), (&json!("cancelled"), &json!("downstream")), "{row}");
        assert!(matches!(row["usage_basis"].as_str(), Some("partial" | "estimated")), "{row}");
        assert_eq!(row["model"], "demo", "{row}");
        assert_eq!(row["finish_reason"], Value::Null, "{row}");
        assert!(row["text_len"].as_u64() >= answer["text_len"].as_u64(), "{row} after {answer}");
        let count = |name: &str| row[name].as_u64().unwrap_or_else(|| panic!("no {name}: {row}"));
        assert!((1..100).contains(&count("input_tokens")), "{row}");
        // A token is at least one character, and the whole answer would have been a million of them.
        let most = count("text_len").min(999_999);
        assert!((1..=most).contains(&count("output_tokens")), "{row}");
        assert_eq!(count("total_tokens"), count("input_tokens") + count("output_tokens"), "{row}");
        // 2.50 and 10 per million, in millionths, rounded half up.
        let tenths = 25 * count("input_tokens") + 100 * count("output_tokens");
        assert_eq!(count("cost_micros"), (tenths + 5) / 10, "{row}");
    }
    let audit = gateway.settled().await;
    assert_eq!(audit["settled"]["cancelled"], seen.len());
}

#[tokio::test]
async fn complete_streams_and_whole_answers() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "1ms"]).await;
    let Some(seen) = play(&gateway, "complete").await else { return };
    assert_eq!(seen.len(), 8, "four protocols, streamed and not");
    same_in_the_ledger(&gateway, &seen).await;
}

#[tokio::test]
async fn complete_streams_and_whole_answers_in_javascript() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "1ms"]).await;
    let Some(seen) = play_node(&gateway, "complete").await else { return };
    assert_eq!(seen.len(), 6, "three protocols, streamed and not");
    same_in_the_ledger(&gateway, &seen).await;
}

#[tokio::test]
async fn usage_that_the_client_did_not_ask_for() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "1ms"]).await;
    let Some(seen) = play(&gateway, "unasked").await else { return };
    assert_eq!(seen.len(), 4);
    same_in_the_ledger(&gateway, &seen).await;
}

#[tokio::test]
async fn unrequested_usage_is_hidden_in_javascript() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "1ms"]).await;
    let Some(seen) = play_node(&gateway, "unasked").await else { return };
    assert_eq!(seen.len(), 2);
    same_in_the_ledger(&gateway, &seen).await;
}

#[tokio::test]
async fn cancelled_midway() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "2ms", "--prices", PRICES]).await;
    let Some(seen) = play(&gateway, "cancel").await else { return };
    assert_eq!(seen.len(), 12, "four protocols, left at three places");
    cut_in_the_ledger(&gateway, &seen).await;
}

#[tokio::test]
async fn cancelled_midway_in_javascript() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "2ms", "--prices", PRICES]).await;
    let Some(seen) = play_node(&gateway, "cancel").await else { return };
    assert_eq!(seen.len(), 18, "three protocols, left at three places in two ways");
    cut_in_the_ledger(&gateway, &seen).await;
}

#[tokio::test]
async fn errors_arrive_as_the_clients_own_exceptions() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "0ms"]).await;
    let Some(seen) = play(&gateway, "errors").await else { return };
    let expected = json!([
        "openai.AuthenticationError",
        "anthropic.AuthenticationError",
        "openai.BadRequestError max_tokens",
        "anthropic.BadRequestError invalid_request_error",
        "openai.NotFoundError",
    ]);
    assert_eq!(Value::from(seen), expected);
    assert_eq!(gateway.rows().await.len(), 3, "no row for a request without a key");
}

#[tokio::test]
async fn stopped_stream_raises_in_the_client() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "2ms"]).await;
    let Some(seen) = play(&gateway, "stopped").await else { return };
    for answer in seen {
        assert_eq!(answer["raised"], true, "{answer}");
        let row = gateway.row(answer["id"].as_str().expect("an x-stream-id")).await;
        assert_eq!((&row["outcome"], &row["ended_by"]), (&json!("cancelled"), &json!("layer")));
    }
    assert_eq!(gateway.rows().await.len(), 2);
}
