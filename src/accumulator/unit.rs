//! A run of chunks outside of the log: packed into bytes, perhaps compressed, in memory or in a file.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};

use super::content::StreamChunk;
use super::pool::Pool;
use crate::accumulator::budget::Mark;

/// Bytes before each chunk: its length and its arrival.
const HEADER: usize = 16;

/// A run of chunks.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    place: Place,
    /// Packed, not compressed.
    size: usize,
    content: u64,
    is_compressed: bool,
}

#[derive(Clone, Debug)]
enum Place {
    Memory(Arc<Charged>),
    File { file: Arc<SpillFile>, at: u64, len: usize },
}

/// Bytes that the budget was charged for.
#[derive(Debug)]
struct Charged {
    bytes: Box<[u8]>,
    pool: Arc<Pool>,
}

/// A temporary file without a name: it is gone when the last that holds it is.
#[derive(Debug)]
pub(super) struct SpillFile {
    file: Mutex<File>,
}

/// Chunks that are to become a unit.
#[derive(Debug, Default)]
pub(super) struct Packing {
    chunks: Vec<(Bytes, u64)>,
    size: usize,
}

// === impl Packing ===

impl Packing {
    pub(super) fn push(&mut self, chunk: Bytes, at: u64) {
        self.size += HEADER + chunk.len();
        self.chunks.push((chunk, at));
    }

    /// Bytes that it takes packed.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// How many chunks.
    pub(super) fn chunks(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// Bytes of content.
    pub(super) fn content(&self) -> u64 {
        (self.size - HEADER * self.chunks.len()) as u64
    }

    fn packed(&self) -> Vec<u8> {
        let mut packed = Vec::with_capacity(self.size);
        for (chunk, at) in &self.chunks {
            packed.extend_from_slice(&header(chunk, *at));
            packed.extend_from_slice(chunk);
        }
        packed
    }

    fn unit(&self, place: Place, is_compressed: bool) -> Unit {
        Unit { place, size: self.size, content: self.content(), is_compressed }
    }

    /// The chunks compressed, if that makes them smaller.
    fn smaller(&self) -> Option<Vec<u8>> {
        compress(&self.packed()).filter(|bytes| bytes.len() < self.size)
    }

    /// A compressed unit in memory. `None` where it would not be smaller, or the budget is used up.
    pub(super) fn compressed(&self, pool: &Arc<Pool>) -> Option<Unit> {
        let bytes = self.smaller()?;
        if !pool.charge(bytes.len() as u64, Mark::Full) {
            return None;
        }
        let charged = Charged { bytes: bytes.into(), pool: Arc::clone(pool) };
        Some(self.unit(Place::Memory(Arc::new(charged)), true))
    }

    /// Writes the chunks to the end of `file`.
    pub(super) fn write(&self, file: &Arc<SpillFile>, compressed: bool) -> io::Result<Unit> {
        let unit = |(at, len), is_compressed| {
            self.unit(Place::File { file: Arc::clone(file), at, len }, is_compressed)
        };
        if compressed && let Some(bytes) = self.smaller() {
            return Ok(unit(file.append(|file| file.write_all(&bytes))?, true));
        }
        let written = file.append(|file| {
            let headers: Vec<_> = self.chunks.iter().map(|(chunk, at)| header(chunk, *at)).collect();
            let parts = headers.iter().zip(&self.chunks);
            let mut slices: Vec<_> =
                parts.flat_map(|(header, (chunk, _))| [IoSlice::new(header), IoSlice::new(chunk)]).collect();
            write_all_vectored(file, &mut slices)
        })?;
        Ok(unit(written, false))
    }
}

fn header(chunk: &Bytes, at: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&(chunk.len() as u64).to_le_bytes());
    header[8..].copy_from_slice(&at.to_le_bytes());
    header
}

/// Writes chunks from where they are: one call for many.
fn write_all_vectored(file: &mut File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Takes away what is empty.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(feature = "compression")]
fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(lz4_flex::block::compress(bytes))
}

#[cfg(not(feature = "compression"))]
fn compress(_: &[u8]) -> Option<Vec<u8>> {
    None
}

/// Never more than `size` bytes.
#[cfg(feature = "compression")]
fn decompress(bytes: &[u8], size: usize) -> io::Result<Vec<u8>> {
    lz4_flex::block::decompress(bytes, size)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(not(feature = "compression"))]
fn decompress(_: &[u8], _: usize) -> io::Result<Vec<u8>> {
    Err(io::ErrorKind::Unsupported.into())
}

// === impl Unit ===

impl Unit {
    /// Bytes of content.
    pub(super) fn content(&self) -> u64 {
        self.content
    }

    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.place, Place::Memory(_))
    }

    /// The same in `file`.
    pub(super) fn moved(&self, file: &Arc<SpillFile>) -> io::Result<Self> {
        let Place::Memory(charged) = &self.place else {
            return Ok(self.clone());
        };
        let (at, len) = file.append(|file| file.write_all(&charged.bytes))?;
        Ok(Self { place: Place::File { file: Arc::clone(file), at, len }, ..*self })
    }

    /// Reads the chunks of its first `most` bytes of content. Blocks while it reads a file.
    pub(super) fn load(&self, mut most: u64) -> io::Result<Vec<StreamChunk>> {
        let stored = match &self.place {
            Place::Memory(charged) => Cow::Borrowed(&*charged.bytes),
            Place::File { file, at, len } => Cow::Owned(file.read(*at, *len)?),
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
}

// === impl SpillFile ===

impl SpillFile {
    pub(super) fn create(directory: &Path) -> io::Result<Self> {
        Ok(Self { file: Mutex::new(tempfile::tempfile_in(directory)?) })
    }

    /// Writes something, and reads it back.
    pub(super) fn check(&self) -> io::Result<()> {
        let (at, len) = self.append(|file| file.write_all(b"x"))?;
        self.read(at, len).map(drop)
    }

    /// Writes to the end: from where on, and how many bytes.
    fn append(&self, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<(u64, usize)> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let start = file.seek(SeekFrom::End(0))?;
        write(&mut file)?;
        Ok((start, (file.stream_position()? - start) as usize))
    }

    fn read(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = vec![0; len];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

// === impl Charged ===

impl Drop for Charged {
    fn drop(&mut self) {
        self.pool.release(self.bytes.len() as u64);
    }
}
