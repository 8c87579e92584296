//! Recordings with their answers, and ways to cut them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use serde_json::Value;
use streaming_accumulator::Usage;
use streaming_accumulator::meter::{LlmReport, MeterSet, ResponseHead};

/// The recordings, where this checkout has them beside it.
pub(crate) fn fixtures() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures");
    if !dir.is_dir() {
        println!("skipped: there are no recordings at ../shared/fixtures");
        return None;
    }
    Some(dir)
}

/// The files of a folder, and of those in it, that have this extension, in order.
pub(crate) fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("the folder can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(self::files(&path, extension));
        } else if path.extension().is_some_and(|other| other == extension) {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// A file of JSON values, one a line.
pub(crate) fn json_lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).expect("the file can be read");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// One recorded stream.
pub(crate) struct Recording {
    /// `PROTOCOL/NAME`.
    pub(crate) name: String,
    pub(crate) body: Vec<u8>,
    pub(crate) expected: Value,
    /// The answers for bodies that are cut short.
    pub(crate) cuts: Vec<Value>,
}

pub(crate) fn recordings() -> Vec<Recording> {
    let Some(dir) = fixtures() else { return Vec::new() };
    let dir = dir.join("streams");
    let read = |file: PathBuf| Recording {
        name: file.strip_prefix(&dir).expect("inside").with_extension("").display().to_string(),
        body: fs::read(&file).expect("the recording can be read"),
        expected: serde_json::from_slice(&fs::read(file.with_extension("expected.json")).expect("answers"))
            .expect("answers in JSON"),
        cuts: match file.with_extension("cuts.jsonl") {
            cuts if cuts.exists() => json_lines(&cuts),
            _ => Vec::new(),
        },
    };
    let recordings: Vec<_> = files(&dir, "stream").into_iter().map(read).collect();
    assert!(recordings.len() > 50, "{} recordings", recordings.len());
    recordings
}

/// Meters `pieces` of a body of this type, a millisecond apart, as the answer to a path that says nothing.
pub(crate) fn meter<'a>(
    meters: &MeterSet,
    content_type: &str,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (LlmReport, Usage) {
    meter_at(meters, "/any/path", content_type, pieces)
}

pub(crate) fn meter_at<'a>(
    meters: &MeterSet,
    uri: &str,
    content_type: &str,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (LlmReport, Usage) {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).expect("a header"));
    let uri: Uri = uri.parse().expect("a URI");
    let head = ResponseHead::new(&Method::POST, &uri, StatusCode::OK, &headers);
    let mut metering = meters.open(&head).expect("a meter");
    for (number, piece) in pieces.into_iter().enumerate() {
        metering.feed(piece, Duration::from_millis(number as u64));
    }
    metering.end(false)
}
