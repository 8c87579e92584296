//! What is compared.

use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Waker};
use std::thread;

use bytes::Bytes;
use crossbeam_queue::SegQueue;
use flume::{Receiver, Sender};
use streaming_accumulator::capture::{ContentReader, ContentWriter};
use streaming_accumulator::{ContentAccumulator, StreamPipeline};

/// ASCII text, counted as what comes from a socket is: a clone is an atomic add, a drop an atomic
/// subtraction. Its type spares strings the validation, which is not theirs to pay here.
#[derive(Clone)]
pub(crate) struct Chunk(Bytes);

/// What any thread may append to.
pub(crate) trait Accumulator: Sync {
    fn new() -> Self;

    /// Keeps the chunk, which goes on to somebody else, as in a tee: who keeps a reference clones it, who
    /// copies need not. The clone is made in here, and where it is used: to move one that was just made
    /// costs up to 10 ns, for its parts are then read back wider than they were written, and which
    /// contestants escape that is up to the compiler.
    fn append(&self, chunk: &Chunk);
}

/// One writer, and readers beside it. The lock stands for the exclusive borrow: nobody contends for it.
pub(crate) struct Alone {
    writer: Mutex<ContentWriter>,
    pub(crate) reader: ContentReader,
}

/// Unbounded, lock-free; pins the buffers that its chunks were cut from.
pub(crate) struct Queue {
    chunks: SegQueue<Bytes>,
    bytes: AtomicUsize,
}

/// A channel that nobody drains, and the receiver, without which it takes nothing.
pub(crate) struct Channel {
    sender: Sender<Bytes>,
    _receiver: Receiver<Bytes>,
}

// === impl Chunk ===

impl Chunk {
    pub(crate) fn new(len: usize) -> Self {
        Self(Bytes::from(vec![b'x'; len + 1]).slice(..len))
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.0
    }

    #[allow(unsafe_code, reason = "a check of UTF-8 would be part of what is measured")]
    pub(crate) fn as_str(&self) -> &str {
        // SAFETY: only `new` makes one, of ASCII.
        unsafe { str::from_utf8_unchecked(&self.0) }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

// === impl Accumulator ===

impl Accumulator for ContentAccumulator {
    fn new() -> Self {
        Self::new(usize::MAX)
    }

    fn append(&self, chunk: &Chunk) {
        Self::append(self, chunk.0.clone()).expect("no limit");
    }
}

impl Accumulator for Alone {
    fn new() -> Self {
        let writer = ContentWriter::new(usize::MAX);
        Self { reader: writer.reader(), writer: Mutex::new(writer) }
    }

    fn append(&self, chunk: &Chunk) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.append(&chunk.0).expect("no limit");
    }
}

impl Accumulator for StreamPipeline {
    fn new() -> Self {
        Self::builder().max_size(usize::MAX).build()
    }

    fn append(&self, chunk: &Chunk) {
        let mut push = pin!(self.push(chunk.0.clone()));
        // It waits only while the channel is full, which another thread is about to empty.
        while push.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            thread::yield_now();
        }
    }
}

impl Accumulator for Mutex<String> {
    fn new() -> Self {
        Self::default()
    }

    fn append(&self, chunk: &Chunk) {
        self.lock().unwrap_or_else(PoisonError::into_inner).push_str(chunk.as_str());
    }
}

impl Accumulator for parking_lot::Mutex<String> {
    fn new() -> Self {
        Self::default()
    }

    fn append(&self, chunk: &Chunk) {
        self.lock().push_str(chunk.as_str());
    }
}

impl Accumulator for Queue {
    fn new() -> Self {
        Self { chunks: SegQueue::new(), bytes: AtomicUsize::new(0) }
    }

    fn append(&self, chunk: &Chunk) {
        let chunk = chunk.clone();
        self.bytes.fetch_add(chunk.len(), Ordering::Relaxed);
        self.chunks.push(chunk.0);
    }
}

impl Accumulator for Channel {
    #[expect(clippy::disallowed_methods, reason = "bounded by what a round appends")]
    fn new() -> Self {
        let (sender, receiver) = flume::unbounded();
        Self { sender, _receiver: receiver }
    }

    fn append(&self, chunk: &Chunk) {
        self.sender.send(chunk.0.clone()).expect("its receiver lives");
    }
}
