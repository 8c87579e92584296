//! How content serialises: as its chunks, and what was left out.

use std::io;

use serde::de::Error as _;
use serde::ser::{Error as _, SerializeSeq, SerializeStruct};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::block::Pool;
use super::budget::Mark;
use super::chunk::{self, StreamChunk};
use super::content::{Content, ContentPart};
use super::log::{Log, LogWriter};

/// Serialises the chunks of one part of content while it reads them.
struct Chunks<'a>(Option<&'a ContentPart>);

/// Content as it is read back.
#[derive(Deserialize)]
#[serde(rename = "Content")]
struct StoredContent {
    len: u64,
    truncated: bool,
    head: Vec<StreamChunk>,
    tail: Vec<StreamChunk>,
}

/// The chunks of the head and of the tail, with `len` and `truncated`. If the middle of the stream was left out, it is
/// between the two. Blocks if content is spilled.
impl Serialize for Content {
    /// # Errors
    ///
    /// Also what reading a spilled file yields.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (head, tail) = self.head_and_tail();
        let mut content = serializer.serialize_struct("Content", 4)?;
        content.serialize_field("len", &(self.len() as u64))?;
        content.serialize_field("truncated", &self.is_truncated())?;
        content.serialize_field("head", &Chunks(head))?;
        content.serialize_field("tail", &Chunks(tail))?;
        content.end()
    }
}

/// The content lies in memory, and no budget is charged for it. Why content could not be spilled is not kept.
impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = StoredContent::deserialize(deserializer)?;
        let content = Self::new(part(stored.head), part(stored.tail), stored.truncated);
        if content.len() as u64 != stored.len {
            let (has, says) = (content.len(), stored.len);
            return Err(D::Error::custom(format_args!("content has {has} bytes, and says {says}")));
        }
        Ok(content)
    }
}

/// A part of content that holds these chunks.
fn part(chunks: Vec<StreamChunk>) -> Option<ContentPart> {
    let (log, mut writer, pool) = (Log::limited(u64::MAX), LogWriter::default(), Pool::shared());
    for chunk in chunks.into_iter().filter(|chunk| !chunk.bytes.is_empty()) {
        // There is neither a limit nor a budget that could refuse it.
        let _ = writer.append_to(&log, &pool, Mark::Full, &chunk.bytes, chunk::units(chunk.arrival));
    }
    log.span(u64::MAX, u64::MAX).map(ContentPart::Span)
}

// === impl Chunks ===

impl Chunks<'_> {
    fn read(&self) -> impl Iterator<Item = io::Result<StreamChunk>> {
        self.0.into_iter().flat_map(ContentPart::chunks)
    }
}

impl Serialize for Chunks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Read twice, because some formats must know the length first, and spilled content may not fit into memory.
        let len = self.read().try_fold(0, |len, chunk| chunk.map(|_| len + 1)).map_err(S::Error::custom)?;
        let mut chunks = serializer.serialize_seq(Some(len))?;
        for chunk in self.read() {
            chunks.serialize_element(&chunk.map_err(S::Error::custom)?)?;
        }
        chunks.end()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::accumulator::buffer::{BufferConfig, StreamBuffer};
    use crate::accumulator::capture::Capture;

    /// What `capture` keeps of these chunks.
    fn captured(capture: Capture, chunks: &[Bytes]) -> Content {
        let config = BufferConfig::in_memory(capture, Arc::default(), 64, false);
        let buffer = StreamBuffer::new(&Arc::new(config));
        let (mut writer, mut pulled) = (buffer.writer(), 0);
        for (chunk, at) in chunks.iter().zip(1_000..) {
            buffer.append(&mut writer, chunk, at);
            pulled += chunk.len() as u64;
        }
        buffer.snapshot(pulled)
    }

    #[test]
    fn content_reads_back_as_it_was() {
        let text = Bytes::from_static("data: „grüße“\n\n".as_bytes());
        let chunks = [text.clone(), text.slice(..8), Bytes::from(vec![0xff; 3_000]), text.slice(8..)];
        for capture in [Capture::all(1 << 20), Capture::tail(20), Capture::head_tail(5, 7), Capture::none()] {
            let content = captured(capture, &chunks);
            let json = serde_json::to_string(&content).unwrap();
            let read: Content = serde_json::from_str(&json).unwrap();
            assert_eq!(read.to_bytes().unwrap(), content.to_bytes().unwrap(), "{capture:?}");
            assert_eq!(read.len(), content.len());
            assert_eq!(read.is_truncated(), content.is_truncated());
            assert!(!read.is_spilled());
            let timed = |content: &Content| content.timed_chunks().map(Result::unwrap).collect::<Vec<_>>();
            assert_eq!(timed(&read), timed(&content));
            assert_eq!(serde_json::to_string(&read).unwrap(), json);
        }
    }

    #[test]
    fn text_serialises_as_text() {
        let content = captured(Capture::head_tail(2, 1), &[Bytes::from_static(b"hello")]);
        let json = serde_json::to_value(&content).unwrap();
        let arrival = serde_json::json!({ "secs": 0, "nanos": 1_024_000 });
        let wanted = serde_json::json!({
            "len": 3,
            "truncated": true,
            "head": [{ "bytes": "he", "arrival": arrival }],
            "tail": [{ "bytes": "o", "arrival": arrival }],
        });
        assert_eq!(json, wanted);
    }

    #[test]
    fn a_wrong_length_is_an_error() {
        let json = r#"{ "len": 2, "truncated": false, "head": [], "tail": [] }"#;
        let error = serde_json::from_str::<Content>(json).unwrap_err();
        assert!(error.to_string().contains("0 bytes"), "{error}");
    }

    #[test]
    fn a_capture_reads_back_as_it_was() {
        for capture in
            [Capture::all(9).or_fail(), Capture::tail(8), Capture::head_tail(7, 6), Capture::none()]
        {
            let json = serde_json::to_string(&capture).unwrap();
            assert_eq!(serde_json::from_str::<Capture>(&json).unwrap(), capture, "{json}");
        }
        let json = serde_json::to_string(&Capture::head_tail(7, 6)).unwrap();
        assert_eq!(json, r#"{"keep":{"head_tail":[7,6]},"or_fail":false}"#);
    }
}
