//! Tests of the accumulator against a plain model, and of races by their properties.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
#[cfg(feature = "spill")]
use futures_util::StreamExt;
use proptest::prelude::*;

use super::block::Pool;
use super::budget::MemoryBudget;
use super::buffer::{BufferConfig, BufferWriter, StreamBuffer};
use super::capture::Capture;
use super::content::Content;
use super::content_accumulator::ContentAccumulator;
use super::content_writer::{ContentReader, ContentWriter};
use super::reader::{BufferReader, ReadStep};
#[cfg(any(feature = "spill", feature = "compression"))]
use super::spill::SpillWorker;

/// Chunk `n` of a stream, recognisable by its bytes.
fn chunk(n: usize, len: usize) -> Bytes {
    let mut bytes = vec![n as u8; len];
    for (i, byte) in bytes.iter_mut().take(64).enumerate() {
        *byte ^= i as u8;
    }
    bytes.into()
}

fn buffer(capture: Capture, pool: &Arc<Pool>) -> StreamBuffer {
    tapped(capture, pool, 64)
}

fn tapped(capture: Capture, pool: &Arc<Pool>, buffer_limit: u64) -> StreamBuffer {
    let config = BufferConfig::in_memory(capture, Arc::clone(pool), buffer_limit, false);
    StreamBuffer::new(&Arc::new(config))
}

fn chunks_of(content: &Content) -> Vec<Bytes> {
    content.chunks().map(Result::unwrap).collect()
}

fn joined(chunks: &[Bytes]) -> Vec<u8> {
    chunks.concat()
}

/// Runs `capture` over chunks of the given sizes.
fn captured(capture: Capture, sizes: &[usize]) -> (Content, Vec<Bytes>) {
    let chunks: Vec<_> = sizes.iter().enumerate().map(|(n, len)| chunk(n, *len)).collect();
    let log = buffer(capture, &Arc::default());
    let mut writer = log.writer();
    for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
        log.append(&mut writer, chunk, 0);
    }
    let pulled = sizes.iter().sum::<usize>() as u64;
    (log.snapshot(pulled), chunks)
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    // Around the words, the switch to references, and the blocks' sizes.
    let size = prop_oneof![0..20usize, 100..300usize, 1020..1030usize, Just(5000), Just(70_000)];
    prop::collection::vec(size, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn all_keeps_every_chunk_with_its_borders(sizes in sizes()) {
        let (content, chunks) = captured(Capture::all(usize::MAX), &sizes);
        let whole: Vec<_> = chunks.iter().filter(|chunk| !chunk.is_empty()).cloned().collect();
        prop_assert_eq!(chunks_of(&content), whole);
        prop_assert!(!content.is_truncated());
    }

    #[test]
    fn head_keeps_the_first_bytes(sizes in sizes(), limit in 0..20_000usize) {
        let (content, chunks) = captured(Capture::head(limit), &sizes);
        let all = joined(&chunks);
        let kept = all.len().min(limit);
        prop_assert_eq!(content.to_bytes().unwrap(), &all[..kept]);
        prop_assert_eq!(content.is_truncated(), kept < all.len());
        prop_assert_eq!(content.len(), kept);
    }

    #[test]
    fn tail_keeps_the_last_bytes(sizes in sizes(), keep in 0..20_000usize) {
        let (content, chunks) = captured(Capture::tail(keep), &sizes);
        let all = joined(&chunks);
        let kept = all.len().min(keep);
        prop_assert_eq!(content.to_bytes().unwrap(), &all[all.len() - kept..]);
        prop_assert_eq!(content.is_truncated(), kept < all.len());
    }

    #[test]
    fn head_tail_keeps_both_ends(sizes in sizes(), head in 0..9_000usize, tail in 0..9_000usize) {
        let (content, chunks) = captured(Capture::head_tail(head, tail), &sizes);
        let all = joined(&chunks);
        let first = all.len().min(head);
        let last = (all.len() - first).min(tail);
        let mut wanted = all[..first].to_vec();
        wanted.extend_from_slice(&all[all.len() - last..]);
        prop_assert_eq!(content.to_bytes().unwrap(), wanted);
        prop_assert_eq!(content.is_truncated(), first + last < all.len());
    }

    #[test]
    fn a_refused_chunk_is_the_last(sizes in sizes(), limit in 0..20_000usize) {
        let accumulator = ContentAccumulator::new(limit);
        let mut model = Vec::new();
        let mut refused = false;
        for (n, len) in sizes.iter().enumerate() {
            let chunk = chunk(n, *len);
            let result = accumulator.append(chunk.clone());
            if *len == 0 {
                prop_assert!(result.is_ok());
                continue;
            }
            refused = refused || model.len() + len > limit;
            prop_assert_eq!(result.is_err(), refused);
            if !refused {
                model.extend_from_slice(&chunk);
            }
        }
        prop_assert_eq!(accumulator.snapshot().to_bytes().unwrap(), model);
        prop_assert_eq!(accumulator.snapshot().is_truncated(), refused);
    }
}

