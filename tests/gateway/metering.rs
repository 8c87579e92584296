//! What the rows say of the model, its tokens and their cost.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::curl::{chat, curl, need_curl};
use crate::process::{ALICE, BOB, Gateway, PATIENCE, PRICES, Temp};
use crate::upstream::{provider, read_request};

const EVENTS: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// Without it curl says that the body is a form, and a form is not read.
const JSON: &str = "content-type: application/json";

/// Path, request, protocol, and the reason for the end after five words.
fn protocols() -> [(&'static str, Value, &'static str, &'static str); 4] {
    let messages = json!([{"role": "user", "content": "how are you"}]);
    [
        (
            "/v1/chat/completions",
            json!({"model": "demo", "max_tokens": 5, "messages": messages}),
            "openai_chat",
            "length",
        ),
        (
            "/v1/completions",
            json!({"model": "demo", "max_tokens": 5, "prompt": "how are you"}),
            "openai_completions",
            "length",
        ),
        (
            "/v1/responses",
            json!({"model": "demo", "max_output_tokens": 5, "input": "how are you"}),
            "openai_responses",
            "max_output_tokens",
        ),
        (
            "/v1/messages",
            json!({"model": "demo", "max_tokens": 5, "messages": messages}),
            "anthropic_messages",
            "max_tokens",
        ),
    ]
}

#[tokio::test]
async fn rows_have_usage_and_costs() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "1ms", "--prices", PRICES]).await;
    assert!(gateway.banner.contains(&format!("2 from {PRICES}")), "{}", gateway.banner);
    for stream in [true, false] {
        for (path, mut request, protocol, reason) in protocols() {
            request["stream"] = stream.into();
            let answer = curl([&gateway.url(path), "-H", ALICE, "-d", &request.to_string()]).await;
            let row = gateway.row(answer.id()).await;
            let expected = json!({
                "model": "demo",
                "protocol": protocol,
                "input_tokens": 3,
                "output_tokens": 5,
                "total_tokens": 8,
                "usage_basis": "reported",
                "finish_reason": reason,
                "in_band_error": null,
                "text_len": "every stream ends once and".len(),
                // 3 at 2.50 and 5 at 10: 57.5 millionths.
                "cost_micros": 58,
            });
            for (name, value) in expected.as_object().expect("an object") {
                assert_eq!(&row[name], value, "{path}, stream {stream}: {name} of {row}");
            }
            // The older protocol speaks neither of caches nor of reasoning, and null is not zero.
            let zero = if protocol == "openai_completions" { Value::Null } else { json!(0) };
            assert_eq!(row["cached_input_tokens"], zero, "{row}");
            if stream {
                assert_eq!(row["terminated"], 1, "{row}");
                assert!(row["first_text_ms"].as_f64() <= row["duration_ms"].as_f64(), "{row}");
                assert!(row["first_text_ms"].as_f64() >= row["first_chunk_ms"].as_f64(), "{row}");
            }
        }
    }
}

#[tokio::test]
async fn a_model_without_a_price_costs_null() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "0ms", "--prices", PRICES]).await;
    let row = async |model: &str| {
        let request = chat(10).replace("demo", model);
        let answer = curl([&gateway.url("/v1/chat/completions"), "-H", ALICE, "-d", &request]).await;
        gateway.row(answer.id()).await
    };
    let unknown = row("another").await;
    assert_eq!((&unknown["model"], &unknown["output_tokens"]), (&json!("another"), &json!(10)));
    assert_eq!(unknown["cost_micros"], Value::Null);
    // 1 at 0.15 and 10 at 0.60.
    assert_eq!(row("demo-small-2026-01-01").await["cost_micros"], 6);
    // A request that was refused used nothing that anybody knows of.
    let refused =
        curl([&gateway.url("/v1/chat/completions"), "-H", ALICE, "-d", "{\"model\":\"demo\"}"]).await;
    let refused = gateway.row(refused.id()).await;
    assert_eq!((&refused["status"], &refused["usage_basis"]), (&json!(400), &json!("absent")));
    assert_eq!((&refused["output_tokens"], &refused["cost_micros"]), (&Value::Null, &Value::Null));
}

/// A provider that sends `events` and then says nothing more, and never ends the body.
async fn held_open(events: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.expect("a client");
        read_request(&mut client).await;
        let answer = format!("{EVENTS}{:x}\r\n{events}\r\n", events.len());
        client.write_all(answer.as_bytes()).await.expect("the answer is written");
        // Until the gateway hangs up.
        while client.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
    });
    url
}

