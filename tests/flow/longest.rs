//! `Duration::MAX` wherever a duration is taken: "as long as it takes", and no overflow.

use std::future::ready;
use std::time::Duration;

use streaming_accumulator::BackpressureStrategy::{self, Adaptive, Block};
use streaming_accumulator::{
    Builder, ConfigError, ContentAccumulator, Outcome, RetryPolicy, StreamPipeline, StreamingAccumulatorLayer,
};
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready, task};

use crate::readers::{MS, chunk};
use crate::support::{Flow, Recorder, complete, open, settled, within};

const MAX: Duration = Duration::MAX;

/// Longer than any timer of these tests but one that never fires.
const DAY: Duration = Duration::from_secs(24 * 3600);

fn endless_strategies() -> [BackpressureStrategy; 4] {
    let adaptive = |initial_delay, max_delay, multiplier| Adaptive { initial_delay, max_delay, multiplier };
    [Block(MAX), adaptive(MAX, MAX, 1.0), adaptive(MS, MAX, f64::MAX), adaptive(MAX, MAX, f64::INFINITY)]
}

fn limited(strategy: BackpressureStrategy) -> Recorder {
    Recorder::with(|builder| builder.buffer_limit(3).high_water_mark(100).backpressure(strategy))
}

#[tokio::test(start_paused = true)]
async fn body_waits_for_ever_twice() {
    for strategy in endless_strategies() {
        let recorder = limited(strategy);
        let mut flow = recorder.open().await;
        let mut tap = flow.handle.tap().lossless();
        flow.pass(&[chunk(0, 4), chunk(1, 4), chunk(2, 4)]).await;
        for number in 3..5 {
            flow.feed.push(chunk(number, 4));
            let mut pulling = task::spawn(flow.pull());
            assert_pending!(pulling.poll(), "{strategy:?}");
            advance(DAY).await;
            assert_pending!(pulling.poll(), "{strategy:?}");
            assert_eq!(within("a chunk", tap.recv()).await.unwrap().bytes, chunk(number - 3, 4));
            assert!(pulling.is_woken());
            assert_eq!(assert_ready!(pulling.poll()).unwrap().unwrap(), chunk(number, 4));
        }
        drop(tap);
        flow.end().await;
        assert_eq!(recorder.only().await.outcome(), &Outcome::Completed);
    }
}

#[tokio::test(start_paused = true)]
async fn body_waits_for_ever_above_the_mark() {
    for strategy in &endless_strategies()[1..] {
        let recorder =
            Recorder::with(|builder| builder.buffer_limit(10).high_water_mark(20).backpressure(*strategy));
        let mut flow = recorder.open().await;
        let mut tap = flow.handle.tap().lossless();
        flow.pass(&[chunk(0, 4), chunk(1, 4)]).await;
        for number in 2..8 {
            flow.feed.push(chunk(number, 4));
            let mut pulling = task::spawn(flow.pull());
            while pulling.poll().is_pending() {
                within("a chunk", tap.recv()).await.unwrap();
            }
        }
        drop(tap);
        flow.end().await;
        recorder.only().await;
    }
}

#[tokio::test(start_paused = true)]
async fn producer_waits_for_ever_twice() {
    for strategy in endless_strategies() {
        let recorder = limited(strategy);
        let alone =
            StreamPipeline::builder().buffer_limit(3).high_water_mark(100).backpressure(strategy).build();
        let of_layer = StreamPipeline::builder().open(&recorder.handle(), ()).await.unwrap();
        for pipeline in [alone, of_layer] {
            let mut tap = pipeline.tap().lossless();
            for number in 0..3 {
                pipeline.push(chunk(number, 4)).await.unwrap();
            }
            for number in 3..5 {
                let mut pushing = task::spawn(pipeline.push(chunk(number, 4)));
                assert_pending!(pushing.poll(), "{strategy:?}");
                advance(DAY).await;
                assert_pending!(pushing.poll(), "{strategy:?}");
                assert_eq!(within("a chunk", tap.recv()).await.unwrap().bytes, chunk(number - 3, 4));
                assert!(pushing.is_woken());
                assert_eq!(assert_ready!(pushing.poll()), Ok(()));
            }
            assert!(pipeline.finish(Outcome::Completed));
        }
        recorder.only().await;
    }
}

