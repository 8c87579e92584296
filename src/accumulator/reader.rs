//! A cursor in a stream that is being written.

use std::sync::{Arc, Weak};

use super::block::{Block, ChunkRef, Cursor, Entry};
use super::buffer::StreamBuffer;
use super::chunk::StreamChunk;

/// Reads the chunks of a [`StreamBuffer`] one by one, from the first that is kept.
///
/// It keeps nothing alive: what is trimmed before it was read is missed, and counted.
#[derive(Debug)]
pub(crate) struct BufferReader {
    block: Weak<Block>,
    cursor: Cursor,
    /// Chunks of the stream before the next one.
    index: u64,
}

/// What a [`BufferReader`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReadStep {
    Chunk(StreamChunk),
    /// This many chunks are gone, and the next one is there.
    Missed(u64),
    /// There is nothing more yet.
    Nothing,
}

// === impl BufferReader ===

impl BufferReader {
    /// At the first chunk that is kept. If none is, at what follows the first `chunks`, a count from before this call.
    pub(crate) fn new(buffer: &StreamBuffer, chunks: u64) -> Self {
        let mut reader = Self { block: Weak::new(), cursor: Cursor::default(), index: chunks };
        if let Some(first) = buffer.firsts().iter().flatten().next() {
            reader.index = first.first();
            reader.go_to(first);
        }
        reader
    }

    /// Chunks of the stream that it has read or missed.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// Chunks that are written and not read.
    pub(crate) fn lag(&self, buffer: &StreamBuffer) -> u64 {
        let [head, live] = buffer.firsts();
        let here = self.block.upgrade();
        let mut end = buffer.lost();
        // From the head's first block only if it stands nowhere, because a head may be long.
        for block in [here.or(head), live].iter().flatten() {
            end = end.max(Block::last(block).end().1);
        }
        end.saturating_sub(self.index)
    }

    /// The next chunk, or how many were missed before it.
    pub(crate) fn read(&mut self, buffer: &StreamBuffer) -> ReadStep {
        self.step(buffer, |chunk| Some(StreamChunk::new(chunk.bytes(), chunk.at())))
    }

    /// Skips chunks that are more than `lag` behind the last one. Returns how many.
    pub(crate) fn skip_to(&mut self, buffer: &StreamBuffer, lag: u64) -> u64 {
        let excess = self.lag(buffer).saturating_sub(lag);
        let (before, target) = (self.index, self.index + excess);
        while self.index < target && self.step(buffer, |_| None) != ReadStep::Nothing {}
        self.index - before
    }

    /// One chunk further. A chunk of which `read` makes nothing is reported as missed.
    fn step(
        &mut self,
        buffer: &StreamBuffer,
        read: impl Fn(ChunkRef<'_>) -> Option<StreamChunk>,
    ) -> ReadStep {
        loop {
            let Some(block) = self.block.upgrade() else {
                match self.go_to_first(buffer) {
                    Some(0) => continue,
                    Some(missed) => return ReadStep::Missed(missed),
                    None => return self.miss_lost(buffer),
                }
            };
            let (entry, next) = block.read(self.cursor);
            match entry {
                Entry::Chunk(chunk) => {
                    self.cursor = next;
                    self.index += 1;
                    return read(chunk).map_or(ReadStep::Missed(1), ReadStep::Chunk);
                }
                Entry::Next(link) => {
                    if let Some(next) = link.cloned()
                        && let missed @ 1.. = self.go_to(&next)
                    {
                        return ReadStep::Missed(missed);
                    }
                }
                // The head may have ended here, or its writer may have left a gap.
                Entry::End if block.is_over(self.cursor) => match self.go_to_first(buffer) {
                    Some(0) => {}
                    Some(missed) => return ReadStep::Missed(missed),
                    None => return self.miss_lost(buffer),
                },
                // Closed after a last chunk that was not there yet.
                Entry::End if block.is_closed() => {}
                Entry::End => return ReadStep::Nothing,
            }
        }
    }

    /// Skips chunks that were dropped for lack of memory and have no successor yet.
    fn miss_lost(&mut self, buffer: &StreamBuffer) -> ReadStep {
        let missed = buffer.lost().saturating_sub(self.index);
        self.index += missed;
        if missed > 0 { ReadStep::Missed(missed) } else { ReadStep::Nothing }
    }

    /// Goes to the first block that is kept of what it has not read. Returns how many chunks it misses by that.
    fn go_to_first(&mut self, buffer: &StreamBuffer) -> Option<u64> {
        let firsts = buffer.firsts();
        let first = firsts.iter().flatten().find(|block| block.first() >= self.index)?;
        Some(self.go_to(first))
    }

    fn go_to(&mut self, block: &Arc<Block>) -> u64 {
        let missed = block.first().saturating_sub(self.index);
        self.index += missed;
        self.block = Arc::downgrade(block);
        self.cursor = Cursor::default();
        missed
    }
}
