//! `max_bytes_per_second`.

use std::time::Duration;

use tokio::time::Instant;

use crate::readers::{MS, chunk, timed};
use crate::support::Recorder;

fn paced(bytes: u64) -> Recorder {
    Recorder::with(|layer| layer.max_bytes_per_second(bytes))
}

fn assert_about(elapsed: Duration, expected: Duration) {
    let off = elapsed.as_secs_f64() / expected.as_secs_f64();
    assert!((0.98..=1.02).contains(&off), "{elapsed:?} instead of {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_takes_its_bytes_at_the_rate() {
    // From many chunks a millisecond to one in many.
    for (len, count, rate) in [
        (100, 20_000, 1_000_000),
        (64 * 1024, 32, 1_048_576),
        (64 * 1024, 320, 104_857_600),
        (1000, 300, 100_000),
    ] {
        let recorder = paced(rate);
        let mut flow = recorder.open().await;
        let start = Instant::now();
        flow.pass(&(0..count).map(|n| chunk(n, len)).collect::<Vec<_>>()).await;
        flow.end().await;
        assert_about(start.elapsed(), Duration::from_secs_f64((count * len as u64) as f64 / rate as f64));
    }
}

#[tokio::test(start_paused = true)]
async fn each_chunk_is_delayed_by_the_last() {
    let recorder = paced(1_000);
    let mut flow = recorder.open().await;
    assert_eq!(timed(&mut flow).await, Duration::ZERO);
    flow.pass(&[chunk(1, 500)]).await;
    let start = Instant::now();
    flow.pass(&[chunk(2, 20)]).await;
    assert!((499 * MS..=501 * MS).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn no_burst_follows_a_pause() {
    let recorder = paced(10_000);
    let mut flow = recorder.open().await;
    flow.pass(&[chunk(0, 100)]).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let start = Instant::now();
    flow.pass(&(0..100).map(|n| chunk(n, 100)).collect::<Vec<_>>()).await;
    // The last one is not waited for, and 10 ms are the burst that is allowed.
    assert!(start.elapsed() >= 970 * MS, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn each_stream_has_a_pace_of_its_own() {
    let recorder = paced(10_000);
    let start = Instant::now();
    let run = async || {
        let mut flow = recorder.open().await;
        flow.pass(&(0..100).map(|n| chunk(n, 100)).collect::<Vec<_>>()).await;
        flow.end().await;
    };
    tokio::join!(run(), run(), run());
    assert_about(start.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_limit_is_not_delayed() {
    let recorder = Recorder::with(|layer| layer);
    let mut flow = recorder.open().await;
    let start = Instant::now();
    flow.pass(&(0..1_000).map(|n| chunk(n, 1_000)).collect::<Vec<_>>()).await;
    assert!(start.elapsed().is_zero());
}
