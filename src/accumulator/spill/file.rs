//! Temporary files.

use std::fs::File;
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A temporary file without a name. It is gone when its last owner drops it.
#[derive(Debug)]
pub(super) struct SpillFile {
    file: Mutex<File>,
}

// === impl SpillFile ===

impl SpillFile {
    pub(super) fn create(directory: &Path) -> io::Result<Self> {
        Ok(Self { file: Mutex::new(tempfile::tempfile_in(directory)?) })
    }

    /// Writes something and reads it back.
    pub(super) fn check(&self) -> io::Result<()> {
        let (at, len) = self.append(&[b"x"])?;
        self.read(at, len).map(drop)
    }

    /// Writes `parts` to the end. Returns where they begin, and how many bytes they are.
    pub(super) fn append(&self, parts: &[&[u8]]) -> io::Result<(u64, usize)> {
        let mut file = self.lock();
        let start = file.seek(SeekFrom::End(0))?;
        let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        write_all_vectored(&mut file, &mut slices)?;
        Ok((start, (file.stream_position()? - start) as usize))
    }

    /// Reads `len` bytes from position `at`.
    pub(super) fn read(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut file = self.lock();
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = vec![0; len];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn lock(&self) -> MutexGuard<'_, File> {
        // Each operation seeks first, so a panic under the lock leaves nothing behind.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes many chunks from where they are, in few calls.
fn write_all_vectored(file: &mut File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Removes what is empty at the start.
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
