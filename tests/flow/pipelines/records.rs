//! What becomes of a pipeline: its record, its end, its slot.

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use http::{Method, Uri, Version};
use streaming_accumulator::{
    EndedBy, Evidence, Outcome, Phase, PushError, StopReason, StreamError, StreamPipeline,
};
use tokio::time::{Instant, advance};
use tokio_test::task;

use super::{content, hooks, is_stopped, push_all};
use crate::readers::{MS, chunk, chunks, rest};
use crate::support::{until, within};

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
    assert_eq!(record.content().chunks().map(Result::unwrap).collect::<Vec<_>>(), sent);
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
            Some(cause) => assert_eq!(error, PushError::Failed(cause.clone()), "the error that ended it"),
            None => assert!(matches!(error, PushError::Ended)),
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
    let mut tap = pipeline.tap().lossless();
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
    assert_eq!(listed[0].snapshot().to_bytes().unwrap(), chunks(0..3).concat());
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
    assert_eq!(
        (record.metrics().chunks(), record.content().to_bytes().unwrap()),
        (3, chunks(0..3).concat().into())
    );
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_clone_cancels() {
    let hooks = hooks(|layer| layer);
    let pipeline = hooks.pipeline(StreamPipeline::builder()).await;
    let clone = pipeline.clone();
    assert_eq!(clone.id(), pipeline.id());
    let (mut tap, handle, token) =
        (pipeline.tap().lossless(), pipeline.handle().clone(), clone.child_token());
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
    assert_eq!(record.content().to_bytes().unwrap(), chunks(0..4).concat());
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
        Err("the stream was ended: stream stopped: shutdown".to_owned()),
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
    assert!(matches!(late, Err(PushError::Closed)), "{late:?}");
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
    assert!(matches!(waiting.await, Err(PushError::Closed)));
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
