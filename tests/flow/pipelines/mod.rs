//! Pipelines: streams that are not HTTP bodies, from their producers to their one record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use http::{Method, Uri, Version};
use streaming_accumulator::BackpressureStrategy::{self, Adaptive, Block, DropOldest, Reject};
use streaming_accumulator::{
    Builder, EndedBy, Evidence, MemoryBudget, Outcome, Phase, StopReason, StreamError, StreamPipeline,
    StreamPipelineBuilder, StreamRecord,
};
use tokio::time::{Instant, advance};
use tokio_test::task;
use tokio_util::sync::CancellationToken;

use crate::pressure::{ADAPTIVE, ALL, lag_and_limit, pressed_pipeline as pressed};
use crate::readers::{Live, MS, WAITED, at_hand, chunk, chunks, numbers, rest, take};
use crate::support::{Recorder, until, within};

/// Strategies that hold a producer, for as long as a test takes.
const HOLDING: [BackpressureStrategy; 2] = [ADAPTIVE, Block(Duration::from_secs(3600))];

type Context = &'static str;
/// A layer whose hooks keep every record, with the name of the hook that got it.
type Hooks = Recorder<Context>;

fn hooks(configure: impl FnOnce(Builder<Context>) -> Builder<Context>) -> Hooks {
    Recorder::routed(configure)
}

// === impl Hooks ===

impl Hooks {
    async fn pipeline(&self, builder: StreamPipelineBuilder) -> StreamPipeline {
        within("a slot", builder.open(&self.handle(), "acme")).await.unwrap()
    }

    /// The one record and the name of the one hook that got it, with the books closed.
    async fn record(&self) -> (Context, Arc<StreamRecord<Context>>) {
        self.only().await;
        let audit = self.audit();
        assert_eq!((audit.rejected(), audit.abandoned()), (0, 0), "{audit:?}");
        assert!(self.handle().streams().is_empty());
        self.records().take().remove(0)
    }
}

async fn push_all(pipeline: &StreamPipeline, chunks: &[Bytes]) {
    for chunk in chunks {
        within("a push", pipeline.push(chunk.clone())).await.unwrap();
    }
}

/// How long one push takes.
async fn timed(pipeline: &StreamPipeline) -> Duration {
    let start = Instant::now();
    push_all(pipeline, &[chunk(0, 10)]).await;
    start.elapsed()
}

fn content(pipeline: &StreamPipeline) -> Vec<Bytes> {
    pipeline.accumulator().snapshot().chunks().collect()
}

fn is_stopped(result: Result<(), StreamError>) -> bool {
    matches!(result, Err(StreamError::Stopped { .. }))
}

/// Chunk `n` of a producer, large enough to be kept by reference now and then.
fn from(producer: u8, n: u32) -> Bytes {
    let mut bytes = vec![producer; if n % 97 == 5 { 1_500 } else { 5 + n as usize % 60 }];
    bytes[1..5].copy_from_slice(&n.to_le_bytes());
    bytes.into()
}

/// How many chunks of each producer there are, having seen that each producer's are whole and in order.
fn by_producer<const PRODUCERS: usize>(chunks: &[Bytes]) -> [u32; PRODUCERS] {
    let mut next = [0; PRODUCERS];
    for chunk in chunks {
        let producer = chunk[0];
        let n = &mut next[producer as usize];
        assert_eq!(chunk, &from(producer, *n), "producer {producer}");
        *n += 1;
    }
    next
}

/// Runs producers side by side, each with `each` chunks.
async fn produce<const PRODUCERS: usize>(pipeline: &StreamPipeline, each: u32) {
    let producers = (0..PRODUCERS as u8).map(|producer| {
        let pipeline = pipeline.clone();
        tokio::spawn(async move {
            for n in 0..each {
                pipeline.push(from(producer, n)).await.unwrap();
            }
        })
    });
    for done in within("producers", join_all(producers)).await {
        done.unwrap();
    }
}

// --- Records ---

