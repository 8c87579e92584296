//! What each strategy does with producers whose reader falls behind.

use std::time::Duration;

use streaming_accumulator::BackpressureStrategy::{Adaptive, Block, DropOldest, Reject};
use streaming_accumulator::{EndedBy, Evidence, Outcome, PushError, StreamPipeline};
use tokio::time::{Instant, advance};
use tokio_test::task;
use tokio_util::sync::CancellationToken;

use super::{HOLDING, Hooks, content, hooks, is_stopped, push_all, timed};
use crate::pressure::{ADAPTIVE, ALL, lag_and_limit, pressed_pipeline as pressed};
use crate::readers::{Live, MS, WAITED, at_hand, chunk, chunks, numbers, rest, take};
use crate::support::within;

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
        assert_eq!(reader.lagged(), 0);
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
            // The chunk on which the capture's limit falls comes in two parts.
            let missed = if max_size == 300 { 91 } else { 90 };
            assert_eq!(reader.lagged(), missed);
            push_all(&pipeline, &chunks(100..102)).await;
            assert_eq!(numbers(&take(&mut reader, 1)), [93]);
            assert_eq!(reader.lagged(), missed, "nine behind is not too far");
            push_all(&pipeline, &chunks(102..110)).await;
            assert!(pipeline.finish(Outcome::Completed));
            assert_eq!(numbers(&rest(&mut reader).await), (100..110).collect::<Vec<_>>());
            assert_eq!(reader.lagged(), missed + 6);
            assert!(start.elapsed().is_zero());
        }
    }
}

/// What a push that meets the limit makes of the stream.
async fn fails_of_backpressure(hooks: &Hooks, pipeline: StreamPipeline, mut reader: Box<dyn Live>) {
    let child = pipeline.child_token();
    let PushError::Failed(error) = within("an error", pipeline.push(chunk(10, 10))).await.unwrap_err() else {
        panic!("the stream has failed");
    };
    assert_eq!(lag_and_limit(&error), (10, 10));
    let later = pipeline.push(chunk(11, 10)).await;
    assert_eq!(later, Err(PushError::Failed(error.clone())), "and so say later ones");
    assert!(!pipeline.finish(Outcome::Completed));
    assert!(child.is_cancelled());
    assert_eq!(rest(&mut reader).await, chunks(0..10), "what was there can still be read");
    assert_eq!(reader.outcome(), Some(Outcome::Failed(error.clone())));
    let (hook, record) = hooks.record().await;
    assert_eq!((hook, record.outcome()), ("failure", &Outcome::Failed(error)));
    assert_eq!((record.ended_by(), record.evidence()), (EndedBy::Layer, Evidence::Limit));
    assert_eq!((record.metrics().chunks(), record.stop_reason()), (10, None));
    assert_eq!(record.content().to_bytes().unwrap(), chunks(0..10).concat());
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
    let mut tap = pipeline.tap().lossless();
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
        let PushError::Failed(error) = push.await.unwrap_err() else {
            panic!("the stream has failed");
        };
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
            let _unread = pipeline.tap().lossless();
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
    let _unread = pipeline.tap().lossless();
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
            let _unread = tapped.then(|| (pipeline.tap(), pipeline.handle().consumer_group()));
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
