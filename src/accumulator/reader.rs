//! A cursor in a stream that is being written.

use std::sync::{Arc, Weak};

use super::block::{Block, Cursor, Entry, Found};
use super::capturing::StreamBuffer;
use super::content::StreamChunk;

/// Reads the chunks of a [`StreamBuffer`] one by one, from the first that is kept.
///
/// It keeps nothing alive: what is trimmed before it was read is missed, and counted.
#[derive(Debug)]
pub(crate) struct Reader {
    block: Weak<Block>,
    cursor: Cursor,
    /// Chunks of the stream before the next one.
    index: u64,
}

/// What a [`Reader`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Chunk(StreamChunk),
    /// So many chunks are gone, and the next one is there.
    Missed(u64),
    /// There is nothing more yet.
    Nothing,
}

// === impl Reader ===

impl Reader {
    /// At the first chunk that is kept, or, where none is, at what comes behind the `chunks` so far: a count
    /// from before this call.
    pub(crate) fn new(capturing: &StreamBuffer, chunks: u64) -> Self {
        let mut reader = Self { block: Weak::new(), cursor: Cursor::default(), index: chunks };
        if let Some(first) = capturing.firsts().iter().flatten().next() {
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
    pub(crate) fn lag(&self, capturing: &StreamBuffer) -> u64 {
        let [head, live] = capturing.firsts();
        let here = self.block.upgrade();
        let mut end = capturing.lost();
        // From the head's first block only where it stands nowhere: a head may be long.
        for block in [here.or(head), live].iter().flatten() {
            end = end.max(Block::last(block).end().1);
        }
        end.saturating_sub(self.index)
    }

    /// The next chunk, or how many were missed before it.
    pub(crate) fn read(&mut self, capturing: &StreamBuffer) -> Read {
        self.step(capturing, |chunk| Some(StreamChunk::new(chunk.bytes(), chunk.at())))
    }

    /// Passes over chunks that are more than `lag` behind the last one; how many.
    pub(crate) fn skip_to(&mut self, capturing: &StreamBuffer, lag: u64) -> u64 {
        let excess = self.lag(capturing).saturating_sub(lag);
        let (before, target) = (self.index, self.index + excess);
        while self.index < target && self.step(capturing, |_| None) != Read::Nothing {}
        self.index - before
    }

    /// One chunk further. What is not made of it is reported as missed.
    fn step(&mut self, capturing: &StreamBuffer, make: impl Fn(Found<'_>) -> Option<StreamChunk>) -> Read {
        loop {
            let Some(block) = self.block.upgrade() else {
                match self.go_to_first(capturing) {
                    Some(0) => continue,
                    Some(missed) => return Read::Missed(missed),
                    None => return self.miss_lost(capturing),
                }
            };
            let (entry, next) = block.read(self.cursor);
            match entry {
                Entry::Chunk(chunk) => {
                    self.cursor = next;
                    self.index += 1;
                    return make(chunk).map_or(Read::Missed(1), Read::Chunk);
                }
                Entry::Next(link) => {
                    if let Some(next) = link.cloned()
                        && let missed @ 1.. = self.go_to(&next)
                    {
                        return Read::Missed(missed);
                    }
                }
                // The head may have ended here, or its writer may have left a gap.
                Entry::End if block.is_over(self.cursor) => match self.go_to_first(capturing) {
                    Some(0) => {}
                    Some(missed) => return Read::Missed(missed),
                    None => return self.miss_lost(capturing),
                },
                // Closed after a last chunk that was not there yet.
                Entry::End if block.is_closed() => {}
                Entry::End => return Read::Nothing,
            }
        }
    }

    /// Passes over chunks that found no room, where nothing came behind them yet.
    fn miss_lost(&mut self, capturing: &StreamBuffer) -> Read {
        let missed = capturing.lost().saturating_sub(self.index);
        self.index += missed;
        if missed > 0 { Read::Missed(missed) } else { Read::Nothing }
    }

    /// Goes to the first block that is kept of what it has not read; how many chunks are missed by that.
    fn go_to_first(&mut self, capturing: &StreamBuffer) -> Option<u64> {
        let firsts = capturing.firsts();
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
