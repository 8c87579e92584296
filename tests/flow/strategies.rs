//! What each strategy does with a reader that asked to be waited for and falls behind.

use std::time::Duration;

use streaming_accumulator::BackpressureStrategy::{Adaptive, Block, DropOldest, Reject};
use streaming_accumulator::{Capture, EndedBy, Evidence, Outcome};
use tokio::time::{Instant, advance};
use tokio_test::task;

use crate::pressure::{ADAPTIVE, ALL, lag_and_limit, pressed};
use crate::readers::{Live, MS, WAITED, at_hand, chunk, chunks, numbers, rest, take, timed};
use crate::support::{Flow, Recorder};

/// What nine chunks that nobody reads take.
async fn nine(flow: &mut Flow) -> Vec<u64> {
    let mut delays = Vec::new();
    for _ in 0..9 {
        delays.push(timed(flow).await.as_millis() as u64);
    }
    delays
}

async fn fails_of_backpressure(recorder: &Recorder, mut flow: Flow, mut reader: Box<dyn Live>) {
    let error = flow.error().await;
    assert_eq!(lag_and_limit(&error), (10, 10));
    assert_eq!(rest(&mut reader).await.len(), 10, "what was there can still be read");
    assert_eq!(reader.outcome(), Some(Outcome::Failed(error.clone())));
    assert!(flow.handle.cancellation_token().is_cancelled());
    drop(flow);
    let record = recorder.only().await;
    assert_eq!(record.outcome(), &Outcome::Failed(error));
    assert_eq!((record.ended_by(), record.evidence()), (EndedBy::Layer, Evidence::Limit));
    assert_eq!(record.metrics().chunks(), 10);
}

#[tokio::test(start_paused = true)]
async fn adaptive_delays_grow_above_the_mark() {
    for reader in WAITED {
        let recorder = pressed(ADAPTIVE, Capture::none());
        let mut flow = recorder.open().await;
        let _unread = reader(&flow.handle);
        assert_eq!(nine(&mut flow).await, [0, 0, 0, 0, 0, 10, 20, 40, 50]);
        assert_eq!(timed(&mut flow).await, 50 * MS);
    }
}

#[tokio::test(start_paused = true)]
async fn adaptive_restarts_below_the_mark() {
    for reader in WAITED {
        let recorder = pressed(ADAPTIVE, Capture::none());
        let mut flow = recorder.open().await;
        let mut reader = reader(&flow.handle);
        assert_eq!(nine(&mut flow).await[5..], [10, 20, 40, 50]);
        assert_eq!(take(&mut reader, 4).len(), 4);
        assert_eq!(timed(&mut flow).await, 50 * MS, "at the mark is not below it");
        assert_eq!(take(&mut reader, 2).len(), 2);
        assert_eq!(timed(&mut flow).await, Duration::ZERO);
        assert_eq!(timed(&mut flow).await, 10 * MS);
        assert_eq!(timed(&mut flow).await, 20 * MS);
    }
}

/// A delay that was paid while the upstream had nothing is not the last word on the reader.
#[tokio::test(start_paused = true)]
async fn adaptive_restarts_after_catching_up_while_idle() {
    let recorder = pressed(ADAPTIVE, Capture::none());
    let mut flow = recorder.open().await;
    let mut tap = flow.handle.tap().lossless();
    assert_eq!(nine(&mut flow).await[5..], [10, 20, 40, 50]);
    let mut pull = task::spawn(flow.pull());
    assert!(pull.poll().is_pending());
    advance(50 * MS).await;
    assert!(pull.poll().is_pending(), "the upstream has nothing");
    assert_eq!(take(&mut tap, 5).len(), 5);
    assert!(pull.poll().is_pending());
    drop(pull);
    assert_eq!(timed(&mut flow).await, Duration::ZERO);
    assert_eq!(timed(&mut flow).await, 10 * MS);
}

#[tokio::test(start_paused = true)]
async fn delayed_body_resumes_below_the_mark() {
    let strategy = Adaptive { initial_delay: 3_600_000 * MS, max_delay: 3_600_000 * MS, multiplier: 1.0 };
    for reader in WAITED {
        let recorder = pressed(strategy, Capture::none());
        let mut flow = recorder.open().await;
        let mut reader = reader(&flow.handle);
        flow.pass(&chunks(0..5)).await;
        flow.feed.push(chunk(5, 10));
        let mut pull = task::spawn(flow.pull());
        assert!(pull.poll().is_pending());
        advance(1_000 * MS).await;
        assert_eq!(numbers(&take(&mut reader, 1)), [0]);
        assert!(pull.is_woken());
        assert!(pull.poll().is_ready());
    }
}

