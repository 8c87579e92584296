//! How much of a stream is kept.

/// How much of a stream is kept, in bytes of content.
///
/// A capture that overflows truncates: the client is unaffected, and
/// [`Content::is_truncated`](crate::Content::is_truncated) returns true. If losing content is worse than failing the
/// stream, see [`Capture::or_fail`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
pub struct Capture {
    #[cfg_attr(feature = "serde", serde(rename = "keep"))]
    policy: Policy,
    #[cfg_attr(feature = "serde", serde(default))]
    or_fail: bool,
}

/// Which bytes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(rename_all = "snake_case"))]
enum Policy {
    Head(u64),
    Tail(u64),
    HeadTail(u64, u64),
    None,
}

// === impl Capture ===

impl Capture {
    /// Everything, up to `max` bytes; of a longer stream its first `max`.
    pub const fn all(max: usize) -> Self {
        Self::of(Policy::Head(max as u64))
    }

    /// The first `n` bytes.
    pub const fn head(n: usize) -> Self {
        Self::of(Policy::Head(n as u64))
    }

    /// The last `n` bytes. While the stream runs, up to twice as much is held, and the newest chunk.
    pub const fn tail(n: usize) -> Self {
        Self::of(Policy::Tail(n as u64))
    }

    /// The first `n` bytes and the last `m`; of a stream of at most `n + m` bytes everything.
    pub const fn head_tail(n: usize, m: usize) -> Self {
        Self::of(Policy::HeadTail(n as u64, m as u64))
    }

    /// Nothing. Counts and times are still kept.
    pub const fn none() -> Self {
        Self::of(Policy::None)
    }

    /// Fails a stream that outgrows [`all`](Self::all) or [`head`](Self::head), instead of truncating
    /// its content: the chunk that does not fit is withheld, the client gets
    /// [`StreamError::ContentTooLarge`](crate::StreamError::ContentTooLarge), and the record is
    /// `Failed`. It has no effect on the other captures, which never overflow.
    pub const fn or_fail(mut self) -> Self {
        self.or_fail = true;
        self
    }

    const fn of(policy: Policy) -> Self {
        Self { policy, or_fail: false }
    }

    /// The limit beyond which a stream fails, if it is to fail.
    pub(crate) fn fails_beyond(&self) -> Option<u64> {
        match self.policy {
            Policy::Head(max) if self.or_fail => Some(max),
            _ => None,
        }
    }

    /// Bytes of the head and of the tail that are kept.
    pub(super) fn limits(&self) -> (u64, u64) {
        match self.policy {
            Policy::Head(max) => (max, 0),
            Policy::Tail(keep) => (0, keep),
            Policy::HeadTail(head, tail) => (head, tail),
            Policy::None => (0, 0),
        }
    }
}
