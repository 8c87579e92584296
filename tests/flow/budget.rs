//! One bound for the memory of all streams: what they give up as it fills, and what never.

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use streaming_accumulator::{Capture, MemoryBudget, Outcome, Tap, WhenFull};
use tokio_test::task;
use tower::{Service, ServiceExt};

use crate::readers::{at_hand, chunk, chunks, numbers, rest};
use crate::support::{Flow, Recorder, within};

const KIB: u64 = 1024;
const LIMIT: u64 = 1024 * KIB;

/// A layer with a budget of its own, and plenty of room in each capture.
fn bounded(budget: &MemoryBudget) -> Recorder {
    Recorder::with(|layer| layer.capture(Capture::all(1 << 30)).memory_budget(budget))
}

/// A stream of which a tap that nobody reads holds so much that new calls are no longer admitted.
async fn filled(recorder: &Recorder, budget: &MemoryBudget) -> (Flow, Tap) {
    let mut flow = recorder.open().await;
    let dead = flow.handle.tap();
    let mut sent = 0;
    while budget.used() <= LIMIT / 20 * 19 {
        assert!(sent < LIMIT / (8 * KIB), "{budget:?}");
        flow.pass(&[chunk(sent, 8 * 1024)]).await;
        sent += 1;
    }
    (flow, dead)
}

type Answer = Result<Response<Full<Bytes>>, std::convert::Infallible>;

async fn answer(_: Request<()>) -> Answer {
    Ok(Response::new(Full::from("hello")))
}