#[test]
fn a_small_chunk_does_not_pin_its_buffer() {
    let accumulator = ContentAccumulator::new(1 << 20);
    let buffer = Bytes::from(vec![7; 64 * 1024]);
    for start in (0..buffer.len()).step_by(100) {
        accumulator.append(buffer.slice(start..buffer.len().min(start + 100))).unwrap();
    }
    assert!(buffer.is_unique(), "no chunk holds a reference to the buffer");
    assert_eq!(accumulator.snapshot().to_bytes().unwrap(), vec![7; 64 * 1024]);
}

#[test]
fn a_large_chunk_is_not_copied() {
    let accumulator = ContentAccumulator::new(1 << 20);
    let large = Bytes::from(vec![7; 64 * 1024]);
    accumulator.append(large.clone()).unwrap();
    assert_eq!(accumulator.snapshot().to_bytes().unwrap().as_ptr(), large.as_ptr());
}

#[test]
fn a_tail_holds_at_most_twice_its_length() {
    for size in [100, 2048, 10_000, 50_000] {
        let keep = 50_000;
        let sizes = vec![size; 200];
        let log = buffer(Capture::tail(keep), &Arc::default());
        let mut writer = log.writer();
        let chunks: Vec<_> = sizes.iter().map(|len| Bytes::from(vec![1; *len])).collect();
        for chunk in &chunks {
            log.append(&mut writer, chunk, 0);
        }
        let held = chunks.iter().filter(|chunk| !chunk.is_unique()).map(Bytes::len).sum::<usize>();
        assert!(held <= 2 * keep, "chunks of {size}: {held} bytes are held");
    }
}

#[test]
fn racing_writers_keep_the_limit_and_every_chunk() {
    const WRITERS: usize = 8;
    for limit in [1_000, 100_000, 10_000_000] {
        let accumulator = Arc::new(ContentAccumulator::new(limit));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let accumulator = Arc::clone(&accumulator);
                thread::spawn(move || {
                    let mut accepted = 0;
                    for n in 0..5_000u32 {
                        let mut bytes = vec![writer as u8; 5 + (n as usize * 7) % 90];
                        bytes[1..5].copy_from_slice(&n.to_le_bytes());
                        accepted += u32::from(accumulator.append(bytes.into()).is_ok());
                    }
                    accepted
                })
            })
            .collect();
        let accepted: Vec<u32> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();

        let content = accumulator.snapshot();
        assert!(content.len() <= limit);
        assert_eq!(content.len(), content.to_bytes().unwrap().len());
        let mut next = [0; WRITERS];
        for chunk in chunks_of(&content) {
            let writer = chunk[0] as usize;
            let n = u32::from_le_bytes(chunk[1..5].try_into().unwrap());
            assert_eq!(n, next[writer], "chunks of one writer keep their order, without a hole");
            assert!(chunk[5..].iter().all(|byte| *byte == writer as u8), "a torn chunk");
            next[writer] += 1;
        }
        assert_eq!(next.to_vec(), accepted);
    }
}

#[test]
fn every_snapshot_is_a_prefix_of_the_next() {
    let accumulator = Arc::new(ContentAccumulator::new(usize::MAX));
    let done = Arc::new(AtomicBool::new(false));
    let writer = {
        let (accumulator, done) = (Arc::clone(&accumulator), Arc::clone(&done));
        thread::spawn(move || {
            for n in 0..20_000 {
                accumulator.append(chunk(n, 1 + n % 300)).unwrap();
            }
            done.store(true, Ordering::Release);
        })
    };
    let mut earlier = Bytes::new();
    while !done.load(Ordering::Acquire) {
        let content = accumulator.snapshot().to_bytes().unwrap();
        assert!(content.starts_with(&earlier));
        earlier = content;
    }
    writer.join().unwrap();
    assert!(accumulator.snapshot().to_bytes().unwrap().starts_with(&earlier));
    assert_eq!(accumulator.snapshot().chunks().count(), 20_000);
}

