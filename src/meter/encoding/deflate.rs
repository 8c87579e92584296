//! deflate, in both of its formats.

use flate2::Decompress;

use super::decoder::Decoder;
use super::inflate::{INFLATER, inflate};

/// `deflate` is zlib's format by the standard, and raw deflate from some servers.
pub(super) enum Deflate {
    /// Before the two bytes that show the format; the first one, if it has come.
    Start(Option<u8>),
    Body(Decompress),
    Over,
}

// === impl Deflate ===

impl Deflate {
    pub(super) fn new() -> Self {
        Self::Start(None)
    }
}

impl Decoder for Deflate {
    fn decompress(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, &'static str> {
        let mut len = 0;
        if let Self::Start(first) = self {
            let Some((byte, rest)) = input.split_first() else {
                return Ok(0);
            };
            let Some(first) = *first else {
                *self = Self::Start(Some(*byte));
                *input = rest;
                return Ok(0);
            };
            let mut inflater = Decompress::new(is_zlib(first, *byte));
            (len, _) = inflate(&mut inflater, &mut &[first][..], output)?;
            *self = Self::Body(inflater);
        }
        if let Self::Body(inflater) = self {
            let (more, is_end) = inflate(inflater, input, &mut output[len..])?;
            len += more;
            if is_end {
                *self = Self::Over;
            }
        }
        Ok(len)
    }

    fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    fn held(&self) -> usize {
        if let Self::Body(_) = self { INFLATER } else { 0 }
    }
}

/// Whether two bytes start zlib's format ([RFC 1950](https://www.rfc-editor.org/rfc/rfc1950), section 2.2).
///
/// Raw deflate that starts with them would be a stored block with non-zero padding, which no encoder writes.
fn is_zlib(first: u8, second: u8) -> bool {
    first & 0x0f == 8 && first >> 4 <= 7 && u16::from_be_bytes([first, second]).is_multiple_of(31)
}
