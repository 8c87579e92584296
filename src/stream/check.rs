//! What may withhold a chunk: `on_chunk`, and a capture that may not overflow.

use std::fmt;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use super::error::StreamError;
use super::handle::StreamHandle;
use super::settle::Settlement;
use super::state::StreamState;
use super::stop_reason::StopReason;
use super::termination::EndSignal;
use super::trace;

/// Called with each chunk before it goes on.
pub(crate) type OnChunk = dyn Fn(&Bytes, &StreamHandle) -> ControlFlow<StopReason> + Send + Sync;

/// Asks of each chunk whether it may go on.
pub(crate) struct ChunkCheck {
    /// `None` once it has panicked.
    on_chunk: Option<Arc<OnChunk>>,
    handle: StreamHandle,
    /// Bytes beyond which the stream fails.
    fails_beyond: Option<u64>,
}

// === impl ChunkCheck ===

impl fmt::Debug for ChunkCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkCheck").field("fails_beyond", &self.fails_beyond).finish_non_exhaustive()
    }
}

impl ChunkCheck {
    /// The check of `stream`; `None` where every chunk may go on.
    pub(crate) fn new(on_chunk: Option<&Arc<OnChunk>>, stream: &Arc<StreamState>) -> Option<Self> {
        let fails_beyond = stream.config().buffer.capture.fails_beyond();
        if on_chunk.is_none() && fails_beyond.is_none() {
            return None;
        }
        let handle = StreamHandle::new(Arc::clone(stream));
        Some(Self { on_chunk: on_chunk.cloned(), handle, fails_beyond })
    }

    /// Settles the stream if `chunk` may not go on, and returns the error of whoever pulled it.
    pub(crate) fn chunk(&mut self, chunk: &Bytes, stream: &StreamState) -> Result<(), StreamError> {
        let (signal, error) = match (self.ask(chunk), self.fails_beyond) {
            (ControlFlow::Break(reason), _) => {
                (EndSignal::BrokenOff(reason.clone()), StreamError::Stopped { reason })
            }
            (ControlFlow::Continue(()), Some(limit))
                if stream.metrics().bytes() + chunk.len() as u64 > limit =>
            {
                (EndSignal::TooLarge { limit }, StreamError::ContentTooLarge { limit })
            }
            (ControlFlow::Continue(()), _) => return Ok(()),
        };
        stream.metrics().record_withheld(chunk.len());
        Err(match stream.settle(signal, None) {
            Settlement::Failed(error) => error,
            // Somebody else ended the stream first: the record has their reason.
            _ => stream.closing().cloned().flatten().unwrap_or(error),
        })
    }

    fn ask(&mut self, chunk: &Bytes) -> ControlFlow<StopReason> {
        let (Some(on_chunk), false) = (&self.on_chunk, chunk.is_empty()) else {
            return ControlFlow::Continue(());
        };
        let call = AssertUnwindSafe(|| on_chunk(chunk, &self.handle));
        catch_unwind(call).unwrap_or_else(|_| {
            trace::callback_panicked(Some(self.handle.id()), "on_chunk");
            self.on_chunk = None;
            ControlFlow::Continue(())
        })
    }
}