#[test]
fn a_snapshot_of_a_tail_has_no_hole() {
    let log = Arc::new(buffer(Capture::tail(1_000), &Arc::default()));
    let done = Arc::new(AtomicBool::new(false));
    let pulled = Arc::new(AtomicU64::new(0));
    let task = {
        let (log, done, pulled) = (Arc::clone(&log), Arc::clone(&done), Arc::clone(&pulled));
        thread::spawn(move || {
            let mut writer = log.writer();
            for n in 0..200_000u32 {
                log.append(&mut writer, &Bytes::copy_from_slice(&n.to_le_bytes()), 0);
                pulled.fetch_add(4, Ordering::Release);
            }
            done.store(true, Ordering::Release);
        })
    };
    while !done.load(Ordering::Acquire) {
        let content = log.snapshot(pulled.load(Ordering::Acquire)).to_bytes().unwrap();
        assert!(content.len() <= 1_000);
        let (numbers, _) = content.as_chunks::<4>();
        let numbers: Vec<u32> = numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "a hole: {numbers:?}");
    }
    task.join().unwrap();
}

#[test]
fn a_reused_block_shows_nothing_of_its_former_stream() {
    let pool = Arc::default();
    let secret = Bytes::from(vec![0xff; 1_000]);
    for round in 0..50 {
        let log = buffer(Capture::all(1 << 20), &pool);
        let mut writer = log.writer();
        for _ in 0..round {
            log.append(&mut writer, &secret, 0);
        }
    }
    for chunks in 0..40 {
        let log = buffer(Capture::all(1 << 20), &pool);
        let mut writer = log.writer();
        for n in 0..chunks {
            log.append(&mut writer, &chunk(n, 777), 0);
            assert_eq!(log.snapshot((n as u64 + 1) * 777).chunks().count(), n + 1);
        }
        let content = log.snapshot(chunks as u64 * 777).to_bytes().unwrap();
        assert_eq!(content, joined(&(0..chunks).map(|n| chunk(n, 777)).collect::<Vec<_>>()));
    }
}

#[test]
fn a_long_chain_is_freed_without_recursion() {
    // With a stack this small, a drop that recurses through the blocks overflows.
    let test = || {
        let accumulator = ContentAccumulator::new(usize::MAX);
        for _ in 0..5_000 {
            // References of 1 KiB.
            for _ in 0..32 {
                accumulator.append(Bytes::from_static(&[0; 1024])).unwrap();
            }
        }
        let content = accumulator.snapshot();
        drop(accumulator);
        assert_eq!(content.len(), 5_000 * 32 * 1024);
    };
    thread::Builder::new().stack_size(64 * 1024).spawn(test).unwrap().join().unwrap();
}

#[test]
fn content_and_its_readers_are_send() {
    fn assert_shared<T: Send + Sync + Unpin>() {}
    fn assert_send<T: Send>(_: T) {}
    assert_shared::<Content>();
    assert_shared::<ContentAccumulator>();
    assert_shared::<ContentReader>();
    assert_shared::<ContentWriter>();
    assert_shared::<StreamBuffer>();
    assert_shared::<BufferWriter>();
    assert_shared::<BufferReader>();
    let content = Content::default();
    assert_send((content.chunks(), content.timed_chunks(), content.stream(), content.reader()));
}

/// What `capture` keeps of a stream of these bytes, by the first and the last that it keeps.
fn expected((head, tail): (usize, usize), stream: &[u8]) -> Vec<u8> {
    let first = stream.len().min(head);
    let last = (stream.len() - first).min(tail);
    [&stream[..first], &stream[stream.len() - last..]].concat()
}

#[test]
fn a_snapshot_ends_where_the_stream_was() {
    const ALL: usize = usize::MAX;
    for len in [1, 7, 100, 1_000, 1_024, 3_000] {
        for (head, tail) in [(ALL, 0), (4_000, 0), (0, 500), (0, 5_000), (700, 900), (0, 0)] {
            let capture = match (head, tail) {
                (0, 0) => Capture::none(),
                (0, tail) => Capture::tail(tail),
                (head, 0) => Capture::head(head),
                (head, tail) => Capture::head_tail(head, tail),
            };
            let log = buffer(capture, &Arc::default());
            let mut writer = log.writer();
            let mut stream = Vec::new();
            for n in 0..200 {
                let pulled = stream.len();
                log.append(&mut writer, &chunk(n, len), 0);
                let content = log.snapshot(pulled as u64);
                let wanted = expected((head, tail), &stream);
                assert_eq!(content.len(), wanted.len(), "{capture:?}, chunk {n} of {len} bytes");
                assert_eq!(content.to_bytes().unwrap(), wanted, "{capture:?}, chunk {n} of {len} bytes");
                assert_eq!(content.is_truncated(), wanted.len() < pulled);
                stream.extend_from_slice(&chunk(n, len));
            }
            // Also once nothing is appended any more.
            let pulled = stream.len() - len;
            log.complete(pulled as u64);
            let content = log.snapshot(pulled as u64).to_bytes().unwrap();
            assert_eq!(content, expected((head, tail), &stream[..pulled]), "{capture:?}, at the end");
        }
    }
}

