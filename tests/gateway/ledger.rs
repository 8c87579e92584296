//! The ledger's file and what can be asked of it.

use serde_json::{Value, json};

use crate::curl::{chat, curl, need_curl};
use crate::process::{ALICE, BOB, Gateway, PATIENCE, Temp, eventually};

/// A row's columns, in their order: of the first 17 an old ledger is made.
pub(crate) const ROW_KEYS: [&str; 32] = [
    "id",
    "tenant",
    "method",
    "path",
    "outcome",
    "phase",
    "evidence",
    "ended_by",
    "error",
    "status",
    "bytes",
    "bytes_produced",
    "chunks",
    "started_at",
    "first_chunk_ms",
    "duration_ms",
    "attempt",
    "model",
    "protocol",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_input_tokens",
    "reasoning_tokens",
    "total_tokens",
    "usage_basis",
    "finish_reason",
    "terminated",
    "in_band_error",
    "text_len",
    "first_text_ms",
    "cost_micros",
];

#[tokio::test]
async fn the_ledger_can_be_asked() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "0ms"]).await;
    let mut ids = Vec::new();
    for key in [ALICE, BOB, ALICE] {
        let answer = curl([&gateway.url("/v1/chat/completions"), "-H", key, "-d", &chat(2)]).await;
        ids.push(answer.id().to_owned());
    }
    gateway.settled().await;
    let of = |rows: Value| -> Vec<String> {
        let rows = rows.as_array().expect("an array").clone();
        rows.iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect()
    };
    let newest_first: Vec<_> = ids.iter().rev().cloned().collect();
    assert_eq!(of(gateway.get("/ledger").await), newest_first);
    assert_eq!(of(gateway.get("/ledger?limit=1").await), [ids[2].clone()]);
    assert_eq!(of(gateway.get("/ledger?tenant=alice").await), [ids[2].clone(), ids[0].clone()]);
    assert_eq!(of(gateway.get("/ledger?tenant=bob&limit=5").await), [ids[1].clone()]);
    assert_eq!(of(gateway.get("/ledger?tenant=nobody").await), Vec::<String>::new());
    assert_eq!(curl([gateway.url("/ledger?limit=many")]).await.status, 400);
    assert_eq!(curl([gateway.url("/ledger/nonsense")]).await.status, 404);
    assert_eq!(curl([gateway.url("/ledger/01890a5d-ac96-774b-bcce-b302099a8057")]).await.status, 404);
    assert_eq!(curl([gateway.url("/healthz")]).await.status, 200);
}

#[tokio::test]
async fn keys_are_not_stored() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "0ms"]).await;
    curl([&gateway.url("/v1/chat/completions"), "-H", ALICE, "-d", &chat(2)]).await;
    gateway.settled().await;
    assert!(gateway.banner.contains("sk-demo-alice"), "the demo keys are shown at the start");
    gateway.signal("TERM").await;
    let (status, said, ledger) = gateway.ended().await;
    assert!(status.success());
    assert!(!said.contains("sk-"), "{said}");
    let file = std::fs::read(ledger.path()).expect("the ledger can be read");
    assert!(file.windows(5).any(|five| five == b"alice"), "the row is in the file");
    assert!(!file.windows(3).any(|three| three == b"sk-"), "and the key is not");
}

#[tokio::test]
async fn old_ledger_keeps_nulls_in_old_rows() {
    need_curl!();
    let ledger = Temp::new(".sqlite");
    let old = rusqlite::Connection::open(ledger.path()).expect("a ledger can be made");
    old.execute_batch(
        "create table streams (
            id text primary key, tenant text, method text not null, path text not null,
            outcome text not null, phase text not null, evidence text not null, ended_by text not null,
            error text, status integer, bytes integer not null, bytes_produced integer not null,
            chunks integer not null, started_at text not null, first_chunk_ms real,
            duration_ms real not null, attempt integer not null
        ) strict, without rowid;
        insert into streams values (
            '01890a5d-ac96-774b-bcce-b302099a8057', 'alice', 'POST', '/v1/messages', 'completed', 'body',
            'end_of_body', 'upstream', null, 200, 7, 7, 1, '2026-01-01T00:00:00.000Z', 1.5, 2.5, 1
        )",
    )
    .expect("the old table can be made");
    drop(old);
    // Twice: what was added the first time is there the second time.
    let gateway = Gateway::start_with("127.0.0.1:0", ledger, &["--token-interval", "0ms"]).await;
    gateway.signal("TERM").await;
    let (_, _, ledger) = gateway.ended().await;
    let gateway = Gateway::start_with("127.0.0.1:0", ledger, &["--token-interval", "0ms"]).await;
    curl([&gateway.url("/v1/chat/completions"), "-H", ALICE, "-d", &chat(2)]).await;
    let rows = gateway.rows().await;
    assert_eq!(rows.len(), 2);
    for row in &rows {
        let keys: Vec<_> = row.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(keys, ROW_KEYS);
    }
    assert_eq!((&rows[0]["model"], &rows[0]["output_tokens"]), (&json!("demo"), &json!(2)));
    assert_eq!((&rows[1]["bytes"], &rows[1]["duration_ms"]), (&json!(7), &json!(2.5)));
    for added in &ROW_KEYS[17..] {
        assert_eq!(rows[1][added], Value::Null, "{added}");
    }
}

#[tokio::test]
async fn briefly_locked_ledger_loses_nothing() {
    need_curl!();
    let gateway = Gateway::start(&["--token-interval", "0ms"]).await;
    let other = rusqlite::Connection::open(gateway.ledger.path()).expect("the ledger opens");
    other.execute_batch("begin immediate").expect("the ledger can be locked");
    let answer = curl([&gateway.url("/v1/chat/completions"), "-H", ALICE, "-d", &chat(2)]).await;
    eventually("a retry", PATIENCE, async || {
        (gateway.get("/audit").await["hooks"][0]["retried"].as_u64() >= Some(1)).then_some(())
    })
    .await;
    other.execute_batch("rollback").expect("the lock can be given back");
    let row = gateway.row(answer.id()).await;
    assert!(row["attempt"].as_u64() >= Some(2), "{row}");
    assert_eq!(gateway.rows().await.len(), 1);
}
