//! The decompressor of a response, by its headers.

use http::{HeaderMap, header};

#[cfg(feature = "llm-br")]
use super::brotli::Brotli;
use super::decoder::Decoder;
#[cfg(feature = "llm-gzip")]
use super::deflate::Deflate;
#[cfg(feature = "llm-gzip")]
use super::gzip::Gzip;
#[cfg(feature = "llm-zstd")]
use super::zstd::Zstd;
use crate::meter::report::Incomplete;

/// The size of the buffer for decompressed bytes.
pub(super) const BUFFER: usize = 16 * 1024;

/// Undoes a `content-encoding`, chunk by chunk.
pub(crate) struct Decompressor {
    pub(super) coding: &'static str,
    decoder: Box<dyn Decoder>,
    /// The buffer for decompressed bytes, used again and again.
    buffer: Box<[u8]>,
    max: u64,
    /// How many bytes of `max` are left.
    room: u64,
}

// === impl Decompressor ===

impl Decompressor {
    /// The decompressor for these headers: `None` if the body is not encoded, otherwise one that yields at most `max`
    /// bytes. A coding that this build cannot decompress is an error.
    ///
    /// Stacked codings are refused: servers do not use them, and each would expand the other.
    pub(crate) fn of(headers: &HeaderMap, max: u64) -> Result<Option<Self>, Incomplete> {
        let lines = headers.get_all(header::CONTENT_ENCODING).iter();
        let value = lines.map(|line| String::from_utf8_lossy(line.as_bytes())).collect::<Vec<_>>().join(", ");
        let mut codings = value
            .split(',')
            .map(str::trim)
            .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"));
        let Some(coding) = codings.next() else {
            return Ok(None);
        };
        match (decoder(coding), codings.next()) {
            (Some((coding, decoder)), None) => {
                Ok(Some(Self { coding, decoder, buffer: vec![0; BUFFER].into(), max, room: max }))
            }
            _ => Err(Incomplete::Encoded(value.into())),
        }
    }

    /// Decompresses `bytes`, and passes the result to `sink` in slices of bounded size.
    ///
    /// # Errors
    ///
    /// `Corrupt` if the bytes are not in the coding; `Expansion` if there is more than the limit, after `sink` was
    /// given everything up to it. Nothing may be fed after an error.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), Incomplete> {
        while !self.decoder.is_over() {
            let before = bytes.len();
            let filled = self.decoder.decompress(&mut bytes, &mut self.buffer);
            let len = filled.map_err(|what| self.corrupt(what))?;
            if len > 0 {
                self.give(len, sink)?;
            }
            // Only once nothing more comes out: what follows the last output may be an error.
            if len == 0 && bytes.is_empty() {
                break;
            }
            if len == 0 && bytes.len() == before && !self.decoder.is_over() {
                return Err(self.corrupt("it does not go on"));
            }
        }
        Ok(())
    }

    /// The bytes that the decompressor holds, window included.
    pub(crate) fn held(&self) -> usize {
        self.buffer.len() + self.decoder.held()
    }

    fn give(&mut self, len: usize, sink: &mut dyn FnMut(&[u8])) -> Result<(), Incomplete> {
        let fits = self.room.min(len as u64);
        self.room -= fits;
        sink(&self.buffer[..fits as usize]);
        if fits < len as u64 { Err(Incomplete::Expansion { limit: self.max }) } else { Ok(()) }
    }

    fn corrupt(&self, what: &str) -> Incomplete {
        Incomplete::Corrupt(format!("{}: {what}", self.coding).into())
    }
}

/// The decoder for a coding and the coding's name. Names are case-insensitive.
fn decoder(coding: &str) -> Option<(&'static str, Box<dyn Decoder>)> {
    match coding.to_ascii_lowercase().as_str() {
        #[cfg(feature = "llm-gzip")]
        "gzip" | "x-gzip" => Some(("gzip", Box::new(Gzip::new()))),
        #[cfg(feature = "llm-gzip")]
        "deflate" => Some(("deflate", Box::new(Deflate::new()))),
        #[cfg(feature = "llm-br")]
        "br" => Some(("br", Box::new(Brotli::new()))),
        #[cfg(feature = "llm-zstd")]
        "zstd" => Some(("zstd", Box::new(Zstd::new()?))),
        _ => None,
    }
}
