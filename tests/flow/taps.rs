//! Taps and work groups: what they see, of every capture, from every thread.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use http::{Request, Response};
use hyper::body::Incoming;
use streaming_accumulator::{BoxError, Capture, Outcome, StreamHandle, Tap};
use tokio::sync::oneshot;
use tokio_test::task;

use crate::readers::{Live, at_hand, chunk, chunks, numbers, rest, take};
use crate::support::{
    Flow, Gate, H2Client, MockBody, Options, RawClient, Recorder, body, boxed, handler, serve, within,
};

/// Chunks of ten bytes each, so that captures in tens of bytes cut none.
fn tens(numbers: std::ops::Range<u64>) -> Vec<Bytes> {
    numbers.map(|n| chunk(n, 10)).collect()
}

/// Captures with the chunks of ten bytes that they keep of a stream's head, and at least of its tail.
const CAPTURES: [(Capture, usize, usize); 5] = [
    (Capture::all(1 << 20), 100, 0),
    (Capture::head(100), 10, 0),
    (Capture::tail(100), 0, 10),
    (Capture::head_tail(50, 50), 5, 5),
    (Capture::none(), 0, 0),
];

#[tokio::test(start_paused = true)]
async fn tap_reads_the_kept_then_the_new() {
    for (capture, head, tail) in CAPTURES {
        let recorder = Recorder::with(|layer| layer.capture(capture));
        let mut flow = recorder.open().await;
        flow.pass(&tens(0..20)).await;
        let mut tap = flow.handle.tap();
        let kept = numbers(&at_hand(&mut tap));
        let head = head.min(20);
        assert_eq!(kept[..head], (0..head as u64).collect::<Vec<_>>(), "{capture:?}");
        let first = 20 - (kept.len() - head) as u64;
        assert_eq!(kept[head..], (first..20).collect::<Vec<_>>(), "{capture:?}");
        assert!(kept.len() - head >= tail, "{capture:?}");

        for n in 20..40 {
            assert!(at_hand(&mut tap).is_empty());
            flow.pass(&tens(n..n + 1)).await;
            assert_eq!(numbers(&at_hand(&mut tap)), [n], "{capture:?}");
        }
        assert_eq!(tap.outcome(), None);
        flow.end().await;
        assert_eq!(within("the end", tap.next()).await, None);
        assert_eq!(tap.outcome(), Some(&Outcome::Completed));
        // From where it came, or, where there is a head, from the start.
        let missed = if head > 0 { first - head as u64 } else { 0 };
        assert_eq!(tap.missed(), missed, "{capture:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn early_tap_sees_every_chunk_whole() {
    let sent = chunks(0..200);
    for (capture, _, _) in CAPTURES {
        // A limit that falls on a chunk cuts it in two, so these fall between chunks: there is none.
        let capture = if capture == Capture::head(100) { Capture::head(1 << 20) } else { capture };
        if capture == Capture::head_tail(50, 50) {
            continue;
        }
        let recorder = Recorder::with(|layer| layer.capture(capture));
        let mut flow = recorder.open().await;
        let mut tap = flow.handle.tap();
        flow.pass(&sent).await;
        flow.end().await;
        assert_eq!(rest(&mut tap).await, sent, "{capture:?}");
        assert_eq!(tap.missed(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn capture_limit_splits_its_chunk_for_late_taps() {
    for capture in [Capture::head(15), Capture::all(15), Capture::head_tail(15, 1000)] {
        let recorder = Recorder::with(|layer| layer.capture(capture));
        let mut flow = recorder.open().await;
        let mut tap = flow.handle.tap();
        let sent = tens(0..4);
        flow.pass(&sent).await;
        flow.end().await;
        let parts =
            [sent[0].clone(), sent[1].slice(..5), sent[1].slice(5..), sent[2].clone(), sent[3].clone()];
        assert_eq!(rest(&mut tap).await, parts, "{capture:?}");
        assert_eq!(tap.missed(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn taps_do_not_see_each_other() {
    let recorder = Recorder::with(|layer| layer.capture(Capture::none()));
    let mut flow = recorder.open().await;
    let sent = chunks(0..30);
    let mut first = flow.handle.tap();
    flow.pass(&sent[..10]).await;
    assert_eq!(take(&mut first, 4), sent[..4]);
    let mut second = flow.handle.tap();
    flow.pass(&sent[10..20]).await;
    // Nobody had read further than `first`, so what it has not read is still there.
    let seen = at_hand(&mut second);
    assert_eq!(seen, sent[20 - seen.len()..20]);
    assert!(seen.len() >= 10);
    drop(second);
    flow.pass(&sent[20..]).await;
    flow.end().await;
    assert_eq!(rest(&mut first).await, sent[4..]);
    assert_eq!(first.missed(), 0);
}

#[tokio::test(start_paused = true)]
async fn new_tap_starts_where_the_stream_is() {
    let recorder = Recorder::with(|layer| layer.capture(Capture::none()));
    let mut flow = recorder.open().await;
    for round in [0, 20, 40] {
        flow.pass(&chunks(round..round + 10)).await;
        let mut tap = flow.handle.tap();
        let sent = chunks(round + 10..round + 20);
        flow.pass(&sent).await;
        assert_eq!(at_hand(&mut tap), sent);
        assert_eq!(tap.missed(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn tap_opened_after_the_end_reads_the_capture() {
    for (capture, head, tail) in CAPTURES {
        let recorder = Recorder::with(|layer| layer.capture(capture));
        let mut flow = recorder.open().await;
        flow.pass(&tens(0..30)).await;
        flow.end().await;
        drop(flow.body);
        let mut tap = flow.handle.tap();
        let seen = numbers(&within("the end", rest(&mut tap)).await);
        let head = head.min(30);
        assert_eq!(seen[..head], (0..head as u64).collect::<Vec<_>>(), "{capture:?}");
        assert!(seen.len() >= head + tail && seen.is_sorted(), "{capture:?}: {seen:?}");
        assert!(tail == 0 || seen.ends_with(&(30 - tail as u64..30).collect::<Vec<_>>()), "{capture:?}");
        assert_eq!(tap.outcome(), Some(&Outcome::Completed));
        assert_eq!(within("the end", flow.handle.tap().waited().collect::<Vec<_>>()).await.len(), seen.len());
    }
}

#[tokio::test(start_paused = true)]
async fn chunks_carry_the_time_of_their_arrival() {
    let recorder = Recorder::with(|layer| layer);
    let mut flow = recorder.open().await;
    let mut tap = flow.handle.tap();
    flow.pass(&chunks(0..50)).await;
    flow.end().await;
    let mut arrivals = Vec::new();
    while let Some(chunk) = tap.recv().await {
        arrivals.push(chunk.arrival);
    }
    assert_eq!(arrivals.len(), 50);
    assert!(arrivals.is_sorted());
    assert!(*arrivals.last().unwrap() <= flow.handle.metrics().elapsed());
}

/// Reads with pauses that let the tap fall behind by different amounts.
#[tokio::test(start_paused = true)]
async fn slow_tap_counts_exactly_what_it_missed() {
    for (capture, _, _) in CAPTURES {
        let recorder = Recorder::with(|layer| layer.capture(capture).buffer_limit(16));
        let mut flow = recorder.open().await;
        let mut tap = flow.handle.tap();
        let (mut seen, mut sent) = (Vec::new(), 0);
        for burst in [3, 10, 40, 200, 1, 500, 17, 16, 300] {
            flow.pass(&tens(sent..sent + burst)).await;
            sent += burst;
            seen.extend(take(&mut tap, 7));
        }
        flow.end().await;
        seen.extend(rest(&mut tap).await);
        let seen = numbers(&seen);
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{capture:?}: {seen:?}");
        assert_eq!(seen.len() as u64 + tap.missed(), sent, "{capture:?}");
        assert_eq!(seen[seen.len() - 16..], (sent - 16..sent).collect::<Vec<_>>(), "{capture:?}");
        assert!(capture == Capture::all(1 << 20) || tap.missed() > 0, "{capture:?} was to be tested");
    }
}

#[tokio::test(start_paused = true)]
async fn first_chunk_after_a_gap_counts_it() {
    let recorder = Recorder::with(|layer| layer.capture(Capture::none()).buffer_limit(8));
    let mut flow = recorder.open().await;
    let mut tap = flow.handle.tap();
    flow.pass(&chunks(0..3)).await;
    assert_eq!(numbers(&at_hand(&mut tap)), [0, 1, 2]);
    flow.pass(&chunks(3..500)).await;
    assert_eq!(tap.missed(), 0);
    let next = numbers(&take(&mut tap, 1))[0];
    assert_eq!(tap.missed(), next - 3);
}

#[tokio::test(start_paused = true)]
async fn tap_first_read_late_counts_what_passed() {
    for capture in [Capture::none(), Capture::tail(100)] {
        let recorder = Recorder::with(|layer| layer.capture(capture).buffer_limit(8));
        let mut flow = recorder.open().await;
        let mut tap = flow.handle.tap();
        flow.pass(&chunks(0..500)).await;
        let next = numbers(&take(&mut tap, 1))[0];
        assert!(next > 0);
        assert_eq!(tap.missed(), next, "{capture:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn lag_counts_what_is_there_and_not_read() {
    for (capture, _, _) in CAPTURES {
        let recorder = Recorder::with(|layer| layer.capture(capture));
        let mut flow = recorder.open().await;
        flow.pass(&tens(0..20)).await;
        let mut tap = flow.handle.tap();
        flow.pass(&tens(20..25)).await;
        let lag = tap.lag();
        assert_eq!(lag, at_hand(&mut tap).len() as u64 + tap.missed(), "{capture:?}");
        assert_eq!(tap.lag(), 0, "{capture:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn idle_tap_delays_nobody_and_holds_little() {
    let recorder = Recorder::with(|layer| layer.capture(Capture::none()).buffer_limit(32));
    let mut flow = recorder.open().await;
    let dead = flow.handle.tap();
    let start = tokio::time::Instant::now();
    for n in 0..5_000 {
        flow.pass(&[chunk(n, 4096)]).await;
    }
    assert!(start.elapsed().is_zero());
    let peak = recorder.audit().memory_peak();
    assert!(peak > 32 * 4096 && peak < 3 * 32 * 4096, "{peak} bytes");
    drop(dead);
    flow.pass(&[chunk(5_000, 4096)]).await;
    assert_eq!(recorder.audit().memory_used(), 0);
}

#[tokio::test(start_paused = true)]
async fn tap_memory_is_freed_at_the_end() {
    let recorder = Recorder::with(|layer| layer.capture(Capture::none()));
    let mut flow = recorder.open().await;
    let mut tap = flow.handle.tap();
    flow.pass(&chunks(0..100)).await;
    flow.end().await;
    assert_eq!(rest(&mut tap).await.len(), 100);
    drop((tap, flow));
    let record = recorder.only().await;
    assert!(record.content().is_empty());
    assert_eq!(recorder.audit().memory_used(), 0, "the record captured nothing, and holds nothing");
}

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
                    assert_eq!(reader.missed(), 0);
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
        let readers = (0..3).map(|_| Box::new(flow.handle.tap().waited()) as Box<dyn Live>).collect();
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
    let readers = (0..3).map(|_| Box::new(flow.handle.tap().waited()) as Box<dyn Live>).collect();
    let sent = chunks(0..3_000);
    let seen = in_lockstep(readers, flow, sent.clone());
    assert!(seen.iter().all(|seen| *seen == sent));
}

#[test]
fn group_members_take_each_chunk_once() {
    let recorder = Recorder::with(|layer| layer.capture(Capture::none()).buffer_limit(2));
    let flow = tokio_test::block_on(recorder.open());
    let group = flow.handle.work_group().waited();
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
            assert!(tap.missed() <= 1);
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
    let group = flow.handle.work_group();
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
    assert_eq!(group.missed(), 0);
    assert_eq!(rest(&mut beside).await, sent);
}

/// A server whose handler taps its stream, and what the tap will have seen.
async fn tapped(
    options: Options,
    body: MockBody,
) -> (crate::support::Server, oneshot::Receiver<(Vec<Bytes>, Option<Outcome>)>) {
    let (seen, see) = oneshot::channel();
    let once = Arc::new(Mutex::new(Some((seen, body))));
    let service = handler(move |request: Request<Incoming>| {
        let (seen, body) = once.lock().unwrap().take().unwrap();
        let mut tap: Tap = request.extensions().get::<StreamHandle>().unwrap().tap().waited();
        tokio::spawn(async move {
            let chunks = rest(&mut tap).await;
            seen.send((chunks, tap.outcome().cloned()))
        });
        std::future::ready(Ok::<_, BoxError>(Response::new(boxed(body))))
    });
    let recorder = Recorder::with(|layer| layer);
    (serve(options, recorder.around(service)).await, see)
}

#[tokio::test]
async fn tap_ends_cancelled_when_http1_client_leaves() {
    for rst in [false, true] {
        let gate = Gate::new();
        let (server, seen) = tapped(Options::h1(), body(["one", "two"]).wait(&gate)).await;
        let mut client = RawClient::get(server.addr).await;
        client.read_until("two").await;
        client.leave(rst).await;
        let (chunks, outcome) = within("the tap", seen).await.unwrap();
        assert_eq!(chunks, ["one", "two"]);
        assert_eq!(outcome, Some(Outcome::Cancelled));
    }
}

#[tokio::test]
async fn tap_ends_cancelled_when_http2_client_leaves() {
    for reset in [false, true] {
        let gate = Gate::new();
        let (server, seen) = tapped(Options::h2(), body(["one", "two"]).wait(&gate)).await;
        let mut client = H2Client::connect(server.addr).await;
        let (response, mut sending) = client.get();
        let mut response = within("the head", response).await.unwrap().into_body();
        assert_eq!(within("a frame", response.data()).await.unwrap().unwrap(), "one");
        within("the other frame", response.data()).await;
        if reset {
            sending.send_reset(h2::Reason::CANCEL);
        } else {
            client.leave();
        }
        let (chunks, outcome) = within("the tap", seen).await.unwrap();
        assert_eq!(chunks, ["one", "two"]);
        assert_eq!(outcome, Some(Outcome::Cancelled));
    }
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
