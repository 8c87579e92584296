//! Time limits of streams of server-sent events: a meter tells events from comments that keep a connection alive.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use streaming_accumulator::meter::MeterSet;
use streaming_accumulator::{AccumulatorBody, Builder, Outcome, StreamError};
use tokio::time::sleep;
use tower::ServiceExt;

use super::lines::lines;
use crate::support::*;

const LIMIT: Duration = Duration::from_millis(320);

/// Shorter than the limit: one piece comes in each.
const STEP: Duration = Duration::from_millis(100);

const EVENT: &str = "data: {\"id\":\"a\",\"object\":\"chat.completion.chunk\",\"choices\":[]}\n\n";

/// A stream of server-sent events that the test feeds.
struct Events {
    recorder: Recorder,
    feed: Feed,
    body: AccumulatorBody<MockBody>,
}

// === impl Events ===

impl Events {
    async fn open(configure: fn(Builder) -> Builder, meters: Option<MeterSet>) -> Self {
        let recorder = Recorder::with(|builder| match meters {
            Some(meters) => configure(builder.meter(meters)),
            None => configure(builder),
        });
        let feed = Feed::default();
        let response =
            Response::builder().header("content-type", "text/event-stream").body(feed.body()).unwrap();
        let service = recorder.around(answers([response]));
        let body = service.oneshot(Request::new(())).await.unwrap().into_body();
        Self { recorder, feed, body }
    }

    /// Feeds a piece every step while the body is polled; false if the stream ended meanwhile.
    async fn feed(&mut self, pieces: &[&str]) -> bool {
        for piece in pieces {
            self.feed.push((*piece).to_owned());
            let poll = async {
                while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await {}
            };
            if tokio::time::timeout(STEP, poll).await.is_ok() {
                return false;
            }
        }
        true
    }

    async fn outcome(&self) -> Outcome {
        self.recorder.only().await.outcome().clone()
    }
}

/// Comments, whole and in pieces.
const COMMENTS: [&[&str]; 3] = [&[": ping\n\n"], &[": pi", "ng\n\n"], &[":", "\n", "\n"]];

/// A time limit, and its error.
type Limited = (fn(Builder) -> Builder, fn(&StreamError) -> bool);

const FIRST: Limited = (
    |builder| builder.first_chunk_timeout(LIMIT),
    |error| matches!(error, StreamError::FirstChunkTimeout { .. }),
);

const IDLE: Limited =
    (|builder| builder.idle_timeout(LIMIT), |error| matches!(error, StreamError::IdleTimeout { .. }));

#[tokio::test(start_paused = true)]
async fn comments_do_not_hold_off_the_limits() {
    for (limited, comments) in [(FIRST, &COMMENTS[..1]), (IDLE, &COMMENTS)] {
        for comment in comments {
            let mut events = Events::open(limited.0, Some(MeterSet::detect())).await;
            assert!(!events.feed(&comment.repeat(10)).await, "{comment:?}");
            let outcome = events.outcome().await;
            assert!(outcome.error().is_some_and(limited.1), "{comment:?}: {outcome:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn comment_in_pieces_is_no_first_event() {
    for comment in COMMENTS {
        let mut events = Events::open(FIRST.0, Some(MeterSet::detect())).await;
        assert!(!events.feed(&comment.repeat(10)).await, "{comment:?}");
        let outcome = events.outcome().await;
        assert!(outcome.error().is_some_and(FIRST.1), "{comment:?}: {outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn comments_after_an_event_are_idle_time() {
    for comment in COMMENTS {
        let mut events = Events::open(IDLE.0, Some(MeterSet::detect())).await;
        assert!(events.feed(&[EVENT; 10]).await);
        assert!(!events.feed(&comment.repeat(10)).await, "{comment:?}");
        let outcome = events.outcome().await;
        assert!(outcome.error().is_some_and(IDLE.1), "{comment:?}: {outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_meter_comments_count() {
    for (configure, _) in [FIRST, IDLE] {
        for meters in [None, Some(MeterSet::none())] {
            let mut events = Events::open(configure, meters).await;
            assert!(events.feed(&[": ping\n\n"; 10]).await);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn events_hold_off_the_limits() {
    for (configure, _) in [FIRST, IDLE] {
        let mut events = Events::open(configure, Some(MeterSet::detect())).await;
        assert!(events.feed(&[": ping\n\n", EVENT, EVENT, ": ping\n\n", EVENT, EVENT]).await);
        events.feed.end();
        sleep(STEP).await;
        let poll = poll_fn(|cx| Pin::new(&mut events.body).poll_frame(cx));
        assert!(within("the end", poll).await.is_none());
        assert_eq!(events.outcome().await, Outcome::Completed);
    }
}

#[tokio::test(start_paused = true)]
async fn slow_event_holds_off_the_idle_limit() {
    let mut events = Events::open(IDLE.0, Some(MeterSet::detect())).await;
    assert!(events.feed(&["data: {\"text\":\""]).await);
    assert!(events.feed(&["some text "; 400]).await);
}

#[tokio::test(start_paused = true)]
async fn meter_that_tells_no_events_is_not_idle() {
    for (configure, _) in [FIRST, IDLE] {
        let mut events = Events::open(configure, Some(lines())).await;
        assert!(events.feed(&["one\n"; 10]).await);
    }
}
