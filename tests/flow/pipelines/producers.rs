//! Pipelines that several producers push into.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use streaming_accumulator::BackpressureStrategy::{self, Adaptive, Block};
use streaming_accumulator::{Outcome, StreamPipeline};

use super::{by_producer, content, from, hooks, produce};
use crate::readers::rest;
use crate::support::{rounds, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_producers_each_keep_their_order() {
    const EACH: u32 = 1_500;
    for strategy in [BackpressureStrategy::default(), Block(Duration::from_secs(20))] {
        let hooks = hooks(|layer| layer);
        let builder = StreamPipeline::builder().buffer_limit(8).backpressure(strategy);
        let pipeline = hooks.pipeline(builder).await;
        let mut tap = pipeline.tap().lossless();
        let all = tokio::spawn(async move { (rest(&mut tap).await, tap.lagged(), tap.outcome().cloned()) });
        let group = pipeline.handle().consumer_group().lossless();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let mut member = group.clone();
                tokio::spawn(async move { rest(&mut member).await })
            })
            .collect();
        produce::<4>(&pipeline, EACH).await;
        assert!(pipeline.finish(Outcome::Completed));

        let kept = content(&pipeline);
        assert_eq!(by_producer(&kept), [EACH; 4]);
        let (seen, missed, outcome) = within("the tap", all).await.unwrap();
        assert!(seen == kept, "in the accumulator's order");
        assert_eq!((missed, outcome), (0, Some(Outcome::Completed)));

        let shares = within("the group", join_all(workers)).await;
        let shares: Vec<_> = shares.into_iter().map(Result::unwrap).collect();
        assert_eq!(group.lagged(), 0);
        let key = |chunk: &Bytes| (chunk[0], u32::from_le_bytes(chunk[1..5].try_into().unwrap()));
        for share in &shares {
            assert!(share.iter().map(key).is_sorted_by(|a, b| a.0 != b.0 || a.1 < b.1), "in order");
        }
        let mut together = shares.concat();
        together.sort_by_key(key);
        assert_eq!(by_producer(&together), [EACH; 4], "each chunk went to one of them");

        let (_, record) = hooks.record().await;
        assert_eq!(
            (record.metrics().chunks(), record.content().is_truncated()),
            (4 * u64::from(EACH), false)
        );
        assert_eq!(record.metrics().bytes(), kept.concat().len() as u64);
        assert!(record.content().to_bytes().unwrap() == kept.concat());
    }
}

/// However busy the others are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_before_a_finish_are_recorded() {
    for round in 0..rounds(50, 300) as u32 {
        let hooks = hooks(|layer| layer);
        let pipeline = hooks.pipeline(StreamPipeline::builder().buffer_limit(4).max_size(usize::MAX)).await;
        let others: Vec<_> = (1..3)
            .map(|producer| {
                let pipeline = pipeline.clone();
                tokio::spawn(async move {
                    let mut n = 0;
                    while pipeline.push(from(producer, n)).await.is_ok() {
                        n += 1;
                    }
                })
            })
            .collect();
        let mine = pipeline.clone();
        let mine = tokio::spawn(async move {
            for n in 0..round % 50 {
                mine.push(from(0, n)).await.unwrap();
            }
            assert!(mine.finish(Outcome::Completed));
        });
        within("the producer that finishes", mine).await.unwrap();
        within("the others", join_all(others)).await;
        let (_, record) = hooks.record().await;
        let kept: Vec<_> = record.content().chunks().map(Result::unwrap).collect();
        assert!(!record.content().is_truncated());
        assert_eq!(by_producer::<3>(&kept)[0], round % 50, "round {round}");
        // Others may go on for the moment in which it ends, but the record's numbers belong together.
        assert!(record.metrics().chunks() <= kept.len() as u64);
    }
}

/// A slow reader holds many producers on several threads, and none is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reader_forgets_no_waiting_producer() {
    for strategy in [
        Block(Duration::from_secs(20)),
        Adaptive { initial_delay: Duration::ZERO, max_delay: Duration::ZERO, multiplier: 1.0 },
    ] {
        let pipeline = StreamPipeline::builder().buffer_limit(2).backpressure(strategy).build();
        let mut tap = pipeline.tap().lossless();
        let (done, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (farthest, is_done) = (Arc::clone(&most), Arc::clone(&done));
        let read = tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(chunk) = tap.next().await {
                farthest.fetch_max(tap.lag(), SeqCst);
                seen.push(chunk);
                if !is_done.load(SeqCst) {
                    tokio::task::yield_now().await;
                }
            }
            (seen, tap.lagged())
        });
        produce::<8>(&pipeline, 300).await;
        done.store(true, SeqCst);
        assert!(pipeline.finish(Outcome::Completed));
        let (seen, missed) = within("the reader", read).await.unwrap();
        assert_eq!((by_producer(&seen), missed), ([300; 8], 0));
        // Two, and a chunk more for each producer that looked at the same moment.
        assert!(most.load(SeqCst) <= 2 + 8, "{most:?}");
    }
}
