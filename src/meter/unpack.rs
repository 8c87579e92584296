//! Content codings, undone for the meter only: the client gets the bytes as they were.

use http::HeaderMap;

use crate::llm::Incomplete;

/// Undoes a `content-encoding`, push by push.
pub(crate) struct Unpacker {}

impl Unpacker {
    /// What the response's headers ask for: nothing to undo, an unpacker that yields at most `max` bytes, or a
    /// coding that this build does not know.
    pub(crate) fn of(_headers: &HeaderMap, _max: u64) -> Result<Option<Self>, Incomplete> {
        Ok(None)
    }

    /// Unpacks `bytes` and gives what comes out to `sink`, in pieces of bounded size.
    pub(crate) fn feed(&mut self, _bytes: &[u8], _sink: &mut dyn FnMut(&[u8])) -> Result<(), Incomplete> {
        Ok(())
    }
}