#[tokio::test(start_paused = true)]
async fn adaptive_stops_polling_at_the_limit() {
    for reader in WAITED {
        let recorder = pressed(ADAPTIVE, Capture::none());
        let mut flow = recorder.open().await;
        let mut reader = reader(&flow.handle);
        let sent = chunks(0..30);
        flow.pass(&sent[..10]).await;
        let polls = flow.feed.polls();
        sent[10..].iter().for_each(|chunk| flow.feed.push(chunk.clone()));
        let feed = flow.feed.clone();
        let mut pull = task::spawn(flow.pull());
        assert!(pull.poll().is_pending());
        advance(3_600_000 * MS).await;
        assert!(pull.poll().is_pending());
        assert_eq!(feed.polls(), polls, "an hour later it was not polled");
        let mut seen = take(&mut reader, 1);
        assert!(pull.is_woken());
        drop(pull);
        for chunk in &sent[10..] {
            assert_eq!(flow.pull().await.unwrap().unwrap(), chunk);
            seen.extend(take(&mut reader, 1));
        }
        flow.end().await;
        seen.extend(rest(&mut reader).await);
        assert!(seen == sent);
        assert_eq!(reader.lagged(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn drop_oldest_never_waits_and_counts_the_skipped() {
    for capture in [Capture::none(), Capture::all(1 << 20), Capture::tail(100)] {
        for reader in WAITED {
            let recorder = pressed(DropOldest, capture);
            let mut flow = recorder.open().await;
            let mut reader = reader(&flow.handle);
            let start = Instant::now();
            flow.pass(&chunks(0..100)).await;
            assert_eq!(numbers(&take(&mut reader, 3)), [90, 91, 92], "{capture:?}");
            assert_eq!(reader.lagged(), 90);
            flow.pass(&chunks(100..102)).await;
            assert_eq!(numbers(&take(&mut reader, 1)), [93]);
            assert_eq!(reader.lagged(), 90, "nine behind is not too far");
            flow.pass(&chunks(102..110)).await;
            flow.end().await;
            assert_eq!(numbers(&rest(&mut reader).await), (100..110).collect::<Vec<_>>());
            assert_eq!(reader.lagged(), 96);
            assert!(start.elapsed().is_zero());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn reject_ends_the_stream_at_the_limit() {
    for reader in WAITED {
        let recorder = pressed(Reject, Capture::none());
        let mut flow = recorder.open().await;
        let reader = reader(&flow.handle);
        let start = Instant::now();
        flow.pass(&chunks(0..10)).await;
        fails_of_backpressure(&recorder, flow, reader).await;
        assert!(start.elapsed() < 100 * MS);
    }
}

#[tokio::test(start_paused = true)]
async fn reject_spares_a_reader_below_the_limit() {
    for reader in WAITED {
        let recorder = pressed(Reject, Capture::none());
        let mut flow = recorder.open().await;
        let mut reader = reader(&flow.handle);
        flow.pass(&chunks(0..9)).await;
        for n in 9..100 {
            flow.pass(&[chunk(n, 10)]).await;
            assert_eq!(take(&mut reader, 1).len(), 1);
        }
        flow.end().await;
        assert_eq!(rest(&mut reader).await.len(), 9);
        assert_eq!(recorder.only().await.outcome(), &Outcome::Completed);
    }
}

#[tokio::test(start_paused = true)]
async fn block_waits_its_time_and_then_rejects() {
    for reader in WAITED {
        let recorder = pressed(Block(30 * MS), Capture::none());
        let mut flow = recorder.open().await;
        let reader = reader(&flow.handle);
        let start = Instant::now();
        flow.pass(&chunks(0..10)).await;
        assert!(start.elapsed().is_zero(), "below the limit there is no delay");
        let polls = flow.feed.polls();
        let mut error = task::spawn(flow.error());
        assert!(error.poll().is_pending());
        advance(29 * MS).await;
        assert!(error.poll().is_pending());
        drop(error);
        assert_eq!(flow.feed.polls(), polls);
        fails_of_backpressure(&recorder, flow, reader).await;
        assert!((30 * MS..40 * MS).contains(&start.elapsed()));
    }
}

#[tokio::test(start_paused = true)]
async fn block_fails_after_exactly_its_time() {
    let recorder = pressed(Block(30 * MS), Capture::none());
    let mut flow = recorder.open().await;
    let _unread = flow.handle.tap().lossless();
    flow.pass(&chunks(0..10)).await;
    let start = Instant::now();
    flow.error().await;
    assert_eq!(start.elapsed(), 30 * MS);
}

#[tokio::test(start_paused = true)]
async fn each_blocked_wait_has_its_own_time() {
    for reader in WAITED {
        let recorder = pressed(Block(30 * MS), Capture::none());
        let mut flow = recorder.open().await;
        let mut reader = reader(&flow.handle);
        flow.pass(&chunks(0..10)).await;
        for n in 10..20 {
            flow.feed.push(chunk(n, 10));
            let mut pull = task::spawn(flow.pull());
            assert!(pull.poll().is_pending());
            advance(29 * MS).await;
            assert!(pull.poll().is_pending());
            assert_eq!(numbers(&take(&mut reader, 1)), [n - 10]);
            assert!(pull.is_woken());
            assert!(pull.poll().is_ready());
        }
        drop(reader);
        flow.end().await;
        assert_eq!(recorder.only().await.outcome(), &Outcome::Completed);
    }
}

#[tokio::test(start_paused = true)]
async fn strategies_do_nothing_without_waited_readers() {
    for strategy in ALL {
        for tapped in [false, true] {
            let recorder = pressed(strategy, Capture::none());
            let mut flow = recorder.open().await;
            let _unread = tapped.then(|| (flow.handle.tap(), flow.handle.consumer_group()));
            let start = Instant::now();
            flow.pass(&chunks(0..500)).await;
            flow.end().await;
            assert!(start.elapsed().is_zero(), "{strategy:?}, tapped: {tapped}");
            assert_eq!(recorder.only().await.outcome(), &Outcome::Completed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_slowest_waited_reader_counts() {
    let recorder = pressed(Reject, Capture::none());
    let mut flow = recorder.open().await;
    let (mut near, mut far, _not_waited) =
        (flow.handle.tap().lossless(), flow.handle.consumer_group().lossless(), flow.handle.tap());
    for n in 0..50 {
        flow.pass(&[chunk(n, 10)]).await;
        at_hand(&mut near);
        if n >= 9 {
            assert_eq!(numbers(&take(&mut far, 1)), [n - 9]);
        }
    }
    flow.pass(&[chunk(50, 10)]).await;
    assert_eq!(lag_and_limit(&flow.error().await), (10, 10));
}

/// Whatever was captured before, or went by uncaptured.
#[tokio::test(start_paused = true)]
async fn earlier_chunks_are_not_a_readers_lag() {
    for strategy in ALL {
        for capture in [Capture::all(1 << 20), Capture::head(25), Capture::tail(100), Capture::none()] {
            for reader in WAITED {
                let recorder = pressed(strategy, capture);
                let mut flow = recorder.open().await;
                flow.pass(&chunks(0..100)).await;
                let mut reader = reader(&flow.handle);
                let start = Instant::now();
                flow.pass(&chunks(100..105)).await;
                flow.assert_pending();
                assert!(start.elapsed().is_zero(), "{strategy:?} {capture:?}");
                // What is kept of before may be cut.
                let seen = at_hand(&mut reader);
                let latest = numbers(&seen[seen.len() - 5..]);
                assert_eq!(latest, [100, 101, 102, 103, 104], "{strategy:?} {capture:?}");
                flow.end().await;
                assert_eq!(recorder.only().await.outcome(), &Outcome::Completed, "{strategy:?} {capture:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn late_reader_under_drop_oldest_missed_nothing() {
    for reader in WAITED {
        let recorder = pressed(DropOldest, Capture::none());
        let mut flow = recorder.open().await;
        flow.pass(&chunks(0..100)).await;
        let mut reader = reader(&flow.handle);
        flow.pass(&chunks(100..103)).await;
        assert_eq!(numbers(&at_hand(&mut reader)), [100, 101, 102]);
        assert_eq!(reader.lagged(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn late_reader_excuses_no_slow_one() {
    let recorder = pressed(Reject, Capture::none());
    let mut flow = recorder.open().await;
    let _far = flow.handle.tap().lossless();
    flow.pass(&chunks(0..9)).await;
    let _late = flow.handle.tap().lossless();
    flow.pass(&chunks(9..10)).await;
    assert_eq!(lag_and_limit(&flow.error().await), (10, 10));
}
