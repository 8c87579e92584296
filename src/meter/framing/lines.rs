//! Lines, from bytes that are cut anywhere.

use std::mem;

use memchr::{memchr, memchr2};

/// Cuts bytes into lines. A line that lies within one chunk of input is borrowed from it; any other one is copied.
#[derive(Debug)]
pub(super) struct LineSplitter {
    ends: LineEnding,
    max: usize,
    /// The start of a line whose end has not come, or the line that was joined last.
    buffer: Vec<u8>,
    is_joined: bool,
    /// A carriage return has ended a line. A line feed right after it belongs to it.
    after_return: bool,
    has_overflowed: bool,
}

/// What ends a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineEnding {
    /// LF only.
    Feed,
    /// LF, CR LF, or CR.
    FeedOrReturn,
}

/// A line without its end.
#[derive(Debug)]
pub(super) enum Line<'a> {
    /// The line lies in the input.
    Whole(&'a [u8]),
    /// The line was joined from several chunks: see [`LineSplitter::joined`].
    Joined,
}

// === impl LineSplitter ===

impl LineSplitter {
    /// Makes a splitter for lines of at most `max` bytes.
    pub(super) fn new(ends: LineEnding, max: usize) -> Self {
        Self { ends, max, buffer: Vec::new(), is_joined: false, after_return: false, has_overflowed: false }
    }

    /// Returns the next line, and moves `input` on behind it. `None` if all of it is taken; an unfinished line is
    /// kept for later.
    #[inline]
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Line<'a>> {
        if self.is_joined {
            self.buffer.clear();
            self.is_joined = false;
        }
        if self.after_return && !input.is_empty() {
            *input = input.strip_prefix(b"\n").unwrap_or(input);
            self.after_return = false;
        }
        let end = match self.ends {
            LineEnding::Feed => memchr(b'\n', input),
            LineEnding::FeedOrReturn => memchr2(b'\n', b'\r', input),
        };
        let part = &input[..end.unwrap_or(input.len())];
        if self.has_overflowed || part.len() > self.max.saturating_sub(self.buffer.len()) {
            self.overflow();
            *input = &[];
            return None;
        }
        let Some(end) = end else {
            append(&mut self.buffer, part, self.max);
            *input = &[];
            return None;
        };
        self.after_return = input[end] == b'\r';
        *input = &input[end + 1..];
        if self.buffer.is_empty() {
            return Some(Line::Whole(part));
        }
        append(&mut self.buffer, part, self.max);
        self.is_joined = true;
        Some(Line::Joined)
    }

    /// Whether the next byte starts a line, whatever it is.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        !self.after_return && !self.has_overflowed && (self.is_joined || self.buffer.is_empty())
    }

    /// The line that was joined last.
    pub(super) fn joined(&self) -> &[u8] {
        &self.buffer
    }

    /// Takes the joined line out of the buffer, to be put back.
    pub(super) fn take_joined(&mut self) -> Vec<u8> {
        mem::take(&mut self.buffer)
    }

    pub(super) fn put_joined(&mut self, joined: Vec<u8>) {
        if !self.has_overflowed {
            self.buffer = joined;
        }
    }

    pub(super) fn clear(&mut self) {
        self.buffer.clear();
    }

    /// The line whose end never came.
    pub(super) fn rest(&mut self) -> Option<&[u8]> {
        let is_rest = !self.is_joined && !self.buffer.is_empty();
        is_rest.then_some(&*self.buffer)
    }

    /// Puts back bytes that turned out to be the start of a line.
    pub(super) fn begin_with(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a line was too long. Later bytes are ignored.
    pub(super) fn has_overflowed(&self) -> bool {
        self.has_overflowed
    }

    pub(super) fn overflow(&mut self) {
        self.has_overflowed = true;
        self.buffer = Vec::new();
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    pub(super) fn buffered(&self) -> usize {
        self.buffer.capacity()
    }
}

/// Appends `part` to a buffer that holds at most `max` bytes. Its capacity grows as that of a vector does, but not
/// past `max`.
pub(super) fn append(buffer: &mut Vec<u8>, part: &[u8], max: usize) {
    let wanted = buffer.len() + part.len();
    if wanted > buffer.capacity() {
        let capacity = wanted.max((2 * buffer.capacity()).min(max));
        buffer.reserve_exact(capacity - buffer.len());
    }
    buffer.extend_from_slice(part);
}
