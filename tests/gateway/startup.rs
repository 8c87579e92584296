//! What the gateway refuses to start with: an exit code for scripts and a message for people.

use std::ffi::OsStr;

use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

use crate::curl::{curl, need_curl};
use crate::process::{Gateway, PATIENCE, Temp, program};

/// Starts a gateway that must fail: its exit code and its message.
async fn refused<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> (Option<i32>, String) {
    let ledger = Temp::new(".sqlite");
    let run = Command::new(program())
        .args(["--listen", "127.0.0.1:0", "--ledger"])
        .arg(ledger.path())
        .args(args)
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, run).await.expect("it ends by itself").expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The same without `--listen` and `--ledger`, which cannot be given twice.
async fn refused_plain(args: &[&str]) -> (Option<i32>, String) {
    let run = Command::new(program()).args(args).kill_on_drop(true).output();
    let output = timeout(PATIENCE, run).await.expect("it ends by itself").expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn a_port_in_use_is_exit_code_3() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let (code, message) = refused_plain(&["--listen", &address]).await;
    assert_eq!(code, Some(3), "{message}");
    assert!(message.contains(&address), "{message}");
}

#[tokio::test]
async fn a_bad_key_file_is_exit_code_4() {
    let (code, message) = refused(["--keys", "/nowhere/keys.toml"]).await;
    assert_eq!(code, Some(4), "{message}");
    assert!(message.contains("/nowhere/keys.toml"), "{message}");

    for content in [
        "[keys]\n\"sk-secret\" = 5\n",
        "\"sk-secret\" = \"a\"\n",
        "[keys]\n",
        "[keys]\n\"sk-secret\" = \"\"\n",
        "sk-secret",
    ] {
        let file = Temp::file(".toml", content);
        let (code, message) = refused([OsStr::new("--keys"), file.path().as_os_str()]).await;
        assert_eq!(code, Some(4), "{content}: {message}");
        assert!(message.contains(&*file.path().to_string_lossy()), "{message}");
        assert!(!message.contains("sk-secret"), "the key is not shown: {message}");
    }
}

#[tokio::test]
async fn unopenable_ledger_is_exit_code_5() {
    let file =
        Temp::file(".sqlite", "this is not a database, and long enough to be seen as such by its header");
    let name = file.path().to_string_lossy().into_owned();
    for ledger in ["/nowhere/ledger.sqlite", &name] {
        let (code, message) = refused_plain(&["--listen", "127.0.0.1:0", "--ledger", ledger]).await;
        assert_eq!(code, Some(5), "{message}");
        assert!(message.contains(ledger), "{message}");
    }
}

#[tokio::test]
async fn unreadable_replay_folder_is_exit_code_6() {
    let (code, message) = refused(["--replay", "/nowhere/streams"]).await;
    assert_eq!(code, Some(6), "{message}");
    assert!(message.contains("/nowhere/streams"), "{message}");
}

#[tokio::test]
async fn a_bad_price_file_is_exit_code_7() {
    let (code, message) = refused(["--prices", "/nowhere/prices.toml"]).await;
    assert_eq!(code, Some(7), "{message}");
    assert!(message.contains("/nowhere/prices.toml"), "{message}");

    let file = Temp::file(".toml", "[models.\"gpt-4.1\"]\ninput = \"2.00\"\noutput = \"8,00\"\n");
    let (code, message) = refused([OsStr::new("--prices"), file.path().as_os_str()]).await;
    assert_eq!(code, Some(7), "{message}");
    // The file, the model, the key, what is wrong, and the way out.
    for named in
        [&*file.path().to_string_lossy(), "\"gpt-4.1\"", "output", "\"8,00\"", "\"1.25\"", "prices.toml"]
    {
        assert!(message.contains(named), "{named}: {message}");
    }
}

#[tokio::test]
async fn bad_flags_are_exit_code_2() {
    for (flag, value) in [
        ("--token-interval", "20"),
        ("--token-interval", "soon"),
        ("--grace", "1000days"),
        ("--chunk-bytes", "0"),
        ("--upstream", "api.example.com"),
        ("--upstream", "ftp://api.example.com"),
        ("--admin-key", ""),
    ] {
        let (code, message) = refused([flag, value]).await;
        assert_eq!(code, Some(2), "{flag} {value}: {message}");
        assert!(message.contains(flag), "{message}");
    }
    let (code, message) = refused(["--upstream", "http://localhost", "--replay", "."]).await;
    assert_eq!(code, Some(2), "{message}");
}

#[tokio::test]
async fn a_public_address_needs_an_admin_key() {
    need_curl!();
    for address in ["0.0.0.0:0", "[::]:0"] {
        let (code, message) = refused_plain(&["--listen", address]).await;
        assert_eq!(code, Some(2), "{message}");
        assert!(message.contains("--admin-key") && message.contains(address), "{message}");
    }

    let gateway = Gateway::start_at("0.0.0.0:0", &["--admin-key", "sk-admin"]).await;
    assert!(!gateway.banner.contains("sk-admin"), "{}", gateway.banner);
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    for path in ["/ledger", &format!("/ledger/{id}"), "/streams", "/audit", "/healthz"] {
        assert_eq!(curl([gateway.url(path)]).await.status, 401, "{path}");
        let wrong = curl([&gateway.url(path), "-H", "authorization: Bearer sk-admim"]).await;
        assert_eq!(wrong.status, 401, "{path}");
        let right = curl([&gateway.url(path), "-H", "authorization: Bearer sk-admin"]).await;
        assert_eq!(right.status, if path.ends_with(id) { 404 } else { 200 }, "{path}");
    }
    assert_eq!(curl(["-X", "DELETE", &gateway.url(&format!("/streams/{id}"))]).await.status, 401);
}