/// A stream of which all is kept, and moved by `worker`.
#[cfg(any(feature = "spill", feature = "compression"))]
fn moved(worker: Arc<SpillWorker>) -> StreamBuffer {
    let config = BufferConfig::in_memory(Capture::all(usize::MAX), Arc::default(), 64, false);
    StreamBuffer::new(&Arc::new(BufferConfig { spill: Some(worker), ..config }))
}

#[cfg(feature = "compression")]
#[test]
fn a_snapshot_of_moved_content_ends_where_the_stream_was() {
    let log = moved(SpillWorker::start(None, true, 1).unwrap());
    let mut writer = log.writer();
    let mut stream = Vec::new();
    for n in 0..2_000 {
        let pulled = stream.len();
        log.append(&mut writer, &chunk(n, 777), 0);
        if n % 100 == 0 {
            let content = log.snapshot(pulled as u64);
            assert_eq!(content.len(), pulled);
            assert!(content.to_bytes().unwrap() == stream, "chunk {n}");
        }
        stream.extend_from_slice(&chunk(n, 777));
    }
    let pulled = stream.len() - 777;
    log.complete(pulled as u64);
    assert!(log.snapshot(pulled as u64).to_bytes().unwrap() == stream[..pulled]);
}

#[cfg(all(feature = "spill", target_os = "linux"))]
#[tokio::test]
async fn a_file_that_cannot_be_read_is_an_error() {
    use std::fs::{self, OpenOptions};

    let directory = tempfile::tempdir().unwrap();
    let log = moved(SpillWorker::start(Some((1_000, directory.path().into())), false, 1).unwrap());
    let mut writer = log.writer();
    for n in 0..1_000 {
        log.append(&mut writer, &chunk(n, 777), 0);
    }
    log.complete(777_000);
    let content = log.snapshot(777_000);
    while !content.is_spilled() {
        thread::yield_now();
    }
    // The file has no name, but it can be reached as long as it is open.
    let file = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| fs::read_link(path).is_ok_and(|target| target.starts_with(directory.path())))
        .expect("the file is open");
    let file = OpenOptions::new().write(true).open(file).unwrap();
    // Each chunk has 16 bytes before it.
    while file.metadata().unwrap().len() < 1_000 * (777 + 16) {
        thread::yield_now();
    }
    file.set_len(1_000).unwrap();

    assert!(content.to_bytes().is_err());
    let chunks: Vec<_> = content.chunks().collect();
    let (last, before) = chunks.split_last().unwrap();
    assert!(last.is_err() && before.iter().all(Result::is_ok), "the error is the last item");
    assert!(content.timed_chunks().any(|chunk| chunk.is_err()));
    assert!(content.read(usize::MAX).await.is_err());
    assert!(content.stream().any(|chunk| std::future::ready(chunk.is_err())).await);
    #[cfg(feature = "serde")]
    assert!(serde_json::to_string(&content).is_err());
    assert_eq!((content.len(), content.is_truncated()), (777_000, false), "as it was captured");
}

/// One step of a stream that is read while it is written. Readers are named modulo how many there are.
#[derive(Clone, Debug)]
enum TestStep {
    Append(usize),
    /// A reader comes, and asks to be waited for or not.
    Come(bool),
    Go(usize),
    Read(usize, usize),
    /// A reader skips what is too far behind.
    Skip(usize, u64),
    Look,
}

/// A stream, written as its pipeline does, and beside it what it should be.
struct Stream {
    log: StreamBuffer,
    writer: BufferWriter,
    budget: MemoryBudget,
    head: usize,
    tail: usize,
    buffer_limit: u64,
    /// Memory is not short, so that all is as the model says.
    ample: bool,
    chunks: Vec<Bytes>,
    /// What is written, by its index, with the number of its chunk.
    written: BTreeMap<u64, (usize, Bytes)>,
    /// The index of the next.
    next: u64,
    room: usize,
    in_head: bool,
    is_idle: bool,
    followers: Vec<Follower>,
}

/// A reader and what it saw.
struct Follower {
    reader: BufferReader,
    is_waited: bool,
    start: u64,
    /// Where the stream stood when it came.
    came: u64,
    read: u64,
    missed: u64,
    /// The number of the chunk that it read last.
    last: Option<usize>,
}

