//! Streams that are stopped by one thread while another one feeds their meters.

use std::pin::Pin;
use std::sync::Barrier;
use std::task::{Context, Poll, Waker};
use std::thread;

use http::{Request, Response};
use http_body::Body;
use streaming_accumulator::meter::UsageBasis;
use streaming_accumulator::{AccumulatorBody, Outcome, StreamError, StreamHandle};
use tower::ServiceExt;

use super::lines::{metered, report, tokens};
use crate::support::*;

const STREAMS: u64 = 3_000;

/// Frames of which each holds two tokens.
const FRAMES: usize = 40;

type Layered = Pin<Box<AccumulatorBody<MockBody>>>;

/// How a stream ends, if nobody stops it.
fn script(stream: u64) -> MockBody {
    let body = (0..FRAMES).fold(body([]), |body, _| body.data("a\nb\n"));
    match stream % 3 {
        0 => body,
        1 => body.data("end\n").wait(&Gate::new()),
        _ => body.data("error\n").wait(&Gate::new()),
    }
}

/// Polls to the end, or until there is nothing.
fn poll_on(mut body: Layered) {
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(Ok(_))) = body.as_mut().poll_frame(&mut cx) {}
}

/// Stops the stream once it has come so far; whether that was in time.
fn stop_at(stream: &StreamHandle, frames: u64) -> bool {
    while stream.metrics().frames() < frames {
        thread::yield_now();
    }
    stream.cancel()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_amidst_a_feed_leaves_one_consistent_record() {
    let recorder = metered();
    let mut rng = fastrand::Rng::with_seed(4);
    let mut stopped = 0;
    for n in 0..STREAMS {
        let service = recorder.around(answers([Response::new(script(n))]));
        let body = Box::pin(service.oneshot(Request::new(())).await.unwrap().into_body());
        let stream = recorder.handle().streams().remove(0);
        let at = rng.u64(..=FRAMES as u64);
        let start = Barrier::new(2);
        let in_time = thread::scope(|scope| {
            let stop = scope.spawn(|| {
                start.wait();
                stop_at(&stream, at)
            });
            start.wait();
            poll_on(body);
            stop.join().unwrap()
        });
        stopped += u64::from(in_time);
    }
    let mut kinds = [0_u64; 3];
    for record in recorder.all(STREAMS).await {
        let (report, metrics) = (report(&record), record.metrics());
        let has_error = matches!(record.outcome(), Outcome::Failed(StreamError::InBand { .. }));
        assert_eq!(has_error, report.error.is_some(), "{record:?}");
        if report.terminated == Some(true) {
            assert_eq!(record.outcome(), &Outcome::Completed, "{record:?}");
        }
        kinds[match record.outcome() {
            Outcome::Completed => 0,
            Outcome::Cancelled => 1,
            _ => 2,
        }] += 1;
        // A chunk that is counted may not be metered yet, and no other way round: it is metered last.
        let (metered, basis) = tokens(&record);
        let metered = metered.unwrap_or(0);
        assert!(metered <= 2 * metrics.chunks() && metered % 2 == 0, "{metered} {record:?}");
        assert!(basis != UsageBasis::Reported || record.outcome() == &Outcome::Completed);
    }
    assert!(stopped > 0 && kinds.iter().all(|times| *times > 0), "{stopped} stopped, {kinds:?}");
}
