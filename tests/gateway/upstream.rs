//! The gateway as a proxy: what passes through, and what a provider that fails looks like.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::curl::{chat, curl, need_curl};
use crate::process::{ALICE, BOB, Gateway};

/// A provider that answers one request with `answer` and hangs up; gives the request back.
pub(crate) async fn provider(answer: &'static str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let served = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.expect("a client");
        let request = read_request(&mut client).await;
        client.write_all(answer.as_bytes()).await.expect("the answer is written");
        request
    });
    (url, served)
}

/// Reads up to the end of a body whose length is declared.
pub(crate) async fn read_request(client: &mut TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        let read = client.read_buf(&mut request).await.expect("the request can be read");
        assert_ne!(read, 0, "the request broke off: {text}");
    }
}

#[tokio::test]
async fn an_upstream_that_breaks_off_is_failed() {
    need_curl!();
    let cut = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
               9\r\ndata: 1\n\n\r\n9\r\ndata: ";
    let (url, served) = provider(cut).await;
    let gateway = Gateway::start(&["--upstream", &url]).await;
    let answer = curl([&gateway.url("/v1/chat/completions"), "-H", ALICE, "-d", &chat(5)]).await;
    served.await.expect("the provider served");
    assert_eq!((answer.exit, answer.status), (Some(18), 200), "the client sees the break: {answer:?}");
    let row = gateway.row(answer.id()).await;
    assert_eq!(row["outcome"], "failed");
    assert_eq!(row["evidence"], "error");
    assert_eq!(row["ended_by"], "upstream");
    assert_eq!(row["phase"], "body");
    assert_eq!(row["status"], 200);
    assert!(row["error"].as_str().is_some_and(|error| error.starts_with("body failed: ")), "{row}");
    assert!(row["bytes"].as_u64() >= Some(9), "{row}");
    assert_eq!(gateway.settled().await["settled"]["failed"], 1);
}

#[tokio::test]
async fn an_upstream_that_is_down_is_502() {
    need_curl!();
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", free.local_addr().expect("an address"));
    drop(free);
    let gateway = Gateway::start(&["--upstream", &url]).await;
    let openai = curl([&gateway.url("/v1/chat/completions"), "-H", ALICE, "-d", &chat(5)]).await;
    assert_eq!(openai.status, 502);
    let error = openai.json()["error"].clone();
    assert_eq!(error["type"], "server_error");
    assert!(error["message"].as_str().is_some_and(|message| message.contains(&url)), "{error}");
    let anthropic = curl([&gateway.url("/v1/messages"), "-H", BOB, "-d", &chat(5)]).await;
    assert_eq!(anthropic.status, 502);
    assert_eq!(anthropic.json()["error"]["type"], "api_error");
    for answer in [openai, anthropic] {
        let row = gateway.row(answer.id()).await;
        assert_eq!((&row["status"], &row["outcome"]), (&json!(502), &json!("completed")));
    }
}

#[tokio::test]
async fn all_but_hop_by_hop_headers_pass_through() {
    need_curl!();
    let answer = "HTTP/1.1 201 Created\r\nx-custom: a\r\nx-custom: b\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n\
                  connection: close, x-hop\r\nx-stream-id: theirs\r\ncontent-length: 4\r\n\r\nbody";
    let (url, served) = provider(answer).await;
    let gateway = Gateway::start(&["--upstream", &format!("{url}/base/")]).await;
    let answer = curl([
        &gateway.url("/any/path%20x?q=1&q=2"),
        "-H",
        ALICE,
        "-H",
        "x-custom: c",
        "-H",
        "te: trailers",
        "-H",
        "connection: x-private, te",
        "-H",
        "x-private: 1",
        "-H",
        "proxy-connection: keep-alive",
        "-d",
        "the request's body",
    ])
    .await;
    let request = served.await.expect("the provider served").to_lowercase();
    let (head, body) = request.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("post /base/any/path%20x?q=1&q=2 http/1.1\r\n"), "{head}");
    assert_eq!(body, "the request's body");
    assert!(head.contains("x-custom: c"), "{head}");
    assert!(head.contains("authorization: bearer sk-demo-alice"), "{head}");
    assert!(head.contains(&format!("host: {}", url.trim_start_matches("http://"))), "{head}");
    for gone in ["x-private", "\r\nte:", "connection:", "transfer-encoding"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }

    assert_eq!((answer.status, answer.text()), (201, "body"));
    let custom: Vec<_> = answer.head.lines().filter(|line| line.starts_with("x-custom")).collect();
    assert_eq!(custom, ["x-custom: a", "x-custom: b"]);
    assert_eq!(answer.header("x-hop"), None);
    assert_eq!(answer.header("keep-alive"), None);
    assert_ne!(answer.id(), "theirs");
    let row = gateway.row(answer.id()).await;
    assert_eq!((&row["path"], &row["bytes"]), (&json!("/any/path%20x"), &json!(4)));
}

#[tokio::test]
async fn chained_gateways_meter_the_same_bytes() {
    need_curl!();
    let provider = Gateway::start(&["--token-interval", "1ms"]).await;
    let gateway = Gateway::start(&["--upstream", &provider.base]).await;
    let answer = curl([&gateway.url("/v1/chat/completions"), "-H", ALICE, "-d", &chat(20)]).await;
    assert_eq!((answer.exit, answer.status), (Some(0), 200));
    let (outer, inner) = (gateway.rows().await, provider.rows().await);
    assert_eq!((outer.len(), inner.len()), (1, 1));
    assert_eq!(outer[0]["bytes"], answer.body.len());
    // The outer one asked for usage: to the inner one it is a client that does.
    assert_eq!(inner[0]["bytes"], outer[0]["bytes_produced"]);
    assert!(inner[0]["bytes"].as_u64() > outer[0]["bytes"].as_u64(), "{inner:?}");
    for count in ["input_tokens", "output_tokens", "total_tokens", "usage_basis", "finish_reason", "text_len"]
    {
        assert_eq!(outer[0][count], inner[0][count], "{count}");
    }
    // Other methods are passed on as well, but nobody bills them.
    assert_eq!(curl([&gateway.url("/v1/models"), "-H", ALICE]).await.status, 405);
    assert_eq!(gateway.rows().await.len(), 1);
    assert_eq!(gateway.get("/streams").await, Value::Array(Vec::new()));
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_upstream_too() {
    need_curl!();
    let provider = Gateway::start(&["--token-interval", "2ms"]).await;
    let gateway = Gateway::start(&["--upstream", &provider.base]).await;
    let mut client =
        crate::curl::curl_command([&gateway.url("/v1/messages"), "-H", ALICE, "-d", &chat(1_000_000)])
            .spawn()
            .expect("curl starts");
    gateway.live(3).await;
    client.kill().await.expect("curl is killed");
    for gateway in [gateway, provider] {
        let rows = gateway.rows().await;
        assert_eq!(rows.len(), 1);
        assert_eq!((&rows[0]["outcome"], &rows[0]["ended_by"]), (&json!("cancelled"), &json!("downstream")));
    }
}