fn captures() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![
        Just((usize::MAX, 0)),
        (0..20_000usize).prop_map(|head| (head, 0)),
        (1..20_000usize).prop_map(|tail| (0, tail)),
        (1..9_000usize, 1..9_000usize),
        Just((0, 0)),
    ]
}

fn steps() -> impl Strategy<Value = Vec<TestStep>> {
    let size = prop_oneof![0..20usize, 100..300usize, 1_000..1_050usize, Just(5_000)];
    let many = prop_oneof![Just(1usize), 0..20usize, Just(usize::MAX)];
    let step = prop_oneof![
        10 => size.prop_map(TestStep::Append),
        1 => any::<bool>().prop_map(TestStep::Come),
        1 => any::<usize>().prop_map(TestStep::Go),
        4 => (any::<usize>(), many).prop_map(|(reader, most)| TestStep::Read(reader, most)),
        1 => (any::<usize>(), 0..30u64).prop_map(|(reader, lag)| TestStep::Skip(reader, lag)),
        1 => Just(TestStep::Look),
    ];
    prop::collection::vec(step, 0..200)
}

// === impl Stream ===

impl Stream {
    fn new((head, tail): (usize, usize), buffer_limit: u64, memory: Option<usize>) -> Self {
        let capture = match (head, tail) {
            (0, 0) => Capture::none(),
            (0, tail) => Capture::tail(tail),
            (head, 0) => Capture::head(head),
            (head, tail) => Capture::head_tail(head, tail),
        };
        let budget = memory.map_or_else(MemoryBudget::unlimited, MemoryBudget::new);
        let log = tapped(capture, &Arc::new(Pool::new(budget.clone())), buffer_limit);
        Self {
            writer: log.writer(),
            log,
            budget,
            head,
            tail,
            buffer_limit,
            ample: memory.is_none(),
            chunks: Vec::new(),
            written: BTreeMap::new(),
            next: 0,
            room: head,
            in_head: head > 0,
            is_idle: head == 0 && tail == 0,
            followers: Vec::new(),
        }
    }

    fn run(&mut self, steps: &[TestStep]) {
        for step in steps {
            let named = |n: usize| n.checked_rem(self.followers.len());
            match *step {
                TestStep::Append(len) => self.append(len),
                TestStep::Come(is_waited) => self.come(is_waited),
                TestStep::Go(n) => {
                    if let Some(n) = named(n) {
                        self.followers.swap_remove(n);
                        self.log.set_watched(!self.followers.is_empty());
                    }
                }
                TestStep::Read(n, most) => {
                    if let Some(n) = named(n) {
                        self.read(n, most);
                    }
                }
                TestStep::Skip(n, lag) => {
                    if let Some(n) = named(n) {
                        self.skip(n, lag);
                    }
                }
                TestStep::Look => self.look(),
            }
        }
        self.log.complete(self.chunks.iter().map(|chunk| chunk.len() as u64).sum());
        for n in 0..self.followers.len() {
            self.read(n, usize::MAX);
            let Follower { reader, start, .. } = &self.followers[n];
            let end = if self.ample { self.next } else { self.writer.chunks() };
            // Of what went by unwatched it hears when something comes behind that.
            if !self.writer.is_idle() {
                assert_eq!(reader.index(), end.max(*start), "it is at the end");
            }
        }
        self.look();
        self.followers.clear();
        self.log.set_watched(false);
        self.look();
        assert!(self.budget.limit().is_none_or(|limit| self.budget.peak() <= limit));
    }

    /// As `Pipeline::record_chunk` does.
    fn append(&mut self, len: usize) {
        let n = self.chunks.len();
        let chunk = chunk(n, len);
        if chunk.is_empty() {
            return;
        }
        let watched = self.log.is_watched();
        assert_eq!(watched, !self.followers.is_empty());
        if watched {
            let waited = self.followers.iter().filter(|follower| follower.is_waited);
            self.log.set_needed(waited.map(|follower| follower.reader.index()).min().unwrap_or(u64::MAX));
        }
        if self.writer.keeps() {
            self.log.append(&mut self.writer, &chunk, n as u64);
        } else if watched {
            if self.writer.is_idle() {
                let bytes = self.chunks.iter().map(Bytes::len).sum::<usize>() as u64;
                self.log.resume(&mut self.writer, bytes, n as u64);
            }
            self.log.append(&mut self.writer, &chunk, n as u64);
        } else if !self.writer.is_idle() {
            self.log.pause(&mut self.writer);
        }
        self.chunks.push(chunk.clone());
        self.write(chunk, watched);
    }

