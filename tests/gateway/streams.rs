//! What the gateway answers, and the row that it leaves.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::curl::{chat, curl, curl_command, need_curl};
use crate::ledger::ROW_KEYS;
use crate::process::{ALICE, BOB, Gateway};

/// Path, request, and how the last event of the stream is known.
fn protocols(stream: bool) -> Vec<(&'static str, Value, &'static str)> {
    let messages = json!([{"role": "user", "content": "how are you"}]);
    vec![
        (
            "/v1/chat/completions",
            json!({"model": "demo", "max_tokens": 5, "messages": messages, "stream": stream}),
            "data: [DONE]",
        ),
        (
            "/v1/completions",
            json!({"model": "demo", "max_tokens": 5, "prompt": "how are you", "stream": stream}),
            "data: [DONE]",
        ),
        (
            "/v1/responses",
            json!({"model": "demo", "max_output_tokens": 5, "input": "how are you", "stream": stream}),
            "response.incomplete",
        ),
        (
            "/v1/messages",
            json!({"model": "demo", "max_tokens": 5, "messages": messages, "stream": stream}),
            "message_stop",
        ),
    ]
}

#[tokio::test]
async fn closed_stderr_stops_no_stream() {
    need_curl!();
    let gateway = Gateway::start_unheard(&["--token-interval", "1ms"]).await;
    let answer = curl([&gateway.url("/v1/chat/completions"), "-H", ALICE, "-d", &chat(20)]).await;
    assert_eq!((answer.exit, answer.status), (Some(0), 200), "{answer:?}");
    let row = gateway.row(answer.id()).await;
    assert_eq!((&row["outcome"], &row["attempt"]), (&json!("completed"), &json!(1)), "{row}");
    gateway.signal("TERM").await;
    let (status, said, _) = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
    assert!(said.contains("1 completed") && said.contains("; balanced"), "{said}");
}

#[tokio::test]
async fn every_protocol_completes_with_one_row() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "1ms"]).await;
    for stream in [true, false] {
        for (path, request, end) in protocols(stream) {
            let answer =
                curl([gateway.url(path), "-H".into(), ALICE.into(), "-d".into(), request.to_string()]).await;
            assert_eq!((answer.exit, answer.status), (Some(0), 200), "{path}: {answer:?}");
            let kind = if stream { "text/event-stream" } else { "application/json" };
            assert!(answer.header("content-type").is_some_and(|value| value.starts_with(kind)), "{answer:?}");
            if stream {
                let last = answer.text().trim_end().rsplit("\n\n").next();
                assert!(last.is_some_and(|last| last.contains(end)), "{path}: {answer:?}");
            }
            let row = gateway.row(answer.id()).await;
            let keys: Vec<_> = row.as_object().expect("an object").keys().map(String::as_str).collect();
            assert_eq!(keys, ROW_KEYS);
            assert_eq!(row["tenant"], "alice");
            assert_eq!(row["method"], "POST");
            assert_eq!(row["path"], path);
            assert_eq!(row["outcome"], "completed");
            assert_eq!(row["phase"], "body");
            assert_eq!(row["ended_by"], "upstream");
            assert_eq!(row["error"], Value::Null);
            assert_eq!(row["status"], 200);
            assert_eq!(row["bytes"], answer.body.len());
            // More was produced where the gateway asked for usage that it did not pass on.
            assert!(row["bytes_produced"].as_u64() >= row["bytes"].as_u64(), "{row}");
            assert_eq!(row["attempt"], 1);
            let started = row["started_at"].as_str().expect("a time");
            assert_eq!(started.len(), "2026-01-01T00:00:00.000Z".len(), "{started}");
            assert!(humantime::parse_rfc3339(started).is_ok(), "{started}");
            assert!(row["first_chunk_ms"].as_f64() <= row["duration_ms"].as_f64(), "{row}");
        }
    }
    assert_eq!(gateway.rows().await.len(), 8);
}

#[tokio::test]
async fn chat_counts_tokens_only_where_asked() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "0ms"]).await;
    let mut request = json!({
        "model": "any",
        "messages": [{"role": "user", "content": "how are you"}],
        "stream": true,
        "max_completion_tokens": 3,
    });
    let plain = curl([&gateway.url("/v1/chat/completions"), "-H", ALICE, "-d", &request.to_string()]).await;
    assert!(plain.events().iter().all(|event| event.get("usage").is_none()), "{plain:?}");

    request["stream_options"] = json!({"include_usage": true});
    let counted = curl([&gateway.url("/v1/chat/completions"), "-H", ALICE, "-d", &request.to_string()]).await;
    let events = counted.events();
    let (last, others) = events.split_last().expect("events");
    assert!(others.iter().all(|event| event["usage"] == Value::Null && event.get("usage").is_some()));
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["prompt_tokens"], 3);
    assert_eq!(last["usage"]["completion_tokens"], 3);
    let text: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text.split(' ').count(), 3, "{text}");
    assert_eq!(others.last().map(|event| &event["choices"][0]["finish_reason"]), Some(&json!("length")));

    // Without a limit the answer has 64 words and ends by itself.
    request.as_object_mut().expect("an object").remove("max_completion_tokens");
    request["stream"] = json!(false);
    let whole =
        curl([&gateway.url("/v1/chat/completions"), "-H", ALICE, "-d", &request.to_string()]).await.json();
    assert_eq!(whole["usage"]["completion_tokens"], 64);
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let text = whole["choices"][0]["message"]["content"].as_str().expect("text");
    assert_eq!(text.split(' ').count(), 64);
}

