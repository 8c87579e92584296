//! What stands in for temporary files without the feature `spill`.

use std::io;
use std::path::Path;

/// A file that cannot exist.
#[derive(Debug)]
pub(super) enum SpillFile {}

// === impl SpillFile ===

impl SpillFile {
    pub(super) fn create(_: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn check(&self) -> io::Result<()> {
        match *self {}
    }

    pub(super) fn append(&self, _: &[&[u8]]) -> io::Result<(u64, usize)> {
        match *self {}
    }

    pub(super) fn read(&self, _: u64, _: usize) -> io::Result<Vec<u8>> {
        match *self {}
    }
}
