//! SIGTERM and Ctrl-C with streams in flight.

use std::path::Path;

use rusqlite::Connection;

use crate::curl::{chat, curl_command, need_curl, parse};
use crate::process::{ALICE, Gateway};

/// Outcome, `ended_by`, error and bytes of the only row.
fn only_row(ledger: &Path) -> (String, String, Option<String>, i64) {
    let ledger = Connection::open(ledger).expect("the ledger opens");
    let count: i64 = ledger.query_row("select count(*) from streams", [], |row| row.get(0)).expect("a count");
    assert_eq!(count, 1);
    let columns = "select outcome, ended_by, error, bytes from streams";
    let row = ledger.query_row(columns, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)));
    row.expect("a row")
}

#[tokio::test]
async fn sigterm_cuts_streams_that_outlast_the_grace() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "2ms", "--grace", "100ms"]).await;
    let client = curl_command([&gateway.url("/v1/chat/completions"), "-H", ALICE, "-d", &chat(1_000_000)])
        .spawn()
        .expect("curl starts");
    let live = gateway.live(5).await;
    gateway.signal("TERM").await;
    let output = client.wait_with_output().await.expect("curl ends");
    assert_eq!(output.status.code(), Some(18), "the client sees that the transfer broke off");

    let (status, said, ledger) = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
    assert!(said.contains("shutdown: 1 delivered, 0 dead-lettered, 0 left; 1 streams cancelled"), "{said}");
    assert!(said.contains("audit: 1 opened, 0 in flight, 0 completed, 1 cancelled"), "{said}");
    assert!(said.contains("; balanced"), "{said}");
    let (outcome, ended_by, error, bytes) = only_row(ledger.path());
    assert_eq!(
        (outcome.as_str(), ended_by.as_str(), error.as_deref()),
        ("cancelled", "layer", Some("shutdown"))
    );
    assert!(Some(bytes) >= live["bytes"].as_i64(), "{bytes} after {live}");
}

#[tokio::test]
async fn sigterm_lets_streams_finish_within_the_grace() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "10ms", "--grace", "30s"]).await;
    let client = curl_command([&gateway.url("/v1/chat/completions"), "-H", ALICE, "-d", &chat(60)])
        .spawn()
        .expect("curl starts");
    gateway.live(2).await;
    gateway.signal("TERM").await;
    let output = client.wait_with_output().await.expect("curl ends");
    let answer = parse(output.status.code(), &output.stdout);
    assert_eq!((answer.exit, answer.status), (Some(0), 200));
    assert!(answer.text().ends_with("data: [DONE]\n\n"), "{answer:?}");

    let (status, said, ledger) = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
    assert!(said.contains("1 completed, 0 cancelled"), "{said}");
    let (outcome, _, _, bytes) = only_row(ledger.path());
    assert_eq!((outcome.as_str(), bytes), ("completed", answer.body.len() as i64));
}

#[tokio::test]
async fn a_second_signal_means_now() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "2ms", "--grace", "1h"]).await;
    let url = gateway.url("/v1/chat/completions");
    let mut client = curl_command([&url, "-H", ALICE, "-d", &chat(1_000_000)]).spawn().expect("curl starts");
    gateway.live(2).await;
    gateway.signal("INT").await;
    // Both signals may not be pending at once: the first one is seen when nobody is let in any more.
    crate::process::eventually("a closed port", crate::process::PATIENCE, async || {
        (crate::curl::curl([gateway.url("/healthz")]).await.exit == Some(7)).then_some(())
    })
    .await;
    gateway.signal("INT").await;
    let (status, said, ledger) = gateway.ended().await;
    assert_eq!(status.code(), Some(0));
    assert!(said.contains("; balanced"), "{said}");
    assert_eq!(only_row(ledger.path()).0, "cancelled");
    client.wait().await.expect("curl ends");
}