/// Sends a request to the gateway and hangs up as soon as `end` has come.
async fn leave_at(gateway: &Gateway, path: &str, key: &str, end: &str) -> String {
    let address = gateway.base.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("the gateway is there");
    let body = chat(5);
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\n{key}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("the request is written");
    let mut seen = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&seen).contains(end) {
            assert_ne!(stream.read_buf(&mut seen).await.expect("the answer can be read"), 0, "it broke off");
        }
    };
    timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("no {end}"));
    String::from_utf8(seen).expect("text")
}

#[tokio::test]
async fn leaving_at_the_protocols_end_completes() {
    need_curl!();
    let chat = "data: {\"object\":\"chat.completion.chunk\",\"model\":\"demo\",\"choices\":[{\"index\":0,\
                \"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n\
                data: {\"object\":\"chat.completion.chunk\",\"model\":\"demo\",\"choices\":[],\
                \"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\ndata: [DONE]\n\n";
    let messages = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"demo\",\
                    \"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n\
                    event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\
                    \"delta\":{\"type\":\"text_delta\",\"text\":\"hi\"}}\n\n\
                    event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\
                    \"usage\":{\"output_tokens\":2}}\n\n\
                    event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    for (path, key, events, end, reason) in [
        ("/v1/chat/completions", ALICE, chat, "[DONE]\n\n", "stop"),
        ("/v1/messages", BOB, messages, "\"message_stop\"}\n\n", "end_turn"),
    ] {
        let gateway = Gateway::start(&["--upstream", &held_open(events).await]).await;
        let seen = leave_at(&gateway, path, key, end).await;
        assert!(path == "/v1/messages" || !seen.contains("usage"), "{seen}");
        let rows = gateway.rows().await;
        let expected = json!({
            "outcome": "completed",
            "evidence": "logical_end",
            "terminated": 1,
            "usage_basis": "reported",
            "finish_reason": reason,
            "input_tokens": 1,
            "output_tokens": 2,
            "text_len": 2,
        });
        for (name, value) in expected.as_object().expect("an object") {
            assert_eq!(&rows[0][name], value, "{path}: {name} of {}", rows[0]);
        }
    }
}

#[tokio::test]
async fn an_error_inside_the_stream_is_failed() {
    need_curl!();
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
                  event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    let (url, served) = provider(answer).await;
    let gateway = Gateway::start(&["--upstream", &url]).await;
    let answer = curl([&gateway.url("/v1/messages"), "-H", BOB, "-H", JSON, "-d", &chat(5)]).await;
    served.await.expect("the provider served");
    assert_eq!((answer.exit, answer.status), (Some(0), 200), "the client is told by the stream itself");
    let row = gateway.row(answer.id()).await;
    assert_eq!((&row["outcome"], &row["ended_by"]), (&json!("failed"), &json!("upstream")), "{row}");
    assert_eq!(row["in_band_error"], "overloaded_error: Overloaded");
    assert!(row["error"].as_str().is_some_and(|error| error.contains("Overloaded")), "{row}");
    assert_eq!(row["model"], "demo", "the request's, as the response names none: {row}");
}

#[tokio::test]
async fn usage_is_asked_for_and_not_passed_on() {
    need_curl!();
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncontent-length: 203\r\n\r\n\
                  data: {\"model\":\"m\", \"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\u00e9\"}}], \"usage\": null}\r\n\r\n\
                  data: {\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":9}}\r\n\r\n\
                  : bye\r\n\r\ndata: [DONE]\r\n\r\n";
    let expected = "data: {\"model\":\"m\", \"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\u00e9\"}}]}\r\n\r\n\
                    : bye\r\n\r\ndata: [DONE]\r\n\r\n";
    let (_, sent) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(answer.contains(&format!("content-length: {}", sent.len())), "{}", sent.len());

    let (url, served) = provider(answer).await;
    let gateway = Gateway::start(&["--upstream", &url]).await;
    let url = gateway.url("/openai/deployments/x/chat/completions?api-version=1");
    let answer = curl([&url, "-H", ALICE, "-H", "accept-encoding: gzip", "-d", &chat(5)]).await;
    let request = served.await.expect("the provider served");
    let (head, body) = request.split_once("\r\n\r\n").expect("a head");
    assert_eq!(body, chat(5).replace("}]}", "}],\"stream_options\":{\"include_usage\":true}}"));
    assert!(head.to_lowercase().contains(&format!("content-length: {}", body.len())), "{head}");
    assert!(!head.to_lowercase().contains("accept-encoding"), "{head}");

    assert_eq!((answer.exit, answer.text()), (Some(0), expected));
    let row = gateway.row(answer.id()).await;
    assert_eq!((&row["bytes"], &row["bytes_produced"]), (&json!(expected.len()), &json!(sent.len())));
    assert_eq!((&row["outcome"], &row["usage_basis"]), (&json!("completed"), &json!("reported")), "{row}");
    assert_eq!((&row["input_tokens"], &row["output_tokens"]), (&json!(7), &json!(9)), "{row}");
    assert_eq!((&row["model"], &row["text_len"]), (&json!("m"), &json!(1)), "{row}");
}

