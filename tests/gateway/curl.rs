//! curl, and what it saw.

use std::ffi::OsStr;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

/// Leaves the test, and says why, where a tool is missing.
macro_rules! need_curl {
    () => {
        if !crate::curl::has_curl().await {
            println!("skipped: there is no curl");
            return;
        }
    };
}
pub(crate) use need_curl;

pub(crate) async fn has_curl() -> bool {
    Command::new("curl").arg("--version").output().await.is_ok_and(|output| output.status.success())
}

/// An answer as curl saw it.
#[derive(Debug)]
pub(crate) struct Answer {
    /// curl's own exit code: 18 where the transfer broke off.
    pub(crate) exit: Option<i32>,
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The stream's id.
    pub(crate) fn id(&self) -> &str {
        self.header("x-stream-id").unwrap_or_else(|| panic!("no x-stream-id: {self:?}"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The JSON of every `data:` line but `[DONE]`.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.text()
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}")))
            .collect()
    }
}

/// A curl that has not been started: kills itself when dropped.
pub(crate) fn curl_command<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new("curl");
    command.args(["-s", "-i", "-N", "--max-time", "120", "-H", "Expect:"]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

pub(crate) async fn curl<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Answer {
    let output = curl_command(args).output().await.expect("curl runs");
    parse(output.status.code(), &output.stdout)
}

/// What curl wrote, split into head and body.
pub(crate) fn parse(exit: Option<i32>, output: &[u8]) -> Answer {
    let end = output.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = end.map_or((output, &[][..]), |end| (&output[..end], &output[end + 4..]));
    let head = String::from_utf8_lossy(head).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { exit, status, head, body: body.to_vec() }
}

/// A chat request's body.
pub(crate) fn chat(words: u64) -> String {
    let messages = r#"[{"role":"user","content":"hi"}]"#;
    format!(r#"{{"model":"demo","stream":true,"max_tokens":{words},"messages":{messages}}}"#)
}