    /// What the model says is written of a chunk.
    fn write(&mut self, chunk: Bytes, watched: bool) {
        let n = self.chunks.len() - 1;
        let mut rest = chunk;
        let mut put = |next: &mut u64, bytes: Bytes| {
            self.written.insert(*next, (n, bytes));
            *next += 1;
        };
        if self.in_head {
            let first = rest.split_to(self.room.min(rest.len()));
            self.room -= first.len();
            if !first.is_empty() {
                put(&mut self.next, first);
            }
            self.in_head = rest.is_empty();
        }
        if rest.is_empty() {
            return;
        }
        match (self.tail, watched) {
            (0, false) => self.is_idle = true,
            (0, true) => {
                if std::mem::take(&mut self.is_idle) {
                    self.next = self.next.max(n as u64);
                }
                put(&mut self.next, rest);
            }
            (_, true) => put(&mut self.next, rest),
            (tail, false) => put(&mut self.next, rest.split_off(rest.len().saturating_sub(tail))),
        }
    }

    /// As a tap does.
    fn come(&mut self, is_waited: bool) {
        self.log.set_watched(true);
        let reader = BufferReader::new(&self.log, self.chunks.len() as u64);
        let start = reader.index();
        let came = self.next.max(start);
        if self.ample {
            let kept = self.head.saturating_add(self.tail).min(self.bytes_from(0));
            assert!(self.head > 0 || self.bytes_from(start) >= kept, "what is kept can be read");
            assert!(self.head == 0 || self.next == 0 || start == 0, "from the start");
        }
        self.followers.push(Follower { reader, is_waited, start, came, read: 0, missed: 0, last: None });
    }

    fn read(&mut self, n: usize, most: usize) {
        for _ in 0..most {
            let follower = &mut self.followers[n];
            let before = follower.reader.index();
            let read = follower.reader.read(&self.log);
            let after = follower.reader.index();
            match read {
                ReadStep::Chunk(chunk) => {
                    follower.read += 1;
                    assert_eq!(after, before + 1);
                    let at = (chunk.arrival.as_nanos() >> 10) as usize;
                    assert_eq!(chunk.arrival, Duration::from_nanos((at as u64) << 10));
                    if self.ample {
                        assert_eq!(self.written.get(&before), Some(&(at, chunk.bytes)), "at {before}");
                    } else {
                        // Where memory is short, a head may end and a tail begin anywhere.
                        assert!(is_part(&self.chunks[at], &chunk.bytes), "{at}");
                        assert!(follower.last <= Some(at), "in order");
                    }
                    follower.last = Some(at);
                }
                ReadStep::Missed(missed) => {
                    follower.missed += missed;
                    assert_eq!((after, missed > 0), (before + missed, true));
                    self.may_miss(n, before..after);
                }
                ReadStep::Nothing => {
                    assert_eq!(after, before);
                    break;
                }
            }
        }
        self.adds_up(n);
    }

    fn skip(&mut self, n: usize, lag: u64) {
        let follower = &mut self.followers[n];
        let (before, was) = (follower.reader.index(), follower.reader.lag(&self.log));
        let skipped = follower.reader.skip_to(&self.log, lag);
        follower.missed += skipped;
        assert_eq!(follower.reader.index(), before + skipped);
        assert!(follower.reader.lag(&self.log) <= lag, "{was} behind, {skipped} skipped");
        assert!(skipped >= was.saturating_sub(lag));
        // Beyond what was asked it skips only what is gone.
        if skipped > was.saturating_sub(lag) {
            self.may_miss(n, before + was.saturating_sub(lag)..before + skipped);
        }
        self.adds_up(n);
    }

    fn adds_up(&self, n: usize) {
        let Follower { reader, start, read, missed, .. } = &self.followers[n];
        assert_eq!(start + read + missed, reader.index());
        if self.ample && !self.is_idle {
            assert_eq!(reader.lag(&self.log), self.next.saturating_sub(reader.index()));
        }
    }

    /// Only these may be gone: what nobody was to keep, and what is too far behind.
    fn may_miss(&self, n: usize, missed: Range<u64>) {
        let follower = &self.followers[n];
        // The last of them is the nearest.
        let Some((last, _)) = self.written.range(missed).next_back().filter(|_| self.ample) else {
            return;
        };
        let behind = self.bytes_from(last + 1);
        assert!(*last >= self.head_pieces(), "{last} is of the head");
        assert!(behind >= self.tail, "{last} is of the tail");
        if *last >= follower.came {
            assert!(!follower.is_waited, "{last} was to be waited for");
            assert!(self.next - last > self.buffer_limit || behind >= 1 << 20, "{last} is not far behind");
        }
    }

