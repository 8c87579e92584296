//! The official Python clients of OpenAI and Anthropic against the gateway.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::{Gateway, PATIENCE, need_curl};

/// The exit code of `clients.py` where it cannot import the clients.
const NOT_INSTALLED: i32 = 77;

/// Runs one scene of `clients.py`: the JSON that it prints. None where the clients are not installed.
async fn play(gateway: &Gateway, scene: &str) -> Option<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let venv = std::env::var_os("GATEWAY_TEST_VENV").map(PathBuf::from);
    let python = venv.unwrap_or_else(|| root.join("target/venv")).join("bin/python");
    if !python.exists() {
        println!("skipped: there is no {}", python.display());
        return None;
    }
    let run = Command::new(&python)
        .arg(root.join("tests/gateway/clients.py"))
        .args([scene, &gateway.base])
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE * 4, run).await.expect("the client ends").expect("the client runs");
    if output.status.code() == Some(NOT_INSTALLED) {
        println!("skipped: {} has no openai and anthropic", python.display());
        return None;
    }
    assert!(output.status.success(), "{scene} failed: see its traceback above");
    Some(serde_json::from_slice(&output.stdout).expect("the client prints JSON"))
}

#[tokio::test]
async fn complete_streams_and_whole_answers() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "1ms"]).await;
    let Some(seen) = play(&gateway, "complete").await else { return };
    let seen = seen.as_array().expect("a list");
    assert_eq!(seen.len(), 8, "four protocols, streamed and not");
    for answer in seen {
        let id = answer["id"].as_str().expect("an x-stream-id");
        let row = gateway.row(id).await;
        assert_eq!(row["outcome"], "completed", "{answer}");
        assert_eq!(row["tenant"], answer["tenant"], "{answer}");
        assert_eq!(row["path"], answer["path"], "{answer}");
        assert_eq!(answer["text"], "every stream ends once and", "{answer}");
        assert_eq!(answer["output_tokens"], 5, "{answer}");
        assert_eq!(answer["input_tokens"], 3, "{answer}");
    }
    assert_eq!(gateway.rows().await.len(), 8);
}

#[tokio::test]
async fn cancelled_midway() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "2ms"]).await;
    let Some(seen) = play(&gateway, "cancel").await else { return };
    let seen = seen.as_array().expect("a list");
    assert_eq!(seen.len(), 4);
    for answer in seen {
        let id = answer["id"].as_str().expect("an x-stream-id");
        let row = gateway.row_within(id, Duration::from_secs(1)).await;
        assert_eq!(
            (&row["outcome"], &row["ended_by"]),
            (&json!("cancelled"), &json!("downstream")),
            "{answer}"
        );
        assert!(row["chunks"].as_u64() >= Some(3), "{row}");
    }
    assert_eq!(gateway.settled().await["settled"]["cancelled"], 4);
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
    assert_eq!(seen, expected);
    assert_eq!(gateway.rows().await.len(), 3, "no row for a request without a key");
}

#[tokio::test]
async fn a_stream_that_is_stopped_raises_in_the_client() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "2ms"]).await;
    let Some(seen) = play(&gateway, "stopped").await else { return };
    for answer in seen.as_array().expect("a list") {
        assert_eq!(answer["raised"], true, "{answer}");
        let row = gateway.row(answer["id"].as_str().expect("an x-stream-id")).await;
        assert_eq!((&row["outcome"], &row["ended_by"]), (&json!("cancelled"), &json!("layer")));
    }
    assert_eq!(gateway.rows().await.len(), 2);
}
