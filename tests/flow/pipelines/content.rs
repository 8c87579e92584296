//! What pipelines keep, and the memory that it takes.

use bytes::Bytes;
use streaming_accumulator::{MemoryBudget, Outcome, StreamPipeline};

use super::{content, hooks, push_all};
use crate::readers::{at_hand, chunk, numbers, rest};

#[tokio::test(start_paused = true)]
async fn content_beyond_the_limit_is_only_counted() {
    for max_size in [0, 1, 9, 10, 95, 100, 1_000] {
        let hooks = hooks(|layer| layer);
        let pipeline = hooks.pipeline(StreamPipeline::builder().max_size(max_size)).await;
        let (mut early, mut waited) = (pipeline.tap(), pipeline.tap().lossless());
        let sent: Vec<_> = (0..60).map(|n| chunk(n, 10)).collect();
        push_all(&pipeline, &sent[..30]).await;
        let mut late = pipeline.tap();
        let first = at_hand(&mut late);
        assert_eq!(first.last(), Some(&sent[29]), "{max_size}: {first:?}");
        push_all(&pipeline, &sent[30..]).await;
        pipeline.finish(Outcome::Completed);
        // A chunk on which the capture's limit falls comes in two parts.
        assert_eq!(rest(&mut early).await.concat(), sent.concat(), "{max_size}");
        assert_eq!(rest(&mut waited).await.concat(), sent.concat(), "{max_size}");
        assert_eq!((early.lagged(), waited.lagged()), (0, 0), "{max_size}");
        assert_eq!(rest(&mut late).await, sent[30..], "{max_size}");

        let kept = max_size.min(600);
        let snapshot = pipeline.snapshot();
        assert_eq!(snapshot.to_bytes().unwrap(), sent.concat()[..kept], "{max_size}");
        assert_eq!(snapshot.is_truncated(), kept < 600);
        let (_, record) = hooks.record().await;
        assert_eq!(record.content().to_bytes().unwrap(), sent.concat()[..kept]);
        assert_eq!(record.content().is_truncated(), kept < 600, "{max_size}");
        assert_eq!((record.metrics().chunks(), record.metrics().bytes()), (60, 600));
        assert_eq!(record.outcome(), &Outcome::Completed);
    }
}

#[tokio::test(start_paused = true)]
async fn taps_beyond_the_limit_read_live_chunks() {
    let pipeline = StreamPipeline::builder().max_size(100).build();
    let head = chunks_of_ten(0..10);
    push_all(&pipeline, &chunks_of_ten(0..20)).await;
    for round in [20, 40, 60] {
        push_all(&pipeline, &chunks_of_ten(round..round + 10)).await;
        let mut tap = pipeline.tap();
        push_all(&pipeline, &chunks_of_ten(round + 10..round + 20)).await;
        let seen = numbers(&at_hand(&mut tap));
        let wanted: Vec<_> = (0..10).chain(round + 10..round + 20).collect();
        assert_eq!(seen, wanted, "what is kept, then what comes");
        assert_eq!(tap.lagged(), round);
    }
    assert_eq!(content(&pipeline), head);
}

fn chunks_of_ten(numbers: std::ops::Range<u64>) -> Vec<Bytes> {
    numbers.map(|n| chunk(n, 10)).collect()
}

#[tokio::test(start_paused = true)]
async fn memory_is_charged_and_wholly_given_back() {
    const LIMIT: u64 = 1 << 20;
    for (len, own) in [(1_000, false), (5_000, false), (1_000, true)] {
        let (budget, layers) = (MemoryBudget::new(LIMIT as usize), MemoryBudget::new(LIMIT as usize));
        let hooks = hooks(|layer| layer.memory_budget(if own { &layers } else { &budget }));
        let mut builder = StreamPipeline::builder().max_size(1 << 30).buffer_limit(8);
        if own {
            builder = builder.memory_budget(&budget);
        }
        let pipeline = hooks.pipeline(builder).await;
        let mut tap = pipeline.tap();
        let sent: Vec<_> = (0..2_000_000 / len as u64).map(|n| chunk(n, len)).collect();
        push_all(&pipeline, &sent[..100]).await;
        assert!(budget.used() >= 100 * len as u64);
        let mut seen = at_hand(&mut tap);
        for chunk in &sent[100..] {
            push_all(&pipeline, std::slice::from_ref(chunk)).await;
            seen.extend(at_hand(&mut tap));
        }
        assert!(budget.peak() <= LIMIT, "{budget:?}");
        assert!(pipeline.finish(Outcome::Completed));
        seen.extend(rest(&mut tap).await);
        assert!(seen == sent, "a tap that keeps up misses nothing");
        assert_eq!(layers.peak(), 0);

        let (hook, record) = hooks.record().await;
        let (kept, bytes) = (
            record.content().chunks().map(Result::unwrap).collect::<Vec<_>>(),
            record.content().len() as u64,
        );
        assert_eq!(hook, "complete");
        assert!(record.content().is_truncated());
        let head = kept.iter().zip(&sent).take_while(|(kept, sent)| kept == sent).count();
        let tail = kept[head..].concat();
        assert!(tail.len() <= 16 * 1024, "what came when memory was short: {}", tail.len());
        assert!(sent.concat().ends_with(&tail), "a prefix, and a short tail");
        assert!((LIMIT / 2..=LIMIT / 10 * 9).contains(&bytes), "{bytes} is up to nine tenths");
        assert_eq!(record.metrics().chunks(), sent.len() as u64);
        drop((pipeline, tap));
        assert!((bytes..=LIMIT / 10 * 9).contains(&budget.used()), "the record holds content: {budget:?}");
        drop(record);
        tokio::task::yield_now().await;
        assert_eq!(budget.used(), 0, "{budget:?}");
    }
}