    /// Bytes that are written from the one at `index` on.
    fn bytes_from(&self, index: u64) -> usize {
        self.written.range(index..).map(|(_, (_, bytes))| bytes.len()).sum()
    }

    /// How many of what is written are the head's.
    fn head_pieces(&self) -> u64 {
        let mut left = self.head;
        let in_head = self.written.values().take_while(|(_, bytes)| {
            let fits = bytes.len() <= left;
            left = left.saturating_sub(bytes.len());
            fits
        });
        in_head.count() as u64
    }

    /// Content is the same, whoever reads.
    fn look(&self) {
        let all = self.chunks.concat();
        let content = self.log.snapshot(all.len() as u64);
        let kept = content.to_bytes().unwrap();
        assert_eq!(chunks_of(&content).iter().map(Bytes::len).sum::<usize>(), kept.len());
        if self.ample {
            let first = all.len().min(self.head);
            let last = (all.len() - first).min(self.tail);
            assert_eq!(kept, [&all[..first], &all[all.len() - last..]].concat());
        }
        assert_eq!(content.is_truncated(), kept.len() < all.len());
    }
}

/// Whether a limit may have made `part` of `chunk`.
fn is_part(chunk: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && chunk.windows(part.len()).any(|window| window == part)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 400 }))]

    #[test]
    fn readers_see_every_chunk_or_count_it_missed(
        capture in captures(),
        buffer_limit in 1..40u64,
        steps in steps(),
    ) {
        let mut stream = Stream::new(capture, buffer_limit, None);
        stream.run(&steps);
        let budget = stream.budget.clone();
        drop(stream);
        prop_assert_eq!(budget.used(), 0);
    }

    #[test]
    fn readers_count_what_short_memory_cost_them(
        capture in captures(),
        buffer_limit in 1..40u64,
        memory in 500..60_000usize,
        steps in steps(),
    ) {
        let mut stream = Stream::new(capture, buffer_limit, Some(memory));
        stream.run(&steps);
        let budget = stream.budget.clone();
        drop(stream);
        prop_assert_eq!(budget.used(), 0);
    }
}

/// A stream that several threads read while one writes it.
struct Raced {
    log: StreamBuffer,
    chunks: AtomicU64,
    bytes: AtomicU64,
    readers: Mutex<usize>,
    /// What the reader that is waited for has read.
    slowest: AtomicU64,
    done: AtomicBool,
}

const RACED: u64 = 3_000;

/// Chunk `n`: it says its number all over, and is now and then kept by reference.
fn numbered(n: u64) -> Bytes {
    let len = if n % 53 == 7 { 130 } else { 1 + n as usize * 7 % 20 };
    (n as u32).to_le_bytes().repeat(len * if n % 53 == 7 { 3 } else { 1 }).into()
}

// === impl Raced ===

impl Raced {
    fn write(&self) {
        let mut writer = self.log.writer();
        let mut bytes = 0;
        for n in 0..RACED {
            let chunk = numbered(n);
            let watched = self.log.is_watched();
            if watched {
                self.log.set_needed(self.slowest.load(Ordering::Acquire));
            }
            if writer.keeps() {
                self.log.append(&mut writer, &chunk, n);
            } else if watched {
                if writer.is_idle() {
                    self.log.resume(&mut writer, bytes, n);
                }
                self.log.append(&mut writer, &chunk, n);
            } else if !writer.is_idle() {
                self.log.pause(&mut writer);
            }
            bytes += chunk.len() as u64;
            self.chunks.store(n + 1, Ordering::Release);
            self.bytes.store(bytes, Ordering::Release);
            if n % 64 == 0 {
                thread::yield_now();
            }
        }
        self.log.complete(bytes);
        self.done.store(true, Ordering::Release);
    }

    fn count(&self, come: bool) {
        let mut readers = self.readers.lock().unwrap();
        *readers = if come { *readers + 1 } else { *readers - 1 };
        self.log.set_watched(*readers > 0);
    }

    /// Comes, reads at most `most` chunks, and goes. Returns where it then was, and how many it missed.
    fn follow(&self, most: u64, mut read_to: impl FnMut(u64)) -> (u64, u64) {
        self.count(true);
        let mut reader = BufferReader::new(&self.log, self.chunks.load(Ordering::Acquire));
        let (mut index, mut missed, mut read) = (reader.index(), 0, 0);
        while read < most {
            // Before the look for a chunk: the last one came before the end.
            let done = self.done.load(Ordering::Acquire);
            match reader.read(&self.log) {
                ReadStep::Chunk(chunk) => {
                    assert_eq!(chunk.bytes, numbered(index), "chunk {index}");
                    assert_eq!(chunk.arrival, Duration::from_nanos(index << 10));
                    index += 1;
                    read += 1;
                }
                ReadStep::Missed(chunks) => {
                    index += chunks;
                    missed += chunks;
                }
                ReadStep::Nothing if done => break,
                ReadStep::Nothing => thread::yield_now(),
            }
            assert_eq!(reader.index(), index);
            assert!(index <= RACED);
            read_to(index);
        }
        self.count(false);
        (index, missed)
    }
}