#[tokio::test(start_paused = true)]
async fn record_goes_once_to_the_layers_hooks() {
    let hooks = hooks(|layer| layer);
    let uri: Uri = "queue://answers/7?tenant=3".parse().unwrap();
    let pipeline = hooks.pipeline(StreamPipeline::builder().request(Method::POST, uri.clone())).await;
    let sent = chunks(0..50);
    push_all(&pipeline, &sent).await;
    assert_eq!((hooks.audit().opened(), hooks.audit().in_flight()), (1, 1));
    assert!(hooks.records().len() == 0);
    let id = pipeline.id();
    assert_eq!((pipeline.handle().id(), pipeline.handle().uri()), (id, &uri));
    assert!(pipeline.finish(Outcome::Completed));
    assert_eq!(pipeline.outcome(), Some(&Outcome::Completed));

    let (hook, record) = hooks.record().await;
    assert_eq!((hook, record.context()), ("complete", Some(&"acme")));
    assert_eq!(record.id(), id);
    assert_eq!((record.outcome(), record.phase()), (&Outcome::Completed, Phase::Body));
    assert_eq!((record.evidence(), record.ended_by()), (Evidence::Finished, EndedBy::Upstream));
    assert_eq!((record.stop_reason(), record.attempt()), (None, 1));
    assert_eq!((record.method(), record.uri()), (&Method::POST, &uri));
    assert_eq!(record.version(), Version::default());
    assert!(record.status().is_none() && record.headers().is_none() && record.trailers().is_none());
    assert_eq!((record.grpc_status(), record.declared_length()), (None, None));
    assert_eq!(record.content().chunks().collect::<Vec<_>>(), sent);
    assert!(!record.content().is_truncated());
    let metrics = record.metrics();
    assert_eq!((metrics.chunks(), metrics.frames()), (50, 50));
    assert_eq!(metrics.bytes(), sent.concat().len() as u64);
    assert!(metrics.time_to_first_chunk().is_some());

    // What comes after the end changes nothing in the record, and makes no second one.
    assert!(is_stopped(pipeline.push(chunk(50, 10)).await));
    drop(pipeline);
    advance(3_600_000 * MS).await;
    assert_eq!((hooks.audit().settled(), hooks.records().len()), (1, 0));
    assert_eq!(record.metrics().chunks(), 50);
}

