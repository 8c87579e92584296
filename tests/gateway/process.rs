//! The gateway as a process, and waiting without guessing how long.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use streaming_accumulator::StreamId;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::curl::curl;

pub(crate) const ALICE: &str = "authorization: Bearer sk-demo-alice";
pub(crate) const BOB: &str = "x-api-key: sk-demo-bob";

/// The price table that lies beside the example.
pub(crate) const PRICES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/gateway/prices.toml");

/// Long enough for a machine that is busy with all other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A file name that nobody else uses; whatever is there in the end is removed.
pub(crate) struct Temp(PathBuf);

impl Temp {
    pub(crate) fn new(suffix: &str) -> Self {
        Self(std::env::temp_dir().join(format!("gateway-test-{}{suffix}", StreamId::new())))
    }

    pub(crate) fn file(suffix: &str, content: &str) -> Self {
        let temp = Self::new(suffix);
        std::fs::write(&temp.0, content).expect("a temporary file can be written");
        temp
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            let mut name = self.0.clone().into_os_string();
            name.push(suffix);
            // Most of them were never made.
            let _ = std::fs::remove_file(name);
        }
    }
}

/// The program that cargo built beside this test.
///
/// `cargo test` builds the examples first, `cargo test --test gateway` does not: then this refuses to test
/// what was built of older sources.
pub(crate) fn program() -> PathBuf {
    // target/PROFILE/deps/gateway-HASH
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.parent().and_then(Path::parent).expect("the test lies in target/PROFILE/deps");
    let program = profile.join("examples").join("gateway");
    let modified = |file: &Path| std::fs::metadata(file).and_then(|file| file.modified()).ok();
    let test = modified(&test);
    let stale = |example: SystemTime, source: &Path| {
        let changed = modified(source);
        // The library counts as it was when this test was built of it: later edits are not in the test either.
        let in_test = source.components().any(|part| part.as_os_str() == "examples") || changed <= test;
        changed > Some(example) && in_test
    };
    let fresh =
        modified(&program).is_some_and(|example| !sources(&program).iter().any(|file| stale(example, file)));
    assert!(fresh, "{} is missing or out of date: run `cargo build --example gateway`", program.display());
    program
}

/// What cargo says the program was built of.
fn sources(program: &Path) -> Vec<PathBuf> {
    let list = std::fs::read_to_string(program.with_extension("d")).unwrap_or_default();
    let (_, list) = list.split_once(": ").unwrap_or_default();
    // As in a makefile: a blank that is part of a name has a backslash before it.
    let names = list.trim().replace("\\ ", "\0");
    names.split(' ').map(|name| PathBuf::from(name.replace('\0', " "))).collect()
}

/// A gateway that runs.
pub(crate) struct Gateway {
    child: Child,
    stdout: BufReader<ChildStdout>,
    pub(crate) banner: String,
    pub(crate) base: String,
    pub(crate) ledger: Temp,
}

impl Gateway {
    pub(crate) async fn start(args: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", args).await
    }

    pub(crate) async fn start_at(listen: &str, args: &[&str]) -> Self {
        Self::start_with(listen, Temp::new(".sqlite"), args).await
    }

    /// With a ledger that may be there already.
    pub(crate) async fn start_with(listen: &str, ledger: Temp, args: &[&str]) -> Self {
        Self::run(Command::new(program()), listen, ledger, args).await
    }

    /// With a stderr that nobody reads any more, and much to say there.
    pub(crate) async fn start_unheard(args: &[&str]) -> Self {
        let mut command = Command::new(program());
        command.env("RUST_LOG", "trace").stderr(Stdio::piped());
        let mut gateway = Self::run(command, "127.0.0.1:0", Temp::new(".sqlite"), args).await;
        drop(gateway.child.stderr.take());
        gateway
    }

    async fn run(mut command: Command, listen: &str, ledger: Temp, args: &[&str]) -> Self {
        let mut child = command
            .args(["--listen", listen, "--ledger"])
            .arg(ledger.path())
            .args(args)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the gateway starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut banner = String::new();
        let read = async {
            while !banner.contains("stop with Ctrl-C") {
                let read = stdout.read_line(&mut banner).await.expect("stdout can be read");
                assert_ne!(read, 0, "the gateway ended before its banner did: {banner}");
            }
        };
        timeout(PATIENCE, read).await.expect("the gateway prints its banner");
        let base = banner
            .lines()
            .find_map(|line| line.strip_prefix("listening on "))
            .expect("the banner names the address")
            .replace("0.0.0.0", "127.0.0.1");
        Self { child, stdout, banner, base, ledger }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// What a `GET` answers, as JSON.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = curl([self.url(path)]).await;
        serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("GET {path}: {error}: {answer:?}"))
    }

    /// The row, once it is there.
    pub(crate) async fn row(&self, id: &str) -> Value {
        self.row_within(id, PATIENCE).await
    }

    pub(crate) async fn row_within(&self, id: &str, limit: Duration) -> Value {
        eventually(&format!("row {id}"), limit, async || {
            let row = self.get(&format!("/ledger/{id}")).await;
            row.get("id").is_some().then_some(row)
        })
        .await
    }

    /// All rows, newest first, once nothing moves any more.
    pub(crate) async fn rows(&self) -> Vec<Value> {
        self.settled().await;
        let rows = self.get("/ledger?limit=100000").await;
        rows.as_array().expect("the ledger is an array").clone()
    }

    /// The audit, once nothing moves any more; it must balance then.
    pub(crate) async fn settled(&self) -> Value {
        let audit = eventually("audit at rest", PATIENCE, async || {
            let audit = self.get("/audit").await;
            let rest = audit["in_flight"] == 0 && audit["hooks"][0]["queued"] == 0;
            rest.then_some(audit)
        })
        .await;
        let settled: u64 = ["completed", "cancelled", "failed", "interrupted"]
            .iter()
            .map(|outcome| audit["settled"][outcome].as_u64().expect("a count"))
            .sum();
        assert_eq!(audit["opened"], settled, "opened = settled: {audit}");
        let hook = &audit["hooks"][0];
        let done =
            hook["delivered"].as_u64().expect("a count") + hook["dead_lettered"].as_u64().expect("a count");
        assert_eq!(done, settled, "settled = delivered + dead-lettered: {audit}");
        audit
    }

    /// The only live stream, once it has sent at least `chunks` chunks.
    pub(crate) async fn live(&self, chunks: u64) -> Value {
        eventually("a live stream", PATIENCE, async || {
            let streams = self.get("/streams").await;
            let stream = streams.as_array()?.first()?.clone();
            (stream["chunks"].as_u64()? >= chunks).then_some(stream)
        })
        .await
    }

    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.id().expect("the gateway runs");
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {id}")]).status().await;
        assert!(sent.is_ok_and(|status| status.success()), "SIG{name} was sent");
    }

    /// Waits for the end of the process: its status and what it said last.
    pub(crate) async fn ended(mut self) -> (ExitStatus, String, Temp) {
        let mut rest = String::new();
        let end = async {
            self.stdout.read_to_string(&mut rest).await.expect("stdout can be read");
            self.child.wait().await.expect("the gateway is waited for")
        };
        let status = timeout(PATIENCE, end).await.expect("the gateway ends");
        (status, rest, self.ledger)
    }
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(what: &str, limit: Duration, ask: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        sleep(Duration::from_millis(10)).await;
    }
}
