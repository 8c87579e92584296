//! A stretch of content outside of the log: packed into bytes, perhaps compressed, in memory or in a file.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::file::SpillFile;
use crate::accumulator::block::Pool;
use crate::accumulator::budget::Mark;
use crate::accumulator::chunk::StreamChunk;

/// Bytes before each chunk: its length and its arrival.
const HEADER: usize = 16;

/// Stored chunks.
#[derive(Clone, Debug)]
pub(in crate::accumulator) struct Segment {
    location: Location,
    /// Bytes of the packed chunks, before they are compressed.
    size: usize,
    content: u64,
    is_compressed: bool,
}

/// Chunks that are to become a segment.
#[derive(Debug, Default)]
pub(super) struct SegmentBuilder {
    chunks: Vec<(Bytes, u64)>,
    size: usize,
}

#[derive(Clone, Debug)]
enum Location {
    Memory(Arc<ChargedBytes>),
    File { file: Arc<SpillFile>, at: u64, len: usize },
}

/// Bytes that the budget was charged for.
#[derive(Debug)]
struct ChargedBytes {
    bytes: Box<[u8]>,
    pool: Arc<Pool>,
}

// === impl Segment ===

impl Segment {
    /// Bytes of content.
    pub(in crate::accumulator) fn content(&self) -> u64 {
        self.content
    }

    pub(in crate::accumulator) fn is_in_memory(&self) -> bool {
        matches!(self.location, Location::Memory(_))
    }

    /// Reads the chunks of its first `most` bytes of content. Blocks while it reads a file.
    pub(in crate::accumulator) fn load(&self, mut most: u64) -> io::Result<Vec<StreamChunk>> {
        let stored = match &self.location {
            Location::Memory(charged) => Cow::Borrowed(&*charged.bytes),
            Location::File { file, at, len } => Cow::Owned(file.read(*at, *len)?),
        };
        let packed = if self.is_compressed { decompress(&stored, self.size)? } else { stored.into_owned() };
        let mut packed = Bytes::from(packed);
        let mut chunks = Vec::new();
        while packed.has_remaining() && most > 0 {
            let torn = |_| io::Error::from(io::ErrorKind::InvalidData);
            let len = packed.try_get_u64_le().map_err(torn)?;
            let at = packed.try_get_u64_le().map_err(torn)?;
            if len > packed.len() as u64 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut chunk = packed.split_to(len as usize);
            chunk.truncate(usize::try_from(most).unwrap_or(usize::MAX));
            most -= chunk.len() as u64;
            chunks.push(StreamChunk::new(chunk, at));
        }
        Ok(chunks)
    }

    /// The same segment in `file`.
    pub(super) fn moved_to(&self, file: &Arc<SpillFile>) -> io::Result<Self> {
        let Location::Memory(charged) = &self.location else {
            return Ok(self.clone());
        };
        let (at, len) = file.append(&[&charged.bytes])?;
        Ok(Self { location: Location::File { file: Arc::clone(file), at, len }, ..*self })
    }
}

// === impl SegmentBuilder ===

impl SegmentBuilder {
    pub(super) fn push(&mut self, chunk: Bytes, at: u64) {
        self.size += HEADER + chunk.len();
        self.chunks.push((chunk, at));
    }

    /// Bytes of the packed chunks.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// How many chunks there are.
    pub(super) fn chunks(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// Bytes of content.
    pub(super) fn content(&self) -> u64 {
        (self.size - HEADER * self.chunks.len()) as u64
    }

    /// A compressed segment in memory. `None` if it would not be smaller, or the budget is used up.
    pub(super) fn compressed(&self, pool: &Arc<Pool>) -> Option<Segment> {
        let bytes = self.smaller()?;
        if !pool.charge(bytes.len() as u64, Mark::Full) {
            return None;
        }
        let charged = ChargedBytes { bytes: bytes.into(), pool: Arc::clone(pool) };
        Some(self.segment(Location::Memory(Arc::new(charged)), true))
    }

    /// Writes the chunks to the end of `file`.
    pub(super) fn written_to(&self, file: &Arc<SpillFile>, compressed: bool) -> io::Result<Segment> {
        let smaller = if compressed { self.smaller() } else { None };
        let (at, len) = match &smaller {
            Some(bytes) => file.append(&[bytes])?,
            None => {
                let headers: Vec<_> = self.chunks.iter().map(|(chunk, at)| header(chunk, *at)).collect();
                let chunks = headers.iter().zip(&self.chunks);
                let parts: Vec<&[u8]> =
                    chunks.flat_map(|(header, (chunk, _))| [&header[..], chunk]).collect();
                file.append(&parts)?
            }
        };
        Ok(self.segment(Location::File { file: Arc::clone(file), at, len }, smaller.is_some()))
    }

    fn segment(&self, location: Location, is_compressed: bool) -> Segment {
        Segment { location, size: self.size, content: self.content(), is_compressed }
    }

    /// The packed chunks compressed, if that makes them smaller.
    fn smaller(&self) -> Option<Vec<u8>> {
        compress(&self.packed()).filter(|bytes| bytes.len() < self.size)
    }

    fn packed(&self) -> Vec<u8> {
        let mut packed = Vec::with_capacity(self.size);
        for (chunk, at) in &self.chunks {
            packed.extend_from_slice(&header(chunk, *at));
            packed.extend_from_slice(chunk);
        }
        packed
    }
}

fn header(chunk: &Bytes, at: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&(chunk.len() as u64).to_le_bytes());
    header[8..].copy_from_slice(&at.to_le_bytes());
    header
}

#[cfg(feature = "compression")]
fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(lz4_flex::block::compress(bytes))
}

#[cfg(not(feature = "compression"))]
fn compress(_: &[u8]) -> Option<Vec<u8>> {
    None
}

/// Decompresses at most `size` bytes.
#[cfg(feature = "compression")]
fn decompress(bytes: &[u8], size: usize) -> io::Result<Vec<u8>> {
    lz4_flex::block::decompress(bytes, size)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(not(feature = "compression"))]
fn decompress(_: &[u8], _: usize) -> io::Result<Vec<u8>> {
    Err(io::ErrorKind::Unsupported.into())
}

// === impl ChargedBytes ===

impl Drop for ChargedBytes {
    fn drop(&mut self) {
        self.pool.release(self.bytes.len() as u64);
    }
}
