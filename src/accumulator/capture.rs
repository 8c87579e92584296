//! How much of a stream is kept.

use std::sync::Arc;

use bytes::Bytes;

use super::content::{Content, Part};
use super::log::{Log, Writer};
use super::pool::Pool;

/// How much of a stream is kept, in bytes of content.
///
/// A capture that overflows truncates: the client is untouched and
/// [`Content::is_truncated`] says so. Where losing content is worse than failing the stream, see
/// [`Capture::or_fail`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture {
    kind: Kind,
    fail: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Head(u64),
    Tail(u64),
    HeadTail(u64, u64),
    None,
}

/// The accumulator of one stream, as its [`Capture`] asks for.
#[derive(Debug)]
pub(crate) enum Capturing {
    Head(Log),
    Tail(Tail),
    HeadTail(Log, Tail),
    None,
}

/// The writing end of a [`Capturing`], for the one task that polls the body.
#[derive(Debug, Default)]
pub(crate) enum CaptureWriter {
    Head(Writer),
    Tail(Writer),
    HeadTail(Writer, Writer),
    #[default]
    None,
}

/// A log that is trimmed as it grows.
#[derive(Debug)]
pub(crate) struct Tail {
    log: Log,
    keep: u64,
}

// === impl Capture ===

impl Capture {
    /// Everything, up to `max` bytes; of a longer stream its first `max`.
    pub const fn all(max: usize) -> Self {
        Self::of(Kind::Head(max as u64))
    }

    /// The first `n` bytes.
    pub const fn head(n: usize) -> Self {
        Self::of(Kind::Head(n as u64))
    }

    /// The last `n` bytes. While the stream runs, up to twice as much is held.
    pub const fn tail(n: usize) -> Self {
        Self::of(Kind::Tail(n as u64))
    }

    /// The first `n` bytes and the last `m`; of a stream of at most `n + m` bytes everything.
    pub const fn head_tail(n: usize, m: usize) -> Self {
        Self::of(Kind::HeadTail(n as u64, m as u64))
    }

    /// Nothing. Counts and times are kept all the same.
    pub const fn none() -> Self {
        Self::of(Kind::None)
    }

    /// Fails a stream that outgrows [`all`](Self::all) or [`head`](Self::head), instead of truncating
    /// its content: the chunk that does not fit is withheld, the client gets
    /// [`StreamError::ContentTooLarge`](crate::StreamError::ContentTooLarge), and the record is
    /// `Failed`. Of no effect on the other captures, which never overflow.
    pub const fn or_fail(mut self) -> Self {
        self.fail = true;
        self
    }

    const fn of(kind: Kind) -> Self {
        Self { kind, fail: false }
    }

    /// The limit beyond which a stream fails, if it is to fail.
    pub(crate) fn fails_beyond(&self) -> Option<u64> {
        match self.kind {
            Kind::Head(max) if self.fail => Some(max),
            _ => None,
        }
    }

    pub(crate) fn start(&self, pool: &Arc<Pool>) -> Capturing {
        match self.kind {
            Kind::Head(0) | Kind::None => Capturing::None,
            Kind::Head(max) => Capturing::Head(Log::limited(max, pool)),
            Kind::Tail(keep) => Capturing::Tail(Tail::new(keep, pool)),
            Kind::HeadTail(head, tail) => {
                Capturing::HeadTail(Log::limited(head, pool), Tail::new(tail, pool))
            }
        }
    }
}

// === impl Capturing ===

impl Capturing {
    /// The writing end. There must be one only.
    pub(crate) fn writer(&self) -> CaptureWriter {
        match self {
            Self::Head(log) => CaptureWriter::Head(Writer::new(log)),
            Self::Tail(tail) => CaptureWriter::Tail(Writer::new(&tail.log)),
            Self::HeadTail(head, tail) => CaptureWriter::HeadTail(Writer::new(head), Writer::new(&tail.log)),
            Self::None => CaptureWriter::None,
        }
    }

    /// Keeps what is to be kept of `chunk`, which is not empty. `writer` is the one that was made here.
    #[inline]
    pub(crate) fn append(&self, writer: &mut CaptureWriter, chunk: &Bytes) {
        match (self, writer) {
            (Self::Head(log), CaptureWriter::Head(writer)) => writer.append(log, chunk),
            (Self::Tail(tail), CaptureWriter::Tail(writer)) => tail.append(writer, chunk),
            (Self::HeadTail(head, tail), CaptureWriter::HeadTail(first, last)) => {
                let room = usize::try_from(head.limit() - head.written()).unwrap_or(usize::MAX);
                match room {
                    0 => tail.append(last, chunk),
                    _ if chunk.len() <= room => first.append(head, chunk),
                    _ => {
                        first.append(head, &chunk.slice(..room));
                        tail.append(last, &chunk.slice(room..));
                    }
                }
            }
            _ => {}
        }
    }

    /// What is kept of a stream of `pulled` bytes.
    pub(crate) fn snapshot(&self, pulled: u64) -> Content {
        let content = match self {
            Self::Head(log) => Content::new(log.part(), None, false),
            Self::Tail(tail) => Content::new(tail.part(), None, false),
            Self::HeadTail(head, tail) => Content::new(head.part(), Some(tail.part()), false),
            Self::None => Content::default(),
        };
        let kept = content.len() as u64;
        content.truncated(kept < pulled)
    }
}

// === impl Tail ===

impl Tail {
    fn new(keep: u64, pool: &Arc<Pool>) -> Self {
        Self { log: Log::trimmed(keep, pool), keep }
    }

    fn append(&self, writer: &mut Writer, chunk: &Bytes) {
        let excess = (chunk.len() as u64).saturating_sub(self.keep);
        if excess == 0 {
            writer.append_and_trim(&self.log, chunk, self.keep);
        } else {
            writer.append_and_trim(&self.log, &chunk.slice(excess as usize..), self.keep);
        }
    }

    fn part(&self) -> Part {
        self.log.part().last(self.keep)
    }
}
