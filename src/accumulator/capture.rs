//! How much of a stream is kept.

use bytes::Bytes;

use super::content::Content;
use super::log::Log;

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

/// A log that is trimmed as it grows.
#[derive(Debug)]
pub(crate) struct Tail {
    log: Log,
    keep: u64,
}

// === impl Capture ===

impl Capture {
    /// Everything, up to `max` bytes; of a longer stream its first `max`.
    pub const fn all(max: u64) -> Self {
        Self::of(Kind::Head(max))
    }

    /// The first `n` bytes.
    pub const fn head(n: u64) -> Self {
        Self::of(Kind::Head(n))
    }

    /// The last `n` bytes. While the stream runs, up to twice as much is held.
    pub const fn tail(n: u64) -> Self {
        Self::of(Kind::Tail(n))
    }

    /// The first `n` bytes and the last `m`; of a stream of at most `n + m` bytes everything.
    pub const fn head_tail(n: u64, m: u64) -> Self {
        Self::of(Kind::HeadTail(n, m))
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

    pub(crate) fn start(&self) -> Capturing {
        match self.kind {
            Kind::Head(0) | Kind::None => Capturing::None,
            Kind::Head(max) => Capturing::Head(Log::new(max)),
            Kind::Tail(keep) => Capturing::Tail(Tail::new(keep)),
            Kind::HeadTail(head, tail) => Capturing::HeadTail(Log::new(head), Tail::new(tail)),
        }
    }
}

// === impl Capturing ===

impl Capturing {
    /// Keeps what is to be kept of `chunk`. For the one task that polls the body.
    pub(crate) fn append(&self, chunk: &Bytes) {
        match self {
            Self::Head(log) => log.append_what_fits(chunk),
            Self::Tail(tail) => tail.append(chunk),
            Self::HeadTail(head, tail) => {
                let room = head.limit().saturating_sub(head.len());
                let split = chunk.len().min(usize::try_from(room).unwrap_or(usize::MAX));
                head.append_what_fits(&chunk.slice(..split));
                tail.append(&chunk.slice(split..));
            }
            Self::None => {}
        }
    }

    /// What is kept of a stream of `pulled` bytes.
    pub(crate) fn snapshot(&self, pulled: u64) -> Content {
        let content = match self {
            Self::Head(log) => log.snapshot(),
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
    fn new(keep: u64) -> Self {
        Self { log: Log::to_be_trimmed(keep), keep }
    }

    fn append(&self, chunk: &Bytes) {
        let excess = (chunk.len() as u64).saturating_sub(self.keep);
        self.log.append_what_fits(&chunk.slice(excess as usize..));
        self.log.trim(self.keep);
    }

    fn part(&self) -> super::content::Part {
        self.log.part().last(self.keep)
    }
}