#[tokio::test]
async fn leaving_cancels_within_a_second() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "2ms"]).await;
    let mut client =
        curl_command([&gateway.url("/v1/chat/completions"), "-H", ALICE, "-d", &chat(1_000_000)])
            .spawn()
            .expect("curl starts");
    let live = gateway.live(5).await;
    assert_eq!(live["tenant"], "alice");
    assert_eq!(live["path"], "/v1/chat/completions");
    assert!(live["age_ms"].as_f64().is_some_and(|age| age > 0.0), "{live}");
    client.kill().await.expect("curl is killed");

    let row = gateway.row_within(live["id"].as_str().expect("an id"), Duration::from_secs(1)).await;
    assert_eq!(row["outcome"], "cancelled");
    assert_eq!(row["phase"], "body");
    assert_eq!(row["evidence"], "dropped");
    assert_eq!(row["ended_by"], "downstream");
    assert_eq!(row["status"], 200);
    assert!(row["bytes"].as_u64() >= live["bytes"].as_u64(), "{row} after {live}");
    assert_eq!(gateway.settled().await["settled"]["cancelled"], 1);
    assert_eq!(gateway.get("/streams").await, json!([]));
}

#[tokio::test]
async fn every_http_version_completes_and_cancels() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "2ms"]).await;
    let url = gateway.url("/v1/chat/completions");
    for version in ["--http1.0", "--http1.1", "--http2-prior-knowledge"] {
        let answer = curl([version, &url, "-H", ALICE, "-d", &chat(3)]).await;
        if answer.exit == Some(1) {
            println!("skipped: this curl has no {version}");
            continue;
        }
        assert_eq!((answer.exit, answer.status), (Some(0), 200), "{version}");
        let row = gateway.row(answer.id()).await;
        assert_eq!(
            (&row["outcome"], &row["bytes"]),
            (&json!("completed"), &json!(answer.body.len())),
            "{version}"
        );

        let client = curl_command([version, &url, "-H", ALICE, "-d", &chat(1_000_000)]).spawn();
        let live = gateway.live(3).await;
        client.expect("curl starts").kill().await.expect("curl is killed");
        let row = gateway.row_within(live["id"].as_str().expect("an id"), Duration::from_secs(1)).await;
        assert_eq!((&row["outcome"], &row["phase"]), (&json!("cancelled"), &json!("body")), "{version}");
    }
}

#[tokio::test]
async fn leaving_before_the_head_cancels() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "1s"]).await;
    let body = chat(1000).replace("true", "false");
    let mut client = curl_command([&gateway.url("/v1/chat/completions"), "-H", ALICE, "-d", &body])
        .spawn()
        .expect("curl starts");
    let live = gateway.live(0).await;
    client.kill().await.expect("curl is killed");
    let row = gateway.row_within(live["id"].as_str().expect("an id"), Duration::from_secs(1)).await;
    assert_eq!(row["outcome"], "cancelled");
    assert_eq!(row["phase"], "before_head");
    assert_eq!(row["status"], Value::Null);
    assert_eq!(row["first_chunk_ms"], Value::Null);
}

#[tokio::test]
async fn delete_stops_a_stream() {
    need_curl!();
    // It says nothing more for an hour, and is stopped all the same.
    let gateway = Gateway::start(&["--token-interval", "1h"]).await;
    let client = curl_command([&gateway.url("/v1/messages"), "-H", BOB, "-d", &chat(1_000_000)])
        .spawn()
        .expect("curl starts");
    let live = gateway.live(1).await;
    let id = live["id"].as_str().expect("an id");
    let url = gateway.url(&format!("/streams/{id}"));
    assert_eq!(curl(["-X", "DELETE", &url]).await.status, 204);

    let output = client.wait_with_output().await.expect("curl ends");
    assert_eq!(output.status.code(), Some(18), "the client sees that the transfer broke off");
    let row = gateway.row(id).await;
    assert_eq!(row["outcome"], "cancelled");
    assert_eq!(row["evidence"], "stopped");
    assert_eq!(row["ended_by"], "layer");
    assert_eq!(row["error"], "cancelled");
    assert_eq!(row["tenant"], "bob");

    assert_eq!(curl(["-X", "DELETE", &url]).await.status, 404, "it is not live any more");
    assert_eq!(curl(["-X", "DELETE", &gateway.url("/streams/nonsense")]).await.status, 404);
}