/// The last reader goes when the writer has seen it already, and another one comes before the next chunk.
#[test]
fn a_reader_right_after_the_last_sees_chunks() {
    let log = tapped(Capture::none(), &Arc::default(), 16);
    let mut writer = log.writer();
    log.set_watched(true);
    log.resume(&mut writer, 0, 0);
    log.set_watched(false);
    log.append(&mut writer, &chunk(0, 20), 0);
    log.set_watched(true);
    log.append(&mut writer, &chunk(1, 20), 0);
    let mut reader = BufferReader::new(&log, 1);
    let read = [(); 3].map(|()| match reader.read(&log) {
        ReadStep::Chunk(chunk) => chunk.bytes,
        ReadStep::Missed(_) | ReadStep::Nothing => Bytes::new(),
    });
    assert_eq!(read, [chunk(0, 20), chunk(1, 20), Bytes::new()]);
}

/// Readers come and go, one of them perhaps waited for, while the writer writes and trims.
#[test]
fn racing_readers_see_whole_chunks_in_order() {
    for capture in [Capture::none(), Capture::tail(2_000), Capture::all(1 << 20)] {
        for is_waited in [false, true] {
            let budget = MemoryBudget::new(usize::MAX);
            let pool = Arc::new(Pool::new(budget.clone()));
            let raced = Raced {
                log: tapped(capture, &pool, 16),
                chunks: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                readers: Mutex::default(),
                slowest: AtomicU64::new(if is_waited { 0 } else { u64::MAX }),
                done: AtomicBool::new(false),
            };
            let start = Barrier::new(if is_waited { 4 } else { 3 });
            thread::scope(|threads| {
                let raced = &raced;
                if is_waited {
                    // It comes before the writer begins.
                    let start = &start;
                    threads.spawn(move || {
                        let mut has_come = false;
                        raced.count(true);
                        start.wait();
                        let end = raced.follow(u64::MAX, |index| {
                            has_come = true;
                            raced.slowest.store(index, Ordering::Release);
                        });
                        raced.count(false);
                        assert_eq!((end, has_come), ((RACED, 0), true), "{capture:?}");
                    });
                }
                for most in [1, 70] {
                    let start = &start;
                    threads.spawn(move || {
                        start.wait();
                        let (mut rounds, mut far) = (0, 0);
                        while !raced.done.load(Ordering::Acquire) {
                            let (index, _) = raced.follow(most, |_| ());
                            far = far.max(index);
                            rounds += 1;
                            thread::yield_now();
                        }
                        let (index, missed) = raced.follow(u64::MAX, |_| ());
                        if capture != Capture::none() {
                            assert_eq!(index, RACED, "{capture:?}");
                        }
                        if capture == Capture::all(1 << 20) {
                            assert_eq!(missed, 0, "all is kept");
                        }
                        assert!(far <= RACED && rounds <= RACED * 100);
                    });
                }
                start.wait();
                threads.spawn(|| raced.write());
                while !raced.done.load(Ordering::Acquire) {
                    let content = raced.log.snapshot(raced.bytes.load(Ordering::Acquire));
                    // The first may be cut.
                    let kept: Vec<_> = chunks_of(&content).into_iter().skip(1).collect();
                    let first = kept.first().map_or(0, |chunk| number(chunk));
                    for (chunk, n) in kept.iter().zip(first..) {
                        assert_eq!(chunk, &numbered(n), "{capture:?}");
                    }
                    thread::yield_now();
                }
            });
            let all: u64 = (0..RACED).map(|n| numbered(n).len() as u64).sum();
            let content = raced.log.snapshot(all).to_bytes().unwrap();
            let wanted = (0..RACED).flat_map(numbered).collect::<Vec<_>>();
            match capture {
                _ if capture == Capture::none() => assert!(content.is_empty()),
                _ if capture == Capture::tail(2_000) => assert!(content == wanted[wanted.len() - 2_000..]),
                _ => assert!(content == wanted),
            }
            drop(raced);
            assert_eq!(budget.used(), 0, "{capture:?}");
        }
    }
}

fn number(chunk: &[u8]) -> u64 {
    u64::from(u32::from_le_bytes(chunk[..4].try_into().unwrap()))
}
