//! Recorded bodies, byte for byte: for tests of clients and of meters.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::Deserialize;

use crate::errors::{Fatal, Problem};
use crate::pace::{self, Piece};

/// The recordings of one folder, listed at the start: a request chooses from the list and never makes
/// a path.
pub(crate) struct Replay {
    recordings: BTreeMap<String, Recording>,
    chunk_bytes: usize,
    interval: Duration,
}

struct Recording {
    file: PathBuf,
    content_type: HeaderValue,
}

/// What is needed of `NAME.expected.json`.
#[derive(Deserialize)]
struct Expected {
    content_type: String,
}

// === impl Replay ===

impl Replay {
    pub(crate) fn open(dir: &Path, chunk_bytes: usize, interval: Duration) -> Result<Self, Fatal> {
        let mut recordings = BTreeMap::new();
        for folder in entries(dir).map_err(|error| Fatal::replay(dir, error))? {
            if !folder.is_dir() {
                continue;
            }
            for file in entries(&folder).map_err(|error| Fatal::replay(&folder, error))? {
                if file.extension() != Some(OsStr::new("stream")) {
                    continue;
                }
                let (Some(protocol), Some(name)) = (text(folder.file_name()), text(file.file_stem())) else {
                    // A header could not name it.
                    continue;
                };
                let content_type = content_type(&file.with_extension("expected.json"))?;
                recordings.insert(format!("{protocol}/{name}"), Recording { file, content_type });
            }
        }
        if recordings.is_empty() {
            return Err(Fatal::replay(dir, "it has no recordings"));
        }
        Ok(Self { recordings, chunk_bytes, interval })
    }

    /// How many recordings there are.
    pub(crate) fn len(&self) -> usize {
        self.recordings.len()
    }

    pub(crate) async fn answer(&self, request: Request) -> Result<Response, Problem> {
        let (head, body) = request.into_parts();
        let name = head.headers.get("x-replay").map(|value| String::from_utf8_lossy(value.as_bytes()));
        let Some(name) = name else {
            return Err(Problem::Invalid {
                param: None,
                message: "no header `x-replay: PROTOCOL/NAME` says which recording to send".into(),
            });
        };
        let Some(recording) = self.recordings.get(&*name) else {
            let nearest = self.nearest(&name).join(", ");
            return Err(Problem::NotFound(format!(
                "x-replay: no recording {name:?}; the nearest are {nearest}"
            )));
        };
        // Nothing in it matters here. But it names the model, and the layer reads along.
        let mut request = body.into_data_stream();
        while let Some(Ok(_)) = request.next().await {}
        let body = tokio::fs::read(&recording.file).await.map_err(|error| {
            Problem::Internal(format!("x-replay: cannot read the recording {name:?}: {error}"))
        })?;
        let mut rest = Bytes::from(body);
        let size = self.chunk_bytes;
        let chunks = std::iter::from_fn(move || {
            (!rest.is_empty()).then(|| Piece::Tick(rest.split_to(size.min(rest.len()))))
        });
        let headers = [(header::CONTENT_TYPE, recording.content_type.clone())];
        Ok((headers, pace::body(self.interval, chunks)).into_response())
    }

    /// The three names that take the fewest edits to reach.
    fn nearest(&self, name: &str) -> Vec<&str> {
        // Header values may be long, and the work grows with their length.
        let name: String = name.chars().take(200).collect();
        let mut names: Vec<_> =
            self.recordings.keys().map(|known| (distance(&name, known), &**known)).collect();
        names.sort_unstable();
        names.into_iter().take(3).map(|(_, known)| known).collect()
    }
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

fn text(name: Option<&OsStr>) -> Option<&str> {
    name.and_then(OsStr::to_str)
}

fn content_type(file: &Path) -> Result<HeaderValue, Fatal> {
    let text = fs::read(file).map_err(|error| Fatal::replay(file, error))?;
    let expected: Expected = serde_json::from_slice(&text).map_err(|error| Fatal::replay(file, error))?;
    HeaderValue::from_str(&expected.content_type).map_err(|error| Fatal::replay(file, error))
}

/// Levenshtein's: how many characters to insert, delete or replace.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = line;
        let mut last = line + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(&right) {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = *cell;
            last = replaced.min(*cell + 1).min(last + 1);
            *cell = last;
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
