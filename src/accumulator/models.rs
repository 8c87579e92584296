//! Loom models of a block, named after the properties that they check.
//!
//! `RUSTFLAGS="--cfg accumulator_loom" cargo test --lib --target-dir target/loom models`

use std::sync::Arc;

use bytes::Bytes;
use loom::thread;

use super::block::{Block, Cursor, Entry, Origin, Pool};
use super::budget::Mark;
use super::layout::Claim;
use super::link::Link;
use super::log::{Log, LogWriter};
use super::shared_log::SharedLog;
use super::span::LogSpan;

const A: Bytes = Bytes::from_static(b"aaaaaaaaaaa");
const B: Bytes = Bytes::from_static(b"bbbbb");

/// A block for `bytes` bytes of memory and at most `room` bytes of content.
fn block(bytes: usize, room: u64) -> Block {
    let mut block = Block::new(bytes);
    block.place(Origin { room, ..Origin::default() }, None);
    block
}

/// Appends to a block as one of many.
fn append(block: &Block, chunk: Bytes) -> bool {
    block.claim_shared(chunk.len()).is_some_and(|claim| {
        block.fill(claim, chunk, 0);
        true
    })
}

/// The published chunks of a block.
fn chunks(block: &Block) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let mut cursor = Cursor::default();
    while let (Entry::Chunk(chunk), next) = block.read(cursor) {
        chunks.push(chunk.bytes().to_vec());
        cursor = next;
    }
    chunks
}

fn assert_whole(chunks: &[Vec<u8>]) {
    assert!(chunks.iter().all(|chunk| *chunk == A || *chunk == B), "torn: {chunks:?}");
}

#[test]
fn concurrent_appends_tear_and_lose_nothing() {
    loom::model(|| {
        let block = Arc::new(block(64, 100));
        let other = Arc::clone(&block);
        let writer = thread::spawn(move || assert!(append(&other, A)));
        assert!(append(&block, B));
        assert_whole(&chunks(&block));
        writer.join().unwrap();
        assert_eq!(chunks(&block).len(), 2);
        assert_eq!(block.end(), (16, 2));
    });
}

#[test]
fn racing_appends_keep_the_limit() {
    loom::model(|| {
        let block = Arc::new(block(64, 12));
        let other = Arc::clone(&block);
        let writer = thread::spawn(move || append(&other, A));
        let here = append(&block, B);
        let there = writer.join().unwrap();
        assert!(here != there, "one of them has room, not both");
        assert!(block.end().0 <= 12);
    });
}

#[test]
fn a_closed_block_never_changes() {
    loom::model(|| {
        let block = Arc::new(block(64, 100));
        let other = Arc::clone(&block);
        let writer = thread::spawn(move || append(&other, A));
        block.close();
        let end = block.end();
        let appended = writer.join().unwrap();
        assert_eq!((end, block.end()), if appended { ((11, 1), (11, 1)) } else { ((0, 0), (0, 0)) });
        assert!(!append(&block, B));
        assert_eq!(chunks(&block).len() as u64, end.1);
    });
}

#[test]
fn a_lone_writers_reader_sees_all_that_is_claimed() {
    loom::model(|| {
        let block = Arc::new(block(64, 100));
        let other = Arc::clone(&block);
        let writer = thread::spawn(move || {
            let claim = other.append_alone(Claim::default(), &A, 0).unwrap();
            other.append_alone(claim, &B, 0).unwrap();
        });
        let claimed = block.end().0;
        let seen = chunks(&block);
        assert_whole(&seen);
        let bytes: usize = seen.iter().map(Vec::len).sum();
        assert!(bytes as u64 >= claimed, "{bytes} of {claimed} claimed bytes");
        assert!(seen.first().is_none_or(|first| *first == A));
        writer.join().unwrap();
    });
}

#[test]
fn a_link_is_set_once() {
    loom::model(|| {
        let link = Arc::new(Link::new());
        let other = Arc::clone(&link);
        let setter = thread::spawn(move || other.set(Arc::new(block(16, 1))).is_ok());
        let here = link.set(Arc::new(block(16, 2))).is_ok();
        let there = setter.join().unwrap();
        assert!(here != there);
        // Only the one that was set here has room for two bytes.
        assert_eq!(append(link.get().unwrap(), B.slice(..2)), here);
        drop(Arc::into_inner(link).and_then(|mut link| link.take()));
    });
}

#[test]
fn racing_growth_loses_and_doubles_nothing() {
    loom::model(|| {
        // Under loom a block has room for two of the chunks.
        let log = Arc::new(SharedLog::new(100, &Arc::new(Pool::with(None, true))));
        assert!(log.append(A, 0) && log.append(A, 0));
        let other = Arc::clone(&log);
        let writer = thread::spawn(move || assert!(other.append(B, 0)));
        assert!(log.append(B, 0));
        writer.join().unwrap();
        assert_eq!(log.len(), 32);
        let chunks = log.published().unwrap().into_chunks().map(|chunk| chunk.bytes);
        assert_eq!(chunks.collect::<Vec<_>>(), [A, A, B, B]);
    });
}

#[test]
fn a_snapshot_across_blocks_is_a_prefix() {
    loom::model(|| {
        let log = Arc::new(Log::limited(100));
        let other = Arc::clone(&log);
        let writer = thread::spawn(move || {
            let (pool, mut writer) = (Arc::default(), LogWriter::default());
            for chunk in [A, A, B] {
                writer.append_to(&other, &pool, Mark::Full, &chunk, 0).unwrap();
            }
        });
        let span = log.span(u64::MAX, u64::MAX);
        let len = span.as_ref().map_or(0, LogSpan::len);
        let seen: Vec<_> = span.into_iter().flat_map(LogSpan::into_chunks).map(|chunk| chunk.bytes).collect();
        assert!([A, A, B].starts_with(&seen), "{seen:?}");
        assert_eq!(len, seen.iter().map(Bytes::len).sum::<usize>() as u64);
        writer.join().unwrap();
    });
}
