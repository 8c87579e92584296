//! Tests of the accumulator against a plain model, and of races by their properties.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Capture, Capturing, Content, ContentAccumulator, Keeping, Pool};

/// Chunk `n` of a stream, recognisable by its bytes.
fn chunk(n: usize, len: usize) -> Bytes {
    let mut bytes = vec![n as u8; len];
    for (i, byte) in bytes.iter_mut().take(64).enumerate() {
        *byte ^= i as u8;
    }
    bytes.into()
}

fn capturing(capture: Capture, pool: &Arc<Pool>) -> Capturing {
    let pool = Arc::clone(pool);
    Capturing::new(&Arc::new(Keeping {
        capture,
        pool,
        buffer_limit: 64,
        archivist: None,
        drops_oldest: false,
    }))
}

fn joined(chunks: &[Bytes]) -> Vec<u8> {
    chunks.concat()
}

/// Runs `capture` over chunks of the given sizes.
fn captured(capture: Capture, sizes: &[usize]) -> (Content, Vec<Bytes>) {
    let chunks: Vec<_> = sizes.iter().enumerate().map(|(n, len)| chunk(n, *len)).collect();
    let log = capturing(capture, &Arc::default());
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
        prop_assert_eq!(content.chunks().collect::<Vec<_>>(), whole);
        prop_assert!(!content.is_truncated());
    }

    #[test]
    fn head_keeps_the_first_bytes(sizes in sizes(), limit in 0..20_000usize) {
        let (content, chunks) = captured(Capture::head(limit), &sizes);
        let all = joined(&chunks);
        let kept = all.len().min(limit);
        prop_assert_eq!(content.to_bytes(), &all[..kept]);
        prop_assert_eq!(content.is_truncated(), kept < all.len());
        prop_assert_eq!(content.len(), kept);
    }

    #[test]
    fn tail_keeps_the_last_bytes(sizes in sizes(), keep in 0..20_000usize) {
        let (content, chunks) = captured(Capture::tail(keep), &sizes);
        let all = joined(&chunks);
        let kept = all.len().min(keep);
        prop_assert_eq!(content.to_bytes(), &all[all.len() - kept..]);
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
        prop_assert_eq!(content.to_bytes(), wanted);
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
        prop_assert_eq!(accumulator.snapshot().to_bytes(), model);
        prop_assert_eq!(accumulator.snapshot().is_truncated(), refused);
    }
}

#[test]
fn a_small_chunk_does_not_pin_the_buffer_it_was_cut_from() {
    let accumulator = ContentAccumulator::new(1 << 20);
    let buffer = Bytes::from(vec![7; 64 * 1024]);
    for start in (0..buffer.len()).step_by(100) {
        accumulator.append(buffer.slice(start..buffer.len().min(start + 100))).unwrap();
    }
    assert!(buffer.is_unique(), "no chunk holds a reference to the buffer");
    assert_eq!(accumulator.snapshot().to_bytes(), vec![7; 64 * 1024]);
}

#[test]
fn a_large_chunk_is_not_copied() {
    let accumulator = ContentAccumulator::new(1 << 20);
    let large = Bytes::from(vec![7; 64 * 1024]);
    accumulator.append(large.clone()).unwrap();
    assert_eq!(accumulator.snapshot().to_bytes().as_ptr(), large.as_ptr());
}

#[test]
fn a_tail_holds_at_most_twice_its_length() {
    for size in [100, 2048, 10_000, 50_000] {
        let keep = 50_000;
        let sizes = vec![size; 200];
        let log = capturing(Capture::tail(keep), &Arc::default());
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
fn the_limit_holds_however_many_writers_race_and_no_accepted_chunk_is_lost() {
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
        assert_eq!(content.len(), content.to_bytes().len());
        let mut next = [0; WRITERS];
        for chunk in content.chunks() {
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
        let content = accumulator.snapshot().to_bytes();
        assert!(content.starts_with(&earlier));
        earlier = content;
    }
    writer.join().unwrap();
    assert!(accumulator.snapshot().to_bytes().starts_with(&earlier));
    assert_eq!(accumulator.snapshot().chunks().count(), 20_000);
}

#[test]
fn a_snapshot_of_a_trimmed_log_is_a_run_of_the_stream() {
    let log = Arc::new(capturing(Capture::tail(1_000), &Arc::default()));
    let done = Arc::new(AtomicBool::new(false));
    let task = {
        let (log, done) = (Arc::clone(&log), Arc::clone(&done));
        thread::spawn(move || {
            let mut writer = log.writer();
            for n in 0..200_000u32 {
                log.append(&mut writer, &Bytes::copy_from_slice(&n.to_le_bytes()), 0);
            }
            done.store(true, Ordering::Release);
        })
    };
    while !done.load(Ordering::Acquire) {
        let content = log.snapshot(0).to_bytes();
        assert!(content.len() <= 1_000);
        let (numbers, _) = content.as_chunks::<4>();
        let numbers: Vec<u32> = numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "a hole: {numbers:?}");
    }
    task.join().unwrap();
}

#[test]
fn a_block_from_the_pool_shows_nothing_of_its_former_stream() {
    let pool = Arc::default();
    let secret = Bytes::from(vec![0xff; 1_000]);
    for round in 0..50 {
        let log = capturing(Capture::all(1 << 20), &pool);
        let mut writer = log.writer();
        for _ in 0..round {
            log.append(&mut writer, &secret, 0);
        }
    }
    for chunks in 0..40 {
        let log = capturing(Capture::all(1 << 20), &pool);
        let mut writer = log.writer();
        for n in 0..chunks {
            log.append(&mut writer, &chunk(n, 777), 0);
            assert_eq!(log.snapshot(0).chunks().count(), n + 1);
        }
        let content = log.snapshot(chunks as u64 * 777).to_bytes();
        assert_eq!(content, joined(&(0..chunks).map(|n| chunk(n, 777)).collect::<Vec<_>>()));
    }
}

#[test]
fn a_chain_of_many_blocks_is_freed_without_recursion() {
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