#[tokio::test]
async fn requested_usage_passes_unchanged() {
    need_curl!();
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
                  data: {\"choices\":[{\"index\":0,\"delta\":{}}],\"usage\":null}\n\n\
                  data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7}}\n\ndata: [DONE]\n\n";
    let (url, served) = provider(answer).await;
    let gateway = Gateway::start(&["--upstream", &url]).await;
    let asking = chat(5).replace("}]}", "}],\"stream_options\":{\"include_usage\":true}}");
    let url = gateway.url("/v1/chat/completions");
    let got = curl([&url, "-H", ALICE, "-H", "accept-encoding: gzip", "-d", &asking]).await;
    let request = served.await.expect("the provider served");
    assert!(request.ends_with(&asking), "{request}");
    assert!(request.to_lowercase().contains("accept-encoding: gzip"), "{request}");
    assert_eq!(Some(got.text()), answer.split_once("\r\n\r\n").map(|(_, sent)| sent));
}

/// A provider that says how much the request's chunked body was, framing included, and what it ended with.
async fn swallow() -> (String, JoinHandle<(usize, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let served = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.expect("a client");
        let (mut length, mut end, mut buffer) = (0, Vec::new(), vec![0; 64 * 1024]);
        while !end.ends_with(b"\r\n0\r\n\r\n") {
            let read = client.read(&mut buffer).await.expect("the request can be read");
            assert_ne!(read, 0, "the request broke off");
            length += read;
            end.extend_from_slice(&buffer[..read]);
            end.drain(..end.len().saturating_sub(64));
        }
        let answer = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
        client.write_all(answer.as_bytes()).await.expect("the answer is written");
        (length, String::from_utf8_lossy(&end).into_owned())
    });
    (url, served)
}

#[tokio::test]
async fn overlong_request_passes_unchanged() {
    need_curl!();
    let length = 65 * 1024 * 1024;
    let file = Temp::file(".json", &format!("{{\"stream\":true,\"prompt\":\"{}\"}}", "x".repeat(length)));
    let (url, served) = swallow().await;
    let gateway = Gateway::start(&["--upstream", &url]).await;
    let url = gateway.url("/v1/completions");
    let body = format!("@{}", file.path().display());
    let chunked = "transfer-encoding: chunked";
    let answer = curl([&url, "-H", ALICE, "-H", JSON, "-H", chunked, "--data-binary", &body]).await;
    let (sent, end) = served.await.expect("the provider served");
    assert_eq!((answer.exit, answer.status), (Some(0), 204), "{answer:?}");
    assert!(sent > length, "{sent}");
    assert!(end.ends_with("x\"}\r\n0\r\n\r\n"), "{end}");
}

#[tokio::test]
async fn what_cannot_be_looked_through_passes() {
    need_curl!();
    let packed = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: x-odd\r\n\
                  connection: close\r\n\r\ndata: {\"choices\":[],\"usage\":{}}\n\n";
    let whole = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n\
                 data: {\"choices\":[],\"usage\":{}}\n\n";
    let refused = "HTTP/1.1 429 Too Many Requests\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
                   data: {\"choices\":[],\"usage\":{}}\n\n";
    for answer in [packed, whole, refused] {
        let (url, served) = provider(answer).await;
        let gateway = Gateway::start(&["--upstream", &url]).await;
        let got = curl([&gateway.url("/v1/completions"), "-H", ALICE, "-d", &chat(5)]).await;
        served.await.expect("the provider served");
        assert_eq!(got.text(), "data: {\"choices\":[],\"usage\":{}}\n\n");
        assert_eq!(gateway.row(got.id()).await["bytes"], got.body.len());
    }
}
