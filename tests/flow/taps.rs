//! Taps: what they see, of every capture, and what they are told that they missed.

use bytes::Bytes;
use futures_util::StreamExt;
use streaming_accumulator::{Capture, Outcome};

use crate::readers::{at_hand, chunk, chunks, numbers, rest, take};
use crate::support::{Recorder, within};

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
        assert_eq!(tap.lagged(), missed, "{capture:?}");
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
        assert_eq!(tap.lagged(), 0);
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
        assert_eq!(tap.lagged(), 0);
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
    assert_eq!(first.lagged(), 0);
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
        assert_eq!(tap.lagged(), 0);
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
        assert_eq!(
            within("the end", flow.handle.tap().lossless().collect::<Vec<_>>()).await.len(),
            seen.len()
        );
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
        assert_eq!(seen.len() as u64 + tap.lagged(), sent, "{capture:?}");
        assert_eq!(seen[seen.len() - 16..], (sent - 16..sent).collect::<Vec<_>>(), "{capture:?}");
        assert!(capture == Capture::all(1 << 20) || tap.lagged() > 0, "{capture:?} was to be tested");
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
    assert_eq!(tap.lagged(), 0);
    let next = numbers(&take(&mut tap, 1))[0];
    assert_eq!(tap.lagged(), next - 3);
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
        assert_eq!(tap.lagged(), next, "{capture:?}");
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
        assert_eq!(lag, at_hand(&mut tap).len() as u64 + tap.lagged(), "{capture:?}");
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
