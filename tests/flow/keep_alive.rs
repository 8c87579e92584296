//! Comments that keep a connection alive are no progress of server-sent events: where a meter reads them, the time
//! limits of a stream are met all the same.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use streaming_accumulator::meter::MeterSet;
use streaming_accumulator::{Builder, Outcome, StreamError};
use tokio::time::Instant;
use tower::ServiceExt;

use crate::readers::MS;
use crate::support::{Feed, MockBody, Recorder, next};

const LIMIT: Duration = Duration::from_secs(1);
const EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";

fn metered(configure: fn(Builder) -> Builder) -> Recorder {
    Recorder::with(|builder| configure(builder.meter(MeterSet::detect())))
}

/// What becomes of a stream into which `feed` is called every 100 ms: how it ended, and after how long.
async fn run(
    recorder: &Recorder,
    content_type: &'static str,
    feed: impl Fn(u64, &Feed),
) -> (Outcome, Duration) {
    let events = Feed::default();
    let body = events.body();
    let service = recorder.around(tower::service_fn(move |_: Request<()>| {
        let mut response = Response::new(body.clone());
        response.headers_mut().insert("content-type", content_type.parse().unwrap());
        std::future::ready(Ok::<Response<MockBody>, Infallible>(response))
    }));
    let start = Instant::now();
    let request = Request::post("/v1/chat/completions").body(()).unwrap();
    let mut body = service.oneshot(request).await.unwrap().into_body();
    let reading = async { while let Some(Ok(_)) = next(&mut body).await {} };
    let feeding = async {
        for tick in 0.. {
            tokio::time::sleep(100 * MS).await;
            feed(tick, &events);
        }
    };
    tokio::select! {
        () = reading => {}
        () = feeding => {}
    }
    let took = start.elapsed();
    drop(body);
    (recorder.only().await.outcome().clone(), took)
}

#[track_caller]
fn assert_met((outcome, took): (Outcome, Duration), kind: &str, from: Duration) {
    assert_eq!(outcome.error().map(StreamError::kind), Some(kind), "{outcome} after {took:?}");
    assert!((from..from + LIMIT / 4).contains(&took), "after {took:?}");
}

#[tokio::test(start_paused = true)]
async fn comments_are_not_a_first_chunk() {
    let recorder = metered(|builder| builder.first_chunk_timeout(LIMIT));
    let ended = run(&recorder, "text/event-stream", |_, feed| feed.push(":\n\n")).await;
    assert_met(ended, "first_chunk_timeout", LIMIT);
    // Pings with a name, as some providers send them, are comments of many bytes.
    let recorder = metered(|builder| builder.first_chunk_timeout(LIMIT));
    let ended =
        run(&recorder, "text/event-stream; charset=utf-8", |_, feed| feed.push(": keep-alive\n\n: ping\n\n"))
            .await;
    assert_met(ended, "first_chunk_timeout", LIMIT);
}

#[tokio::test(start_paused = true)]
async fn comments_do_not_end_a_lull() {
    let recorder = metered(|builder| builder.idle_timeout(LIMIT));
    let feed = |tick, feed: &Feed| feed.push(if tick < 5 { EVENT } else { ":\n\n" });
    assert_met(run(&recorder, "text/event-stream", feed).await, "idle_timeout", 500 * MS + LIMIT);
}

#[tokio::test(start_paused = true)]
async fn comments_cut_in_two_are_no_progress() {
    let recorder = metered(|builder| builder.idle_timeout(LIMIT));
    let feed = |tick: u64, feed: &Feed| match tick {
        0 => feed.push(EVENT),
        tick if tick % 2 == 1 => feed.push(": keep"),
        _ => feed.push("-alive\n\n"),
    };
    assert_met(run(&recorder, "text/event-stream", feed).await, "idle_timeout", 100 * MS + LIMIT);
}

#[tokio::test(start_paused = true)]
async fn event_that_trickles_in_is_not_idle() {
    let recorder = metered(|builder| builder.idle_timeout(LIMIT).first_chunk_timeout(LIMIT));
    // One event takes ten times the limit.
    let feed = |tick: u64, feed: &Feed| match tick {
        0 => feed.push("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\""),
        1..100 => feed.push("word "),
        100 => feed.push("\"}}]}\n\ndata: [DONE]\n\n"),
        101 => feed.end(),
        _ => {}
    };
    let (outcome, took) = run(&recorder, "text/event-stream", feed).await;
    assert_eq!(outcome, Outcome::Completed);
    assert!(took >= 10 * LIMIT);
}

#[tokio::test(start_paused = true)]
async fn events_between_comments_are_progress() {
    let recorder = metered(|builder| builder.idle_timeout(LIMIT).first_chunk_timeout(LIMIT));
    let feed = |tick: u64, feed: &Feed| match tick {
        50 => feed.end(),
        tick if tick % 8 == 7 => feed.push(EVENT),
        _ => feed.push(":\n\n"),
    };
    assert_eq!(run(&recorder, "text/event-stream", feed).await.0, Outcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn comments_are_chunks_where_nothing_is_metered() {
    let feed = |tick: u64, feed: &Feed| if tick < 50 { feed.push(":\n\n") } else { feed.end() };
    let limits = |builder: Builder| builder.first_chunk_timeout(LIMIT).idle_timeout(LIMIT);
    let recorder = Recorder::with(limits);
    assert_eq!(run(&recorder, "text/event-stream", feed).await.0, Outcome::Completed);
    // And where what comes is not made of events.
    let recorder = metered(|builder| builder.first_chunk_timeout(LIMIT).idle_timeout(LIMIT));
    let text = |tick: u64, feed: &Feed| if tick < 50 { feed.push(Bytes::from("{}\n")) } else { feed.end() };
    assert_eq!(run(&recorder, "application/x-ndjson", text).await.0, Outcome::Completed);
}
