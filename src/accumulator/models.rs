//! Loom models of a block, named after the properties that they check.
//!
//! `RUSTFLAGS="--cfg accumulator_loom" cargo test --lib --target-dir target/loom models`

use std::sync::Arc;

use bytes::Bytes;
use loom::thread;

use super::block::{Appended, Block, Cursor, Entry};

const A: Bytes = Bytes::from_static(b"aaaaaaaaaaa");
const B: Bytes = Bytes::from_static(b"bbbbb");

/// The published chunks of a block.
fn chunks(block: &Block) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let mut cursor = Cursor::default();
    while let (Entry::Copied(chunk), next) = block.read(cursor) {
        chunks.push(chunk.to_vec());
        cursor = next;
    }
    chunks
}

fn assert_whole(chunks: &[Vec<u8>]) {
    assert!(chunks.iter().all(|chunk| *chunk == A || *chunk == B), "torn: {chunks:?}");
}

#[test]
fn no_chunk_is_torn_or_lost_when_two_append() {
    loom::model(|| {
        let block = Arc::new(Block::new(0, 64, u64::MAX, None));
        let other = Arc::clone(&block);
        let writer = thread::spawn(move || assert_eq!(other.append(&A, 100), Appended::Yes));
        assert_eq!(block.append(&B, 100), Appended::Yes);
        assert_whole(&chunks(&block));
        writer.join().unwrap();
        assert_eq!(chunks(&block).len(), 2);
        assert_eq!(block.end(), 16);
    });
}

#[test]
fn the_bound_holds_when_two_race_for_the_last_room() {
    loom::model(|| {
        let block = Arc::new(Block::new(0, 64, u64::MAX, None));
        let other = Arc::clone(&block);
        let writer = thread::spawn(move || other.append(&A, 12) == Appended::Yes);
        let here = block.append(&B, 12) == Appended::Yes;
        let there = writer.join().unwrap();
        assert!(here != there, "one of them has room, not both");
        assert!(block.end() <= 12);
    });
}

#[test]
fn a_closed_block_stays_as_it_is_when_two_close_it() {
    loom::model(|| {
        // Room for one of the chunks.
        let block = Arc::new(Block::new(0, 24, u64::MAX, None));
        let other = Arc::clone(&block);
        let writer = thread::spawn(move || other.append(&A, 100) == Appended::Yes);
        let here = block.append(&A, 100) == Appended::Yes;
        let there = writer.join().unwrap();
        assert!(here != there);
        let end = block.end();
        assert_eq!(block.append(&B, 100), Appended::Full);
        assert_eq!((end, block.end(), chunks(&block).len()), (11, 11, 1));
    });
}

#[test]
fn a_reader_of_a_lone_writer_sees_a_prefix_and_all_that_is_claimed() {
    loom::model(|| {
        let block = Arc::new(Block::new(0, 64, u64::MAX, None));
        let other = Arc::clone(&block);
        let writer = thread::spawn(move || {
            assert_eq!(other.append_alone(&A, 100), Appended::Yes);
            assert_eq!(other.append_alone(&B, 100), Appended::Yes);
        });
        let claimed = block.end();
        let seen = chunks(&block);
        assert_whole(&seen);
        let bytes: usize = seen.iter().map(Vec::len).sum();
        assert!(bytes as u64 >= claimed, "{bytes} of {claimed} claimed bytes");
        assert!(seen.first().is_none_or(|first| *first == A));
        writer.join().unwrap();
    });
}