#[tokio::test(start_paused = true)]
async fn endless_time_limits_are_never_met() {
    let limits: [fn(Builder) -> Builder; 5] = [
        |builder| builder.first_chunk_timeout(MAX),
        |builder| builder.idle_timeout(MAX),
        |builder| builder.total_timeout(MAX),
        |builder| builder.stalled_reader_timeout(MAX),
        |builder| {
            let builder = builder.first_chunk_timeout(MAX).idle_timeout(MAX);
            builder.total_timeout(MAX).stalled_reader_timeout(MAX)
        },
    ];
    for limit in limits {
        let recorder = Recorder::with(limit);
        let mut flow = recorder.open().await;
        tokio::time::sleep(DAY).await;
        flow.assert_pending();
        tokio::time::sleep(DAY).await;
        flow.pass(&[chunk(0, 4)]).await;
        tokio::time::sleep(DAY).await;
        recorder.assert_open(1);
        flow.end().await;
        assert_eq!(recorder.only().await.outcome(), &Outcome::Completed);
        assert!(recorder.handle().shutdown(MAX).await.is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn short_limit_beside_endless_ones_is_met() {
    let recorder = Recorder::with(|builder| {
        builder.first_chunk_timeout(MAX).idle_timeout(MS * 100).total_timeout(MAX).stalled_reader_timeout(MAX)
    });
    let mut flow = recorder.open().await;
    flow.assert_pending();
    let record = recorder.only().await;
    assert_eq!(record.outcome().error().unwrap().kind(), "idle_timeout");
}

#[tokio::test(start_paused = true)]
async fn hook_may_take_for_ever() {
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(|_| tokio::time::sleep(DAY))
        .hook_timeout(MAX)
        .build()
        .unwrap();
    complete(&layer).await;
    let start = Instant::now();
    let report = layer.handle().shutdown(MAX).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.delivered(), 1);
    assert!(start.elapsed() >= DAY);
}

#[tokio::test(start_paused = true)]
async fn hook_timeout_ends_a_shutdown_that_never_does() {
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(|_| tokio::time::sleep(DAY))
        .hook_timeout(MAX)
        .build()
        .unwrap();
    complete(&layer).await;
    // The deadline comes first, and then the hook has as long as it takes.
    let report = layer.handle().shutdown(Duration::from_secs(1)).await;
    assert_eq!((report.delivered(), report.left()), (1, 0), "{report}");
}

#[tokio::test(start_paused = true)]
async fn retry_delays_may_be_endless() {
    let endless = RetryPolicy::default().initial_delay(MAX).max_delay(MAX).max_attempts(u32::MAX);
    let growing = RetryPolicy::default().initial_delay(MS).max_delay(MAX).max_attempts(u32::MAX);
    for policy in [endless, growing] {
        let layer = StreamingAccumulatorLayer::builder()
            .on_end(|_| ready(Err::<(), _>("down")))
            .retry(policy)
            .build()
            .unwrap();
        complete(&layer).await;
        tokio::time::sleep(DAY).await;
        let report = layer.handle().shutdown(Duration::from_secs(1)).await;
        assert_eq!((report.dead_lettered(), report.left()), (1, 0), "{report}");
        let audit = layer.handle().audit();
        assert!(audit.is_balanced(), "{audit:?}");
    }
}

#[test]
fn delays_the_wrong_way_round_are_named() {
    let backpressure = Adaptive { initial_delay: MAX, max_delay: MS, multiplier: 2.0 };
    let error = StreamingAccumulatorLayer::builder().backpressure(backpressure).build().unwrap_err();
    assert!(matches!(error, ConfigError::BackpressureDelays { initial: MAX, .. }), "{error}");
    let error = StreamingAccumulatorLayer::builder().retry(RetryPolicy::default().initial_delay(MAX)).build();
    assert!(matches!(error, Err(ConfigError::RetryDelays { initial: MAX, .. })), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn endless_shutdown_waits_for_the_last_stream() {
    let layer = StreamingAccumulatorLayer::builder().on_end(|_| ready(())).build().unwrap();
    let Flow { feed, mut body, handle: _handle } = open(&layer).await;
    let handle = layer.handle();
    let mut shutdown = task::spawn(handle.shutdown(MAX));
    assert_pending!(shutdown.poll());
    advance(DAY).await;
    assert_pending!(shutdown.poll());
    feed.end();
    assert!(crate::support::next(&mut body).await.is_none());
    settled(&handle).await;
    let report = assert_ready!(shutdown.poll());
    assert!(report.is_clean() && report.delivered() == 1, "{report}");
}

#[test]
fn chunk_may_arrive_at_the_end_of_time() {
    let accumulator = ContentAccumulator::new(100);
    for arrival in [Duration::ZERO, MS, MAX, MAX - Duration::from_nanos(1)] {
        accumulator.append_at(chunk(0, 4), arrival).unwrap();
    }
    let content = accumulator.snapshot();
    assert_eq!(content.len(), 16);
    assert_eq!(content.to_bytes().unwrap().len(), 16);
}