#[tokio::test(start_paused = true)]
async fn head_stops_at_three_quarters_before_a_tail() {
    let budget = MemoryBudget::new(LIMIT as usize);
    let recorder = bounded(&budget);
    let mut flow = recorder.open().await;
    let sent: Vec<_> = (0..2_000).map(|n| chunk(n, 1000)).collect();
    flow.pass(&sent).await;
    assert!(budget.used() <= LIMIT / 10 * 9, "{budget:?}");
    flow.end().await;
    let content = recorder.only().await.content().clone();
    assert!(content.is_truncated());
    let kept = numbers(
        &content.chunks().map(Result::unwrap).filter(|chunk| chunk.contains(&b':')).collect::<Vec<_>>(),
    );
    let head = kept.windows(2).take_while(|pair| pair[0] + 1 == pair[1]).count() as u64 + 1;
    assert!((550..=768).contains(&head), "{head} chunks of 1,000 bytes are some three quarters");
    assert_eq!(kept.last(), Some(&1_999));
    let tail = content.len() as u64 - head * 1000;
    assert_eq!(tail, 16 * KIB);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_captured_beyond_nine_tenths() {
    let budget = MemoryBudget::new(LIMIT as usize);
    let (full, recorder) = (bounded(&budget), bounded(&budget));
    let held = filled(&full, &budget).await;
    // Admitted all the same: the mark is looked at when the call comes.
    let waits = budget.used();
    drop(held.1);
    let mut body = held.0;
    body.pass(&chunks(0..1)).await;
    assert!(budget.used() < waits);
    let mut flow = recorder.open().await;
    let _again = filled(&full, &budget).await;
    flow.pass(&chunks(0..50)).await;
    flow.end().await;
    let record = recorder.only().await;
    assert_eq!((record.outcome(), record.content().len()), (&Outcome::Completed, 0));
    assert!(record.content().is_truncated());
    let sent = chunks(0..50);
    assert_eq!(record.metrics().chunks(), 50);
    assert_eq!(record.metrics().bytes(), sent.concat().len() as u64);
}

#[tokio::test(start_paused = true)]
async fn budget_is_never_exceeded_and_given_back() {
    for capture in [
        Capture::all(1 << 30),
        Capture::tail(300 * 1024),
        Capture::head_tail(200 * 1024, 200 * 1024),
        Capture::none(),
    ] {
        let budget = MemoryBudget::new(LIMIT as usize);
        let recorder = Recorder::with(|layer| layer.capture(capture).memory_budget(&budget).buffer_limit(64));
        let mut flows = Vec::new();
        for n in 0..20 {
            let flow = recorder.open().await;
            let tap = (n % 2 == 0).then(|| flow.handle.tap());
            flows.push((flow, tap));
        }
        for n in 0..300 {
            for (i, (flow, tap)) in flows.iter_mut().enumerate() {
                flow.pass(&[chunk(n, if i % 3 == 0 { 5_000 } else { 500 })]).await;
                if i % 4 == 0
                    && let Some(tap) = tap
                {
                    at_hand(tap);
                }
                assert!(budget.used() <= LIMIT, "{capture:?} {budget:?}");
            }
        }
        assert!(budget.peak() <= LIMIT && budget.peak() > LIMIT / 3, "{capture:?} {budget:?}");
        for (mut flow, tap) in flows {
            flow.end().await;
            drop((flow, tap));
        }
        let records = recorder.all(20).await;
        assert!(records.iter().all(|record| record.metrics().chunks() == 300));
        drop(records);
        recorder.records().take();
        tokio::task::yield_now().await;
        assert_eq!(budget.used(), 0, "{capture:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn greedy_stream_takes_nothing_from_the_others() {
    let budget = MemoryBudget::new(8 << 20);
    let recorder = bounded(&budget);
    let mut greedy = recorder.open().await;
    greedy.pass(&(0..4_000).map(|n| chunk(n, 4 * 1024)).collect::<Vec<_>>()).await;
    assert!(budget.used() > (8 << 20) / 10 * 7);
    let mut others = Vec::new();
    for _ in 0..100 {
        others.push(recorder.open().await);
    }
    let sent: Vec<_> = (0..20).map(|n| chunk(n, 100)).collect();
    for n in 0..sent.len() {
        greedy.pass(&[chunk(4_000 + n as u64, 4 * 1024)]).await;
        // `pass` sees that the client gets every byte.
        join_all(others.iter_mut().map(|flow| flow.pass(&sent[n..n + 1]))).await;
    }
    for mut flow in others {
        flow.end().await;
    }
    for record in recorder.first(100).await {
        assert!(!record.content().is_truncated(), "{budget:?}");
        assert_eq!(record.content().to_bytes().unwrap(), sent.concat());
    }
    assert!(budget.peak() <= 8 << 20);
}

#[tokio::test(start_paused = true)]
async fn without_room_a_call_can_be_rejected() {
    let budget = MemoryBudget::new(LIMIT as usize);
    let recorder = Recorder::with(|layer| {
        layer.capture(Capture::none()).memory_budget(&budget).when_full(WhenFull::Reject)
    });
    let (flow, dead) = filled(&recorder, &budget).await;
    let mut service = recorder.around(tower::service_fn(answer));
    let response = service.call(Request::new(())).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    drop((flow, dead));
    recorder.all(1).await;
    recorder.records().take();
    tokio::task::yield_now().await;
    assert_eq!(service.call(Request::new(())).await.unwrap().status(), StatusCode::OK);
    let audit = recorder.audit();
    assert_eq!((audit.rejected(), audit.opened()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn without_room_a_call_waits_until_there_is() {
    let budget = MemoryBudget::new(LIMIT as usize);
    let recorder = Recorder::with(|layer| layer.capture(Capture::none()).memory_budget(&budget));
    let (mut flow, dead) = filled(&recorder, &budget).await;
    let service = recorder.around(tower::service_fn(answer));
    let mut calls: Vec<_> = (0..3).map(|_| task::spawn(service.clone().oneshot(Request::new(())))).collect();
    assert!(calls.iter_mut().all(|call| call.poll().is_pending()));
    assert_eq!(recorder.audit().opened(), 1, "they are no streams yet");
    drop(dead);
    flow.pass(&chunks(0..1)).await;
    assert_eq!(budget.used(), 0);
    for mut call in calls {
        assert!(call.is_woken());
        let std::task::Poll::Ready(response) = call.poll() else { panic!("there is room") };
        assert_eq!(response.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_rejects_a_call_waiting_for_room() {
    let budget = MemoryBudget::new(LIMIT as usize);
    let recorder = Recorder::with(|layer| layer.capture(Capture::none()).memory_budget(&budget));
    let _held = filled(&recorder, &budget).await;
    let service = recorder.around(tower::service_fn(answer));
    let mut call = task::spawn(service.oneshot(Request::new(())));
    assert!(call.poll().is_pending());
    let handle = recorder.handle();
    let shutdown = tokio::spawn(async move { handle.shutdown(std::time::Duration::from_secs(1)).await });
    let response = within("an answer", call).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    within("the shutdown", shutdown).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn two_layers_share_one_budget() {
    let budget = MemoryBudget::new(LIMIT as usize);
    let (chat, files) = (bounded(&budget), bounded(&budget));
    let (mut first, mut second) = (chat.open().await, files.open().await);
    first.pass(&(0..100).map(|n| chunk(n, 4096)).collect::<Vec<_>>()).await;
    let one = budget.used();
    second.pass(&(0..100).map(|n| chunk(n, 4096)).collect::<Vec<_>>()).await;
    assert!(one > 400 * KIB && budget.used() > one);
    for audit in [chat.audit(), files.audit()] {
        assert_eq!(
            (audit.memory_used(), audit.memory_peak(), audit.memory_limit()),
            (budget.used(), budget.peak(), Some(LIMIT))
        );
    }
    second.end().await;
    assert!(files.only().await.content().is_truncated(), "the other had taken the room");
    assert!(budget.peak() <= LIMIT / 10 * 9);
}

#[tokio::test(start_paused = true)]
async fn record_holds_its_memory_until_dropped() {
    let budget = MemoryBudget::new(LIMIT as usize);
    let recorder = bounded(&budget);
    let mut flow = recorder.open().await;
    flow.pass(&chunks(0..100)).await;
    flow.end().await;
    drop(flow);
    let record = recorder.only().await;
    assert!(budget.used() > 10 * KIB);
    let content = record.content().clone();
    drop(record);
    recorder.records().take();
    tokio::task::yield_now().await;
    assert!(budget.used() > 10 * KIB, "the content is still held");
    assert_eq!(content.to_bytes().unwrap(), chunks(0..100).concat());
    drop(content);
    assert_eq!(budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn taps_without_room_count_what_they_miss() {
    let budget = MemoryBudget::new(LIMIT as usize);
    let recorder = Recorder::with(|layer| layer.capture(Capture::none()).memory_budget(&budget));
    let mut flow = recorder.open().await;
    let mut tap = flow.handle.tap();
    let sent: Vec<_> = (0..100).map(|n| chunk(n, 64 * 1024)).collect();
    flow.pass(&sent[..10]).await;
    let mut seen = numbers(&at_hand(&mut tap));
    flow.pass(&sent[10..]).await;
    flow.end().await;
    seen.extend(numbers(&rest(&mut tap).await));
    assert!(seen.is_sorted());
    assert_eq!(seen.len() as u64 + tap.lagged(), 100);
    assert!(tap.lagged() > 0);
}

/// The last chunks do not fit: nothing comes behind the gap that would tell.
#[tokio::test(start_paused = true)]
async fn tap_is_told_of_trailing_missed_chunks() {
    let budget = MemoryBudget::new(64 * 1024);
    let recorder = Recorder::with(|layer| layer.capture(Capture::none()).memory_budget(&budget));
    let mut flow = recorder.open().await;
    let mut tap = flow.handle.tap();
    flow.pass(&chunks(0..3)).await;
    flow.pass(&[chunk(3, 100 * 1024), chunk(4, 100 * 1024)]).await;
    flow.end().await;
    let seen = rest(&mut tap).await.len() as u64;
    assert_eq!(seen + tap.lagged(), 5);
}

/// What cannot be kept for a reader cannot be waited for either.
#[tokio::test(start_paused = true)]
async fn chunks_without_room_hold_no_stream() {
    let budget = MemoryBudget::new(64 * 1024);
    let recorder =
        Recorder::with(|layer| layer.capture(Capture::none()).memory_budget(&budget).buffer_limit(4));
    let mut flow = recorder.open().await;
    let mut tap = flow.handle.tap().lossless();
    let reader = tokio::spawn(async move {
        let seen = rest(&mut tap).await.len() as u64;
        (seen, tap.lagged())
    });
    for n in 0..20 {
        flow.pass(&[chunk(n, 100 * 1024)]).await;
        tokio::task::yield_now().await;
    }
    flow.pass(&chunks(20..25)).await;
    flow.end().await;
    let (seen, missed) = within("the tap", reader).await.unwrap();
    assert_eq!((seen + missed, missed), (25, 20));
}
