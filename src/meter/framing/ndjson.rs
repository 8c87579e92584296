//! Newline-delimited JSON ([ndjson](https://github.com/ndjson/ndjson-spec), also `application/jsonl`,
//! `application/stream+json`).

use super::lines::{Line, LineEnding, LineSplitter};

/// Cuts newline-delimited JSON into lines, from bytes that are cut anywhere.
///
/// Lines end in LF. Blanks around them are dropped, and empty lines are skipped. The JSON itself is not checked. A
/// line that lies within one chunk of input is borrowed from it.
///
/// ```
/// use streaming_accumulator::meter::NdjsonDecoder;
///
/// let mut decoder = NdjsonDecoder::new();
/// let mut seen = Vec::new();
/// for mut chunk in [&b"{\"a\":1}\r\n\n{\"b\""[..], b":2}\n{\"c\":3}"] {
///     while let Some(line) = decoder.next(&mut chunk) {
///         seen.push(line.to_vec());
///     }
/// }
/// seen.extend(decoder.finish().map(<[u8]>::to_vec)); // The last line needs no end.
/// assert_eq!(seen, [&b"{\"a\":1}"[..], b"{\"b\":2}", b"{\"c\":3}"]);
/// ```
#[derive(Debug)]
pub struct NdjsonDecoder {
    lines: LineSplitter,
}

// === impl NdjsonDecoder ===

impl NdjsonDecoder {
    /// Makes a decoder for lines of at most 1 MiB.
    pub fn new() -> Self {
        Self::with_max(1024 * 1024)
    }

    /// Makes a decoder for lines of at most `max` bytes.
    pub fn with_max(max: usize) -> Self {
        Self { lines: LineSplitter::new(LineEnding::Feed, max) }
    }

    /// Returns the next whole line, and moves `input` on behind it.
    ///
    /// `None` if all of `input` is taken and more is needed, or the decoder [has overflowed](Self::has_overflowed).
    #[inline]
    pub fn next<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Option<&'a [u8]> {
        loop {
            match self.lines.next(input)? {
                Line::Whole(line) if !line.trim_ascii().is_empty() => return Some(line.trim_ascii()),
                Line::Joined if !self.lines.joined().trim_ascii().is_empty() => {
                    return Some(self.lines.joined().trim_ascii());
                }
                _ => {}
            }
        }
    }

    /// The last line, if it has no line feed.
    pub fn finish(&mut self) -> Option<&[u8]> {
        let rest = self.lines.rest()?.trim_ascii();
        (!rest.is_empty()).then_some(rest)
    }

    /// Whether a line was too long. Later bytes are ignored.
    pub fn has_overflowed(&self) -> bool {
        self.lines.has_overflowed()
    }

    /// The bytes of heap that the decoder holds.
    pub fn buffered(&self) -> usize {
        self.lines.buffered()
    }
}

impl Default for NdjsonDecoder {
    fn default() -> Self {
        Self::new()
    }
}