#[tokio::test(start_paused = true)]
async fn each_outcome_goes_to_its_own_hook() {
    let failed = Outcome::Failed(StreamError::Body("the provider broke off".into()));
    let outcomes =
        [(Outcome::Completed, "complete"), (Outcome::Cancelled, "cancel"), (failed.clone(), "failure")];
    for (outcome, name) in outcomes {
        let hooks = hooks(|layer| layer);
        let pipeline = hooks.pipeline(StreamPipeline::builder()).await;
        let (token, child) = (pipeline.handle().cancellation_token(), pipeline.child_token());
        push_all(&pipeline, &chunks(0..3)).await;
        assert!(pipeline.finish(outcome.clone()));
        let fired = outcome != Outcome::Completed;
        assert_eq!((token.is_cancelled(), child.is_cancelled()), (fired, fired), "{outcome:?}");
        let error = pipeline.push(chunk(3, 10)).await.unwrap_err();
        match outcome.error() {
            Some(cause) => assert_eq!(&error, cause, "the error that ended it"),
            None => assert!(matches!(error, StreamError::Stopped { .. })),
        }
        let (hook, record) = hooks.record().await;
        assert_eq!((hook, record.outcome()), (name, &outcome));
        assert_eq!((record.evidence(), record.ended_by()), (Evidence::Finished, EndedBy::Upstream));
        assert_eq!(record.metrics().chunks(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn empty_pipelines_and_chunks_make_a_record() {
    let hooks = hooks(|layer| layer);
    let pipeline = hooks.pipeline(StreamPipeline::builder()).await;
    let mut tap = pipeline.tap().waited();
    push_all(&pipeline, &[Bytes::new(), Bytes::new()]).await;
    assert!(pipeline.finish(Outcome::Completed));
    assert!(rest(&mut tap).await.is_empty());
    let (_, record) = hooks.record().await;
    assert_eq!((record.metrics().chunks(), record.metrics().bytes(), record.metrics().frames()), (0, 0, 2));
    assert!(record.content().is_empty() && !record.content().is_truncated());
    assert_eq!((record.method(), record.uri().path()), (&Method::GET, "/"));
}

#[tokio::test(start_paused = true)]
async fn a_handle_lists_a_pipeline_and_cancels_it() {
    let hooks = hooks(|layer| layer);
    let pipeline = hooks.pipeline(StreamPipeline::builder()).await;
    push_all(&pipeline, &chunks(0..3)).await;
    let listed = hooks.handle().streams();
    assert_eq!(listed.iter().map(|stream| stream.id()).collect::<Vec<_>>(), [pipeline.id()]);
    assert_eq!(listed[0].metrics().chunks(), 3);
    assert_eq!(listed[0].snapshot().to_bytes(), chunks(0..3).concat());
    let child = pipeline.child_token();
    let mut tap = pipeline.tap();

    assert!(hooks.handle().cancel(pipeline.id()));
    assert!(!hooks.handle().cancel(pipeline.id()), "it has ended");
    assert!(child.is_cancelled() && pipeline.child_token().is_cancelled());
    assert_eq!(
        pipeline.push(chunk(3, 10)).await,
        pipeline.push(chunk(3, 10)).await,
        "it goes on to say the same"
    );
    assert!(is_stopped(pipeline.push(chunk(3, 10)).await));
    assert!(!pipeline.finish(Outcome::Completed), "too late");
    assert_eq!(rest(&mut tap).await, chunks(0..3));
    assert_eq!(tap.outcome(), Some(&Outcome::Cancelled));

    let (hook, record) = hooks.record().await;
    assert_eq!((hook, record.outcome()), ("cancel", &Outcome::Cancelled));
    assert_eq!((record.evidence(), record.ended_by()), (Evidence::Stopped, EndedBy::Layer));
    assert_eq!((record.stop_reason(), record.phase()), (Some(&StopReason::Cancelled), Phase::Body));
    assert_eq!((record.metrics().chunks(), record.content().to_bytes()), (3, chunks(0..3).concat().into()));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_clone_cancels() {
    let hooks = hooks(|layer| layer);
    let pipeline = hooks.pipeline(StreamPipeline::builder()).await;
    let clone = pipeline.clone();
    assert_eq!(clone.id(), pipeline.id());
    let (mut tap, handle, token) = (pipeline.tap().waited(), pipeline.handle().clone(), clone.child_token());
    push_all(&pipeline, &chunks(0..2)).await;
    drop(pipeline);
    push_all(&clone, &chunks(2..4)).await;
    assert_eq!((hooks.audit().settled(), clone.outcome(), token.is_cancelled()), (0, None, false));
    drop(clone);
    assert!(token.is_cancelled());
    assert_eq!(rest(&mut tap).await, chunks(0..4));
    assert_eq!(tap.outcome(), Some(&Outcome::Cancelled));
    assert!(!handle.cancel());

    let (hook, record) = hooks.record().await;
    assert_eq!((hook, record.outcome()), ("cancel", &Outcome::Cancelled));
    assert_eq!((record.evidence(), record.ended_by()), (Evidence::Dropped, EndedBy::Downstream));
    assert_eq!((record.stop_reason(), record.metrics().chunks()), (None, 4));
    assert_eq!(record.content().to_bytes(), chunks(0..4).concat());
}

#[tokio::test(start_paused = true)]
async fn panicking_producer_fails_its_stream() {
    let hooks = hooks(|layer| layer);
    let pipeline = hooks.pipeline(StreamPipeline::builder()).await;
    let producer = tokio::spawn(async move {
        pipeline.push(chunk(0, 10)).await.unwrap();
        panic!("a panic of this test's own");
    });
    assert!(producer.await.unwrap_err().is_panic());
    let (hook, record) = hooks.record().await;
    assert_eq!((hook, record.evidence()), ("failure", Evidence::Panic));
    assert!(matches!(record.outcome(), Outcome::Failed(StreamError::Panicked(_))));
    assert_eq!(record.metrics().chunks(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_finishes_settle_once() {
    for _ in 0..50 {
        let hooks = hooks(|layer| layer);
        let pipeline = hooks.pipeline(StreamPipeline::builder()).await;
        push_all(&pipeline, &chunks(0..5)).await;
        let ends = (0..4).map(|n| {
            let pipeline = pipeline.clone();
            tokio::spawn(async move {
                let outcome = if n % 2 == 0 { Outcome::Completed } else { Outcome::Cancelled };
                pipeline.finish(outcome.clone()).then_some(outcome)
            })
        });
        let cancel = (hooks.handle(), pipeline.id());
        let cancelled = tokio::spawn(async move { cancel.0.cancel(cancel.1).then_some(Outcome::Cancelled) });
        let won = join_all(ends.chain([cancelled])).await;
        let won: Vec<_> = won.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(won.len(), 1, "{won:?}");
        assert_eq!(pipeline.outcome(), Some(&won[0]));
        drop(pipeline);
        assert_eq!(hooks.record().await.1.outcome(), &won[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_stops_a_pipeline_at_its_deadline() {
    let hooks = hooks(|layer| layer);
    let pipeline = hooks.pipeline(StreamPipeline::builder()).await;
    push_all(&pipeline, &chunks(0..3)).await;
    let child = pipeline.child_token();
    let handle = hooks.handle();
    let mut shutdown = task::spawn(handle.shutdown(5_000 * MS));
    assert!(shutdown.poll().is_pending());
    advance(4_999 * MS).await;
    assert!(shutdown.poll().is_pending());
    push_all(&pipeline, &chunks(3..4)).await;
    let report = within("the shutdown", shutdown).await;
    assert_eq!((report.cancelled(), report.delivered(), report.is_clean()), (1, 1, true), "{report}");
    assert!(child.is_cancelled());
    assert_eq!(
        pipeline.push(chunk(4, 10)).await.map_err(|error| error.to_string()),
        Err("stream stopped: shutdown".to_owned()),
        "the error that ended it"
    );
    let (hook, record) = hooks.record().await;
    assert_eq!((hook, record.outcome(), record.ended_by()), ("cancel", &Outcome::Cancelled, EndedBy::Layer));
    assert_eq!((record.stop_reason(), record.metrics().chunks()), (Some(&StopReason::Shutdown), 4));
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_pipelines_and_opens_none() {
    let hooks = hooks(|layer| layer);
    let pipeline = hooks.pipeline(StreamPipeline::builder()).await;
    let handle = hooks.handle();
    let mut shutdown = task::spawn(handle.shutdown(5_000 * MS));
    assert!(shutdown.poll().is_pending());
    let late = StreamPipeline::builder().open(&handle, "late").await;
    assert!(matches!(late, Err(StreamError::Stopped { reason: StopReason::Shutdown, .. })), "{late:?}");
    push_all(&pipeline, &chunks(0..3)).await;
    assert!(pipeline.finish(Outcome::Completed));
    let start = Instant::now();
    let report = within("the shutdown", shutdown).await;
    assert!(start.elapsed() < 100 * MS);
    assert_eq!((report.cancelled(), report.delivered(), report.is_clean()), (0, 1, true), "{report}");
    assert_eq!(hooks.record().await.0, "complete");
    assert!(StreamPipeline::builder().open(&handle, "later").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn open_waits_for_a_slot() {
    let hooks = hooks(|layer| layer.max_in_flight(1));
    let handle = hooks.handle();
    let first = hooks.pipeline(StreamPipeline::builder()).await;
    let mut dropped = task::spawn(StreamPipeline::builder().open(&handle, "dropped"));
    let mut second = task::spawn(StreamPipeline::builder().open(&handle, "second"));
    let mut third = task::spawn(StreamPipeline::builder().open(&handle, "third"));
    assert!(dropped.poll().is_pending() && second.poll().is_pending() && third.poll().is_pending());
    drop(dropped);
    assert_eq!((hooks.audit().opened(), handle.streams().len()), (1, 1));
    first.finish(Outcome::Completed);
    // The record is being delivered: it holds the slot until then.
    until("the slot", || second.is_woken()).await;
    let second = within("the slot", second).await.unwrap();
    assert!(third.poll().is_pending(), "there is one slot");
    assert_eq!(handle.streams().iter().map(|stream| stream.id()).collect::<Vec<_>>(), [second.id()]);
    drop(second);
    drop(within("the slot", third).await.unwrap());
    until("all records", || hooks.records().len() == 3).await;
    let seen: Vec<_> = hooks.records().all().iter().map(|record| *record.context().unwrap()).collect();
    assert_eq!(seen, ["acme", "second", "third"]);
    let audit = hooks.audit();
    assert_eq!((audit.opened(), audit.settled(), audit.is_balanced()), (3, 3, true), "{audit:?}");
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_a_waiting_open() {
    let hooks = hooks(|layer| layer.max_in_flight(1));
    let handle = hooks.handle();
    let _first = hooks.pipeline(StreamPipeline::builder()).await;
    let mut waiting = task::spawn(StreamPipeline::builder().open(&handle, "second"));
    assert!(waiting.poll().is_pending());
    let mut shutdown = task::spawn(handle.shutdown(5_000 * MS));
    assert!(shutdown.poll().is_pending());
    assert!(waiting.is_woken());
    assert!(matches!(waiting.await, Err(StreamError::Stopped { reason: StopReason::Shutdown, .. })));
    assert_eq!(hooks.audit().opened(), 1);
}

#[test]
fn a_pipeline_needs_no_runtime_while_nobody_waits() {
    let pipeline = StreamPipeline::builder().buffer_limit(0).build();
    let mut tap = pipeline.tap();
    for chunk in chunks(0..20) {
        assert_eq!(pipeline.push(chunk).now_or_never(), Some(Ok(())));
    }
    assert_eq!(pipeline.metrics().chunks(), 20);
    assert!(pipeline.finish(Outcome::Completed));
    assert_eq!(content(&pipeline), chunks(0..20));
    let seen: Vec<_> = std::iter::from_fn(|| tap.next().now_or_never().flatten()).collect();
    // The first look at an empty log only sets the alarm.
    assert_eq!(seen, chunks(0..20));
}

// --- Producers ---

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_producers_each_keep_their_order() {
    const EACH: u32 = 1_500;
    for strategy in [BackpressureStrategy::default(), Block(Duration::from_secs(20))] {
        let hooks = hooks(|layer| layer);
        let builder = StreamPipeline::builder().buffer_limit(8).backpressure(strategy);
        let pipeline = hooks.pipeline(builder).await;
        let mut tap = pipeline.tap().waited();
        let all = tokio::spawn(async move { (rest(&mut tap).await, tap.missed(), tap.outcome().cloned()) });
        let group = pipeline.handle().work_group().waited();
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
        assert_eq!(group.missed(), 0);
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
        assert!(record.content().to_bytes() == kept.concat());
    }
}

/// However busy the others are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_before_a_finish_are_recorded() {
    for round in 0..300 {
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
        let kept: Vec<_> = record.content().chunks().collect();
        assert!(!record.content().is_truncated());
        assert_eq!(by_producer::<3>(&kept)[0], round % 50, "round {round}");
        // Others may go on for the moment in which it ends, but the record's numbers belong together.
        assert!(record.metrics().chunks() <= kept.len() as u64);
    }
}

// --- Content ---

#[tokio::test(start_paused = true)]
async fn content_beyond_the_limit_is_only_counted() {
    for max_size in [0, 1, 9, 10, 95, 100, 1_000] {
        let hooks = hooks(|layer| layer);
        let pipeline = hooks.pipeline(StreamPipeline::builder().max_size(max_size)).await;
        let (mut early, mut waited) = (pipeline.tap(), pipeline.tap().waited());
        let sent: Vec<_> = (0..60).map(|n| chunk(n, 10)).collect();
        push_all(&pipeline, &sent[..30]).await;
        let mut late = pipeline.tap();
        let first = numbers(&at_hand(&mut late));
        assert_eq!(first.last(), Some(&29), "{max_size}: {first:?}");
        push_all(&pipeline, &sent[30..]).await;
        pipeline.finish(Outcome::Completed);
        assert_eq!(rest(&mut early).await, sent, "{max_size}");
        assert_eq!(rest(&mut waited).await, sent, "{max_size}");
        assert_eq!((early.missed(), waited.missed()), (0, 0), "{max_size}");
        assert_eq!(rest(&mut late).await, sent[30..], "{max_size}");

        let kept = (max_size / 10).min(60);
        let snapshot = pipeline.accumulator().snapshot();
        assert_eq!(snapshot.chunks().collect::<Vec<_>>(), sent[..kept], "{max_size}");
        assert_eq!(snapshot.is_truncated(), kept < 60);
        let (_, record) = hooks.record().await;
        assert_eq!(record.content().chunks().collect::<Vec<_>>(), sent[..kept]);
        assert_eq!(record.content().is_truncated(), kept < 60, "{max_size}");
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
        assert_eq!(tap.missed(), round);
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
        let (kept, bytes) = (record.content().chunks().collect::<Vec<_>>(), record.content().len() as u64);
        assert_eq!(hook, "complete");
        assert!(record.content().is_truncated());
        assert!(kept == sent[..kept.len()], "a prefix");
        assert!((LIMIT / 2..=LIMIT / 4 * 3).contains(&bytes), "{bytes} is up to three quarters");
        assert_eq!(record.metrics().chunks(), sent.len() as u64);
        drop((pipeline, tap));
        assert!((bytes..=LIMIT / 4 * 3).contains(&budget.used()), "the record holds content: {budget:?}");
        drop(record);
        tokio::task::yield_now().await;
        assert_eq!(budget.used(), 0, "{budget:?}");
    }
}

// --- Strategies ---

#[tokio::test(start_paused = true)]
async fn adaptive_delays_pushes_above_the_mark() {
    for reader in WAITED {
        let pipeline = pressed(ADAPTIVE).build();
        let mut reader = reader(pipeline.handle());
        let mut delays = Vec::new();
        for _ in 0..9 {
            delays.push(timed(&pipeline).await.as_millis());
        }
        assert_eq!(delays, [0, 0, 0, 0, 0, 10, 20, 40, 50]);
        assert_eq!(take(&mut reader, 4).len(), 4);
        assert_eq!(timed(&pipeline).await, 50 * MS, "at the mark is not below it");
        assert_eq!(take(&mut reader, 2).len(), 2);
        assert_eq!(timed(&pipeline).await, Duration::ZERO);
        assert_eq!(timed(&pipeline).await, 10 * MS);
    }
}

#[tokio::test(start_paused = true)]
async fn adaptive_holds_pushes_at_the_limit() {
    for reader in WAITED {
        let pipeline = pressed(ADAPTIVE).build();
        let mut reader = reader(pipeline.handle());
        let sent = chunks(0..40);
        push_all(&pipeline, &sent[..10]).await;
        let mut held = task::spawn(pipeline.push(sent[10].clone()));
        assert!(held.poll().is_pending());
        advance(3_600_000 * MS).await;
        assert!(held.poll().is_pending());
        assert_eq!(pipeline.metrics().chunks(), 10, "an hour later nothing was appended");
        let mut seen = take(&mut reader, 1);
        assert!(held.is_woken());
        within("room", held).await.unwrap();
        for chunk in &sent[11..] {
            let mut push = task::spawn(pipeline.push(chunk.clone()));
            assert!(push.poll().is_pending());
            seen.extend(take(&mut reader, 1));
            within("room", push).await.unwrap();
        }
        assert!(pipeline.finish(Outcome::Completed));
        seen.extend(rest(&mut reader).await);
        assert!(seen == sent);
        assert_eq!(reader.missed(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn delayed_push_resumes_below_the_mark() {
    let hour = 3_600_000 * MS;
    let strategy = Adaptive { initial_delay: hour, max_delay: hour, multiplier: 1.0 };
    for reader in WAITED {
        let pipeline = pressed(strategy).build();
        let mut reader = reader(pipeline.handle());
        push_all(&pipeline, &chunks(0..5)).await;
        let mut push = task::spawn(pipeline.push(chunk(5, 10)));
        assert!(push.poll().is_pending());
        advance(1_000 * MS).await;
        assert!(push.poll().is_pending());
        assert_eq!(numbers(&take(&mut reader, 1)), [0]);
        assert!(push.is_woken());
        assert_eq!(push.poll(), std::task::Poll::Ready(Ok(())));
    }
}

#[tokio::test(start_paused = true)]
async fn drop_oldest_never_waits_and_counts_the_skipped() {
    for max_size in [0, 300, 1 << 20] {
        for reader in WAITED {
            let pipeline = pressed(DropOldest).max_size(max_size).build();
            let mut reader = reader(pipeline.handle());
            let start = Instant::now();
            push_all(&pipeline, &chunks(0..100)).await;
            assert_eq!(numbers(&take(&mut reader, 3)), [90, 91, 92], "{max_size}");
            assert_eq!(reader.missed(), 90);
            push_all(&pipeline, &chunks(100..102)).await;
            assert_eq!(numbers(&take(&mut reader, 1)), [93]);
            assert_eq!(reader.missed(), 90, "nine behind is not too far");
            push_all(&pipeline, &chunks(102..110)).await;
            assert!(pipeline.finish(Outcome::Completed));
            assert_eq!(numbers(&rest(&mut reader).await), (100..110).collect::<Vec<_>>());
            assert_eq!(reader.missed(), 96);
            assert!(start.elapsed().is_zero());
        }
    }
}

/// What a push that meets the limit makes of the stream.
async fn fails_of_backpressure(hooks: &Hooks, pipeline: StreamPipeline, mut reader: Box<dyn Live>) {
    let child = pipeline.child_token();
    let error = within("an error", pipeline.push(chunk(10, 10))).await.unwrap_err();
    assert_eq!(lag_and_limit(&error), (10, 10));
    assert_eq!(pipeline.push(chunk(11, 10)).await, Err(error.clone()), "and so say later ones");
    assert!(!pipeline.finish(Outcome::Completed));
    assert!(child.is_cancelled());
    assert_eq!(rest(&mut reader).await, chunks(0..10), "what was there can still be read");
    assert_eq!(reader.outcome(), Some(Outcome::Failed(error.clone())));
    let (hook, record) = hooks.record().await;
    assert_eq!((hook, record.outcome()), ("failure", &Outcome::Failed(error)));
    assert_eq!((record.ended_by(), record.evidence()), (EndedBy::Layer, Evidence::Limit));
    assert_eq!((record.metrics().chunks(), record.stop_reason()), (10, None));
    assert_eq!(record.content().to_bytes(), chunks(0..10).concat());
}

#[tokio::test(start_paused = true)]
async fn reject_fails_the_push_at_the_limit() {
    for reader in WAITED {
        let hooks = hooks(|layer| layer);
        let pipeline = hooks.pipeline(pressed(Reject)).await;
        let reader = reader(pipeline.handle());
        let start = Instant::now();
        push_all(&pipeline, &chunks(0..10)).await;
        assert!(start.elapsed().is_zero());
        fails_of_backpressure(&hooks, pipeline, reader).await;
    }
}

#[tokio::test(start_paused = true)]
async fn reject_spares_a_reader_below_the_limit() {
    let pipeline = pressed(Reject).build();
    let mut tap = pipeline.tap().waited();
    push_all(&pipeline, &chunks(0..9)).await;
    for n in 9..100 {
        push_all(&pipeline, &[chunk(n, 10)]).await;
        assert_eq!(take(&mut tap, 1).len(), 1);
    }
    assert!(pipeline.finish(Outcome::Completed));
    assert_eq!(rest(&mut tap).await.len(), 9);
}

#[tokio::test(start_paused = true)]
async fn block_waits_its_time_and_then_fails() {
    for reader in WAITED {
        let hooks = hooks(|layer| layer);
        let pipeline = hooks.pipeline(pressed(Block(30 * MS))).await;
        let reader = reader(pipeline.handle());
        let start = Instant::now();
        push_all(&pipeline, &chunks(0..10)).await;
        assert!(start.elapsed().is_zero(), "below the limit there is no delay");
        // A push that is dropped while it waits appends nothing and fails nobody.
        let mut dropped = task::spawn(pipeline.push(chunk(10, 10)));
        assert!(dropped.poll().is_pending());
        advance(29 * MS).await;
        assert!(dropped.poll().is_pending());
        drop(dropped);
        advance(10 * MS).await;
        assert_eq!((pipeline.outcome(), pipeline.metrics().chunks()), (None, 10));
        let start = Instant::now();
        let mut push = task::spawn(pipeline.push(chunk(10, 10)));
        assert!(push.poll().is_pending());
        let error = push.await.unwrap_err();
        assert_eq!((start.elapsed(), lag_and_limit(&error)), (30 * MS, (10, 10)));
        fails_of_backpressure(&hooks, pipeline, reader).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_blocked_push_has_its_own_time() {
    for reader in WAITED {
        let pipeline = pressed(Block(30 * MS)).build();
        let mut reader = reader(pipeline.handle());
        push_all(&pipeline, &chunks(0..10)).await;
        for n in 10..20 {
            let mut push = task::spawn(pipeline.push(chunk(n, 10)));
            assert!(push.poll().is_pending());
            advance(29 * MS).await;
            assert!(push.poll().is_pending());
            assert_eq!(numbers(&take(&mut reader, 1)), [n - 10]);
            assert!(push.is_woken());
            assert_eq!(push.poll(), std::task::Poll::Ready(Ok(())));
        }
        // A reader that goes is waited for no longer.
        let mut push = task::spawn(pipeline.push(chunk(20, 10)));
        assert!(push.poll().is_pending());
        drop(reader);
        assert!(push.is_woken());
        assert_eq!(push.poll(), std::task::Poll::Ready(Ok(())));
        assert!(pipeline.finish(Outcome::Completed));
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_producers_resume_as_room_allows() {
    for strategy in HOLDING {
        for reader in WAITED {
            let pipeline = pressed(strategy).build();
            let mut reader = reader(pipeline.handle());
            push_all(&pipeline, &chunks(0..10)).await;
            let mut waiting: Vec<_> = (10..16).map(|n| task::spawn(pipeline.push(chunk(n, 10)))).collect();
            assert!(waiting.iter_mut().all(|push| push.poll().is_pending()));
            let dropped = waiting.pop();
            drop(dropped);
            assert_eq!(take(&mut reader, 2).len(), 2);
            assert!(waiting.iter().all(|push| push.is_woken()), "whoever waits looks again");
            waiting.retain_mut(|push| push.poll().is_pending());
            // Of `Adaptive` those that may go on are delayed first.
            advance(100 * MS).await;
            waiting.retain_mut(|push| push.poll().is_pending());
            if strategy != ADAPTIVE {
                assert_eq!((waiting.len(), pipeline.metrics().chunks()), (3, 12), "{strategy:?}");
            }
            assert_eq!(at_hand(&mut reader).len() as u64, pipeline.metrics().chunks() - 2);
            assert!(waiting.iter().all(|push| push.is_woken()));
            waiting.retain_mut(|push| push.poll().is_pending());
            assert!(waiting.is_empty(), "{strategy:?}");
            let mut seen = numbers(&at_hand(&mut reader));
            seen.sort_unstable();
            assert!(pipeline.finish(Outcome::Completed));
            assert_eq!(pipeline.metrics().chunks(), 15, "the one that was dropped appended nothing");
            assert!(!content(&pipeline).contains(&chunk(15, 10)));
        }
    }
}

/// Whatever ends the stream ends each wait, and nothing is appended.
#[tokio::test(start_paused = true)]
async fn end_of_the_stream_ends_every_wait() {
    type End = fn(&Hooks, &StreamPipeline, &CancellationToken);
    let ends: [(&str, End); 5] = [
        ("Handle::cancel", |hooks, pipeline, _| assert!(hooks.handle().cancel(pipeline.id()))),
        ("finish(Cancelled)", |_, pipeline, _| assert!(pipeline.finish(Outcome::Cancelled))),
        ("finish(Completed)", |_, pipeline, _| assert!(pipeline.finish(Outcome::Completed))),
        ("the parent's token", |_, _, parent| parent.cancel()),
        ("the stream's token", |_, pipeline, _| pipeline.handle().cancellation_token().cancel()),
    ];
    let delayed = Adaptive { initial_delay: 3_600_000 * MS, max_delay: 3_600_000 * MS, multiplier: 1.0 };
    for strategy in HOLDING.into_iter().chain([delayed]) {
        for (name, end) in ends {
            let hooks = hooks(|layer| layer);
            let parent = CancellationToken::new();
            let pipeline = hooks.pipeline(pressed(strategy).token(&parent)).await;
            let _unread = pipeline.tap().waited();
            let before = if strategy == delayed { 5 } else { 10 };
            push_all(&pipeline, &chunks(0..before)).await;
            let mut waiting: Vec<_> = (10..13).map(|n| task::spawn(pipeline.push(chunk(n, 10)))).collect();
            assert!(waiting.iter_mut().all(|push| push.poll().is_pending()));
            end(&hooks, &pipeline, &parent);
            for mut push in waiting {
                assert!(push.is_woken(), "{name}, {strategy:?}");
                match push.poll() {
                    std::task::Poll::Ready(result) => assert!(is_stopped(result), "{name}"),
                    std::task::Poll::Pending => panic!("{name}, {strategy:?}: it waits on"),
                }
            }
            assert_eq!(pipeline.metrics().chunks(), before, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_failed_push_fails_the_others() {
    let pipeline = pressed(Block(30 * MS)).build();
    let _unread = pipeline.tap().waited();
    push_all(&pipeline, &chunks(0..10)).await;
    let mut first = task::spawn(pipeline.push(chunk(10, 10)));
    assert!(first.poll().is_pending());
    advance(20 * MS).await;
    let mut second = task::spawn(pipeline.push(chunk(11, 10)));
    assert!(second.poll().is_pending());
    let start = Instant::now();
    let error = within("the first", first).await.unwrap_err();
    assert!(second.is_woken(), "the stream is over");
    assert_eq!(within("the second", second).await, Err(error));
    assert_eq!(start.elapsed(), 10 * MS);
}

#[tokio::test(start_paused = true)]
async fn strategies_do_nothing_without_waited_readers() {
    for strategy in ALL {
        for tapped in [false, true] {
            let pipeline = pressed(strategy).build();
            let _unread = tapped.then(|| (pipeline.tap(), pipeline.handle().work_group()));
            let start = Instant::now();
            push_all(&pipeline, &chunks(0..500)).await;
            assert!(pipeline.finish(Outcome::Completed));
            assert!(start.elapsed().is_zero(), "{strategy:?}, tapped: {tapped}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn earlier_pushes_are_not_a_readers_lag() {
    for strategy in ALL {
        for reader in WAITED {
            let pipeline = pressed(strategy).max_size(2_000).build();
            push_all(&pipeline, &chunks(0..100)).await;
            let mut reader = reader(pipeline.handle());
            let start = Instant::now();
            push_all(&pipeline, &chunks(100..105)).await;
            assert!(start.elapsed().is_zero(), "{strategy:?}");
            let seen = numbers(&at_hand(&mut reader));
            assert_eq!(seen[seen.len() - 5..], [100, 101, 102, 103, 104], "{strategy:?}");
            assert!(pipeline.finish(Outcome::Completed));
        }
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
        let mut tap = pipeline.tap().waited();
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
            (seen, tap.missed())
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

#[tokio::test]
async fn its_accumulator_has_no_other_writer() {
    let pipeline = StreamPipeline::new(4);
    pipeline.push(chunk(0, 10)).await.unwrap();
    let refused = pipeline.accumulator().append(chunk(1, 10));
    assert_eq!(refused, Err(StreamError::NotTheWriter));
    assert!(refused.unwrap_err().to_string().contains("StreamPipeline::push"));
    pipeline.push(chunk(2, 10)).await.unwrap();
    assert_eq!(pipeline.accumulator().len(), 20);
}