#[tokio::test]
async fn fifty_clients_at_once_leave_fifty_rows() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "5ms"]).await;
    let url = gateway.url("/v1/chat/completions");
    let mut clients = JoinSet::new();
    for number in 0..50 {
        let (url, key) = (url.clone(), if number % 2 == 0 { ALICE } else { BOB });
        clients.spawn(async move { curl([&url, "-H", key, "-d", &chat(20)]).await });
    }
    let answers = clients.join_all().await;
    let rows = gateway.rows().await;
    assert_eq!(rows.len(), 50);
    for answer in &answers {
        assert_eq!((answer.exit, answer.status), (Some(0), 200));
        let row = rows.iter().find(|row| row["id"] == answer.id()).expect("every answer has its row");
        assert_eq!(row["outcome"], "completed");
        assert_eq!(row["bytes"], answer.body.len());
    }
    let audit = gateway.settled().await;
    assert_eq!(audit["opened"], 50);
    assert_eq!(audit["hooks"].as_array().map(Vec::len), Some(1));
    assert_eq!(audit["hooks"][0]["delivered"], 50);
}

#[tokio::test]
async fn requests_without_a_known_key_leave_no_row() {
    need_curl!();
    let gateway = Gateway::start(&[]).await;
    for key in
        ["x-other: 1", "authorization: Bearer sk-wrong", "x-api-key: sk-wrong", "authorization: Basic sk"]
    {
        let openai = curl([&gateway.url("/v1/chat/completions"), "-H", key, "-d", &chat(1)]).await;
        assert_eq!(openai.status, 401);
        assert_eq!(openai.header("x-stream-id"), None);
        assert_eq!(openai.json()["error"]["code"], "invalid_api_key");
        assert!(!openai.text().contains("sk-wrong"), "the key is not repeated");
        let anthropic = curl([&gateway.url("/v1/messages"), "-H", key, "-d", &chat(1)]).await;
        assert_eq!(anthropic.status, 401);
        assert_eq!(anthropic.json()["type"], "error");
        assert_eq!(anthropic.json()["error"]["type"], "authentication_error");
    }
    // Neither do other methods, key or not.
    assert_eq!(curl([&gateway.url("/v1/chat/completions"), "-H", ALICE]).await.status, 405);
    assert_eq!(curl([gateway.url("/nothing")]).await.status, 401);
    assert_eq!(gateway.rows().await, Vec::<Value>::new());
    assert_eq!(gateway.settled().await["opened"], 0);
}

#[tokio::test]
async fn every_post_leaves_a_row_whatever_its_status() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "0ms"]).await;
    let cases = [
        ("/v1/chat/completions", "{\"model\":", 400, "/v1/chat/completions", "JSON"),
        ("/v1/chat/completions", "[]", 400, "/v1/chat/completions", "object"),
        ("/v1/messages", "{}", 400, "/v1/messages", "model"),
        ("/v1/responses", r#"{"model":"m"}"#, 400, "/v1/responses", "input"),
        (
            "/v1/completions",
            r#"{"model":"m","prompt":"p","max_tokens":-1}"#,
            400,
            "/v1/completions",
            "max_tokens",
        ),
        ("/v1/embeddings?a=b", "{}", 404, "/v1/embeddings", "/v1/embeddings"),
        // The endpoints of the operator are for other methods.
        ("/ledger?limit=1", "{}", 404, "/ledger", "/ledger"),
        ("/", "", 404, "/", "/v1/messages"),
    ];
    for (url, body, status, path, named) in cases {
        let answer = curl([&gateway.url(url), "-H", ALICE, "-d", body]).await;
        assert_eq!(answer.status, status, "{url}: {answer:?}");
        assert!(
            answer.json()["error"]["message"].as_str().is_some_and(|text| text.contains(named)),
            "{answer:?}"
        );
        let row = gateway.row(answer.id()).await;
        assert_eq!(row["status"], status);
        assert_eq!(row["path"], path);
        assert_eq!(row["outcome"], "completed");
        assert_eq!(row["bytes"], answer.body.len());
    }
    let anthropic = curl([&gateway.url("/v1/messages"), "-H", ALICE, "-d", "{}"]).await.json();
    assert_eq!(anthropic["error"]["type"], "invalid_request_error");
    assert_eq!(gateway.rows().await.len(), cases.len() + 1);
}
