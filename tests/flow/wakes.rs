//! Taps and work groups that sleep and are woken, by one thread or by many.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use streaming_accumulator::{Capture, Outcome, StreamHandle};
use tokio_test::task;

use crate::readers::{Live, chunk, chunks, numbers, rest};
use crate::support::{Flow, Recorder, within};

#[tokio::test(start_paused = true)]
async fn dropping_a_tap_frees_the_waiting_body() {
    for waited in crate::readers::WAITED {
        let recorder = Recorder::with(|layer| layer.buffer_limit(4));
        let mut flow = recorder.open().await;
        let reader = waited(&flow.handle);
        let other = waited(&flow.handle);
        let sent = chunks(0..8);
        sent.iter().for_each(|chunk| flow.feed.push(chunk.clone()));
        for chunk in &sent[..4] {
            assert_eq!(flow.pull().await.unwrap().unwrap(), chunk);
        }
        let mut pull = task::spawn(flow.pull());
        assert!(pull.poll().is_pending());
        drop(reader);
        assert!(pull.poll().is_pending(), "there is another");
        while pull.is_woken() {
            assert!(pull.poll().is_pending());
        }
        drop(other);
        assert!(pull.is_woken());
        assert!(pull.poll().is_ready());
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_taps_see_every_chunk() {
    let recorder = Recorder::with(|layer| layer.capture(Capture::none()));
    let mut flow = recorder.open().await;
    let sent = chunks(0..50);
    let taps: Vec<_> = (0..1_000)
        .map(|_| {
            let tap = flow.handle.tap();
            tokio::spawn(async move { tap.collect::<Vec<_>>().await })
        })
        .collect();
    for chunk in &sent {
        flow.pass(std::slice::from_ref(chunk)).await;
        tokio::task::yield_now().await;
    }
    flow.end().await;
    for seen in within("a thousand taps", join_all(taps)).await {
        assert!(seen.unwrap() == sent);
    }
}

#[tokio::test(start_paused = true)]
async fn chunks_and_the_end_wake_a_tap() {
    let recorder = Recorder::with(|layer| layer.capture(Capture::none()));
    let mut flow = recorder.open().await;
    let mut tap = flow.handle.tap();
    let mut first = task::spawn(tap.next());
    while first.is_woken() || first.poll().is_pending() && first.is_woken() {
        tokio::task::yield_now().await;
        assert!(first.poll().is_pending());
    }
    flow.pass(&[chunk(7, 10)]).await;
    until_woken(&first).await;
    assert_eq!(within("the chunk", first).await, Some(chunk(7, 10)));

    let mut last = task::spawn(tap.next());
    assert!(last.poll().is_pending());
    flow.end().await;
    until_woken(&last).await;
    assert_eq!(within("the end", last).await, None);
}

/// The relay runs in a task of its own.
async fn until_woken<T>(task: &task::Spawn<T>) {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(task.is_woken());
}

/// Makes a body and its readers wait for each other at every chunk: one lost wake-up, and all of them hang.
fn in_lockstep(readers: Vec<Box<dyn Live>>, mut flow: Flow, sent: Vec<Bytes>) -> Vec<Vec<Bytes>> {
    let threads: Vec<_> = readers
        .into_iter()
        .map(|mut reader| {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(within("a reader", async {
                    let mut seen = Vec::new();
                    while let Some(chunk) = reader.next().await {
                        seen.push(chunk);
                        maybe_yield().await;
                    }
                    assert_eq!(reader.outcome(), Some(Outcome::Completed));
                    assert_eq!(reader.lagged(), 0);
                    seen
                }))
            })
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(within("the body", async {
        for chunk in &sent {
            flow.pass(std::slice::from_ref(chunk)).await;
            maybe_yield().await;
        }
        flow.end().await;
    }));
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

async fn maybe_yield() {
    for _ in 0..fastrand::usize(..3) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_up_is_lost_between_threads() {
    for capture in [Capture::none(), Capture::all(1 << 24)] {
        let recorder = Recorder::with(|layer| layer.capture(capture).buffer_limit(1));
        let flow = recorder.open().await;
        let readers = (0..3).map(|_| Box::new(flow.handle.tap().lossless()) as Box<dyn Live>).collect();
        let sent = chunks(0..3_000);
        let expected = sent.clone();
        let seen = tokio::task::spawn_blocking(move || in_lockstep(readers, flow, sent)).await.unwrap();
        assert!(seen.iter().all(|seen| *seen == expected));
    }
}

/// Opened outside any runtime: then there is no relay, and the body wakes the readers itself.
#[test]
fn no_wake_up_is_lost_without_a_relay() {
    let recorder = Recorder::with(|layer| layer.capture(Capture::none()).buffer_limit(1));
    let flow = tokio_test::block_on(recorder.open());
    let readers = (0..3).map(|_| Box::new(flow.handle.tap().lossless()) as Box<dyn Live>).collect();
    let sent = chunks(0..3_000);
    let seen = in_lockstep(readers, flow, sent.clone());
    assert!(seen.iter().all(|seen| *seen == sent));
}

#[test]
fn group_members_take_each_chunk_once() {
    let recorder = Recorder::with(|layer| layer.capture(Capture::none()).buffer_limit(2));
    let flow = tokio_test::block_on(recorder.open());
    let group = flow.handle.consumer_group().lossless();
    let members = (0..3).map(|_| Box::new(group.clone()) as Box<dyn Live>).collect();
    drop(group);
    let sent = chunks(0..3_000);
    let seen = in_lockstep(members, flow, sent.clone());
    assert!(seen.iter().all(|seen| numbers(seen).is_sorted()));
    let taken: BTreeSet<_> = seen.iter().flat_map(|seen| numbers(seen)).collect();
    assert_eq!(taken.len(), sent.len());
    assert_eq!(seen.iter().map(Vec::len).sum::<usize>(), sent.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passing_taps_read_without_holes() {
    let recorder = Recorder::with(|layer| layer.capture(Capture::none()).buffer_limit(100_000));
    let mut flow = recorder.open().await;
    let handle = flow.handle.clone();
    let comes_and_goes = |handle: StreamHandle| async move {
        let mut visits = 0;
        while handle.tap().outcome().is_none() {
            let mut tap = handle.tap();
            let seen: Vec<_> = tap.by_ref().take(fastrand::usize(1..20)).collect().await;
            let seen = numbers(&seen);
            assert!(seen.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{seen:?}");
            // The one that the body had in its hands when the tap came.
            assert!(tap.lagged() <= 1);
            visits += 1;
            tokio::task::yield_now().await;
        }
        visits
    };
    let guests: Vec<_> = (0..3).map(|_| tokio::spawn(comes_and_goes(handle.clone()))).collect();
    let write = tokio::spawn(async move {
        for n in 0..20_000 {
            flow.pass(&[chunk(n, 20)]).await;
            maybe_yield().await;
        }
        flow.end().await;
    });
    within("the body", write).await.unwrap();
    for guest in guests {
        assert!(within("a guest", guest).await.unwrap() > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn group_shares_chunks_beside_a_whole_tap() {
    let recorder = Recorder::with(|layer| layer.capture(Capture::none()));
    let mut flow = recorder.open().await;
    let group = flow.handle.consumer_group();
    let mut beside = flow.handle.tap();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let members: Vec<_> = (0..4)
        .map(|_| {
            let (mut member, taken) = (group.clone(), Arc::clone(&taken));
            tokio::spawn(async move {
                let mut own = 0;
                while let Some(chunk) = member.next().await {
                    taken.lock().unwrap().push(chunk);
                    own += 1;
                    maybe_yield().await;
                }
                assert_eq!(member.outcome(), Some(&Outcome::Completed));
                own
            })
        })
        .collect();
    let sent = chunks(0..200);
    for chunk in &sent {
        flow.pass(std::slice::from_ref(chunk)).await;
        maybe_yield().await;
    }
    flow.end().await;
    let own: Vec<usize> =
        within("the group", join_all(members)).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(own.iter().sum::<usize>(), sent.len());
    assert!(own.iter().all(|own| *own > 0), "{own:?}");
    assert_eq!(*taken.lock().unwrap(), sent);
    assert_eq!(group.lagged(), 0);
    assert_eq!(rest(&mut beside).await, sent);
}

#[tokio::test(start_paused = true)]
async fn stop_ends_taps_of_an_unpolled_body() {
    let recorder = Recorder::with(|layer| layer);
    let mut flow = recorder.open().await;
    flow.pass(&chunks(0..3)).await;
    let reader = tokio::spawn({
        let tap = flow.handle.tap();
        async move { tap.collect::<Vec<_>>().await.len() }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(flow.handle.cancel());
    assert_eq!(within("the tap", reader).await.unwrap(), 3);
    assert_eq!(flow.handle.tap().outcome(), Some(&Outcome::Cancelled));
}
