//! Time limits: each ends the stream as its own error, and nothing that keeps them is ended.

use std::convert::Infallible;
use std::future::{Pending, pending};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use streaming_accumulator::BackpressureStrategy::Block;
use streaming_accumulator::{Builder, EndedBy, Evidence, Outcome, Phase, StreamError};
use tokio::time::{Instant, sleep};
use tokio_test::task;
use tower::Service;

use crate::readers::{MS, chunk, chunks, rest, take};
use crate::support::{Flow, H2Client, Options, RawClient, Recorder, answers, body, serve, until, within};

const LIMIT: Duration = Duration::from_millis(320);

/// A limit, and the stream in a state in which only that limit can be met.
struct Case {
    name: &'static str,
    set: fn(Builder) -> Builder,
    error: fn(&StreamError) -> Option<Duration>,
    /// Whether the body is asked for a frame that does not come.
    pending: bool,
    chunks: u64,
}

const CASES: [Case; 4] = [
    Case {
        name: "first_chunk_timeout",
        set: |layer| layer.first_chunk_timeout(LIMIT),
        error: |error| match error {
            StreamError::FirstChunkTimeout { limit, .. } => Some(*limit),
            _ => None,
        },
        pending: true,
        chunks: 0,
    },
    Case {
        name: "idle_timeout",
        set: |layer| layer.idle_timeout(LIMIT),
        error: |error| match error {
            StreamError::IdleTimeout { limit, .. } => Some(*limit),
            _ => None,
        },
        pending: true,
        chunks: 3,
    },
    Case {
        name: "timeout",
        set: |layer| layer.total_timeout(LIMIT),
        error: |error| match error {
            StreamError::Timeout { limit, .. } => Some(*limit),
            _ => None,
        },
        pending: false,
        chunks: 3,
    },
    Case {
        name: "stalled_reader_timeout",
        set: |layer| layer.stalled_reader_timeout(LIMIT),
        error: |error| match error {
            StreamError::StalledReader { limit, .. } => Some(*limit),
            _ => None,
        },
        pending: false,
        chunks: 3,
    },
];

/// In time, and late by no more than is documented and what tokio's timer adds.
fn assert_in_time(elapsed: Duration, shortest: Duration, name: &str) {
    assert!((LIMIT..=LIMIT + shortest / 16 + 2 * MS).contains(&elapsed), "{name}: {elapsed:?}");
}

async fn assert_record(recorder: &Recorder, case: &Case, phase: Phase) {
    let record = recorder.only().await;
    let error = record.outcome().error().unwrap_or_else(|| panic!("{}: {record:?}", case.name));
    assert_eq!((case.error)(error), Some(LIMIT), "{}: {error}", case.name);
    assert_eq!(
        (record.ended_by(), record.evidence(), record.phase()),
        (EndedBy::Layer, Evidence::Limit, phase),
        "{}",
        case.name
    );
    assert_eq!(record.stop_reason(), None);
    assert_eq!(record.metrics().chunks(), case.chunks);
}

/// Brings a stream to where only `case` can end it.
async fn under(recorder: &Recorder, case: &Case) -> Flow {
    let mut flow = recorder.open().await;
    flow.pass(&chunks(0..case.chunks)).await;
    if case.pending {
        flow.assert_pending();
    }
    flow
}

#[tokio::test(start_paused = true)]
async fn limits_settle_a_stream_that_nobody_polls() {
    for case in &CASES {
        let recorder = Recorder::with(case.set);
        let start = Instant::now();
        let mut flow = under(&recorder, case).await;
        let token = flow.handle.cancellation_token();
        within(case.name, token.cancelled()).await;
        assert_in_time(start.elapsed(), LIMIT, case.name);
        assert_record(&recorder, case, Phase::Body).await;
        assert_eq!(recorder.audit().in_flight(), 0, "{}: before the body is polled or dropped", case.name);
        assert_eq!((case.error)(&flow.error().await), Some(LIMIT));
    }
}

#[tokio::test(start_paused = true)]
async fn each_limit_wakes_whoever_waits_for_a_frame() {
    for case in CASES.iter().filter(|case| case.pending) {
        let recorder = Recorder::with(case.set);
        let start = Instant::now();
        let mut flow = under(&recorder, case).await;
        let error = flow.error().await;
        assert_in_time(start.elapsed(), LIMIT, case.name);
        assert_eq!((case.error)(&error), Some(LIMIT), "{}: {error}", case.name);
        assert_record(&recorder, case, Phase::Body).await;
    }
}

#[tokio::test(start_paused = true)]
async fn limits_are_as_exact_as_the_shortest() {
    for case in &CASES {
        let recorder = Recorder::with(|layer| (case.set)(layer.first_chunk_timeout(LIMIT.min(64 * MS))));
        if case.chunks == 0 {
            continue;
        }
        let start = Instant::now();
        let flow = under(&recorder, case).await;
        within(case.name, flow.handle.cancellation_token().cancelled()).await;
        assert_in_time(start.elapsed(), 64 * MS, case.name);
    }
}

#[tokio::test(start_paused = true)]
async fn frame_limits_count_from_the_latest_frame() {
    for case in &CASES[1..] {
        let recorder = Recorder::with(case.set);
        let mut flow = recorder.open().await;
        let opened = Instant::now();
        let mut last = opened;
        for n in 0..3 {
            sleep(LIMIT / 4).await;
            flow.pass(&[chunk(n, 10)]).await;
            last = Instant::now();
        }
        if case.pending {
            flow.assert_pending();
        }
        within(case.name, flow.handle.cancellation_token().cancelled()).await;
        let since = if case.name == "timeout" { opened } else { last };
        assert_in_time(since.elapsed(), LIMIT, case.name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_stream_within_its_limits_completes() {
    let recorder = Recorder::with(|layer| {
        layer
            .first_chunk_timeout(LIMIT)
            .idle_timeout(LIMIT)
            .stalled_reader_timeout(LIMIT)
            .total_timeout(100 * LIMIT)
    });
    let mut flow = recorder.open().await;
    for n in 0..20 {
        // First the upstream is slow, then the reader.
        flow.assert_pending();
        sleep(LIMIT * 9 / 10).await;
        flow.pass(&[chunk(n, 10)]).await;
        sleep(LIMIT * 9 / 10).await;
    }
    flow.end().await;
    assert_eq!(recorder.only().await.outcome(), &Outcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_readers_is_neither_idle_nor_stalled() {
    for strategy in [Default::default(), Block(3_600_000 * MS)] {
        let recorder = Recorder::with(|layer| {
            layer.idle_timeout(LIMIT).stalled_reader_timeout(LIMIT).buffer_limit(4).backpressure(strategy)
        });
        let mut flow = recorder.open().await;
        let mut tap = flow.handle.tap().lossless();
        let mut seen = Vec::new();
        for n in 0..10 {
            flow.feed.push(chunk(n, 10));
            let mut pull = task::spawn(flow.pull());
            if n >= 4 {
                assert!(pull.poll().is_pending());
                sleep(20 * LIMIT).await;
                assert!(pull.poll().is_pending());
                seen.extend(take(&mut tap, 1));
            }
            assert_eq!(within("a chunk", pull).await.unwrap().unwrap(), chunk(n, 10));
        }
        let rest = tokio::spawn(async move { rest(&mut tap).await.len() });
        flow.end().await;
        assert_eq!(within("the tap", rest).await.unwrap() + seen.len(), 10);
        assert_eq!(recorder.only().await.outcome(), &Outcome::Completed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_paced_body_is_neither_idle_nor_stalled() {
    let recorder = Recorder::with(|layer| {
        layer.idle_timeout(LIMIT).stalled_reader_timeout(LIMIT).max_bytes_per_second(100)
    });
    let mut flow = recorder.open().await;
    flow.pass(&(0..10).map(|n| chunk(n, 100)).collect::<Vec<_>>()).await;
    flow.end().await;
    assert_eq!(recorder.only().await.outcome(), &Outcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_readers_still_meets_the_timeout() {
    let recorder = Recorder::with(|layer| layer.total_timeout(LIMIT).buffer_limit(4));
    let mut flow = recorder.open().await;
    let _unread = flow.handle.tap().lossless();
    let start = Instant::now();
    flow.pass(&chunks(0..4)).await;
    let error = flow.error().await;
    assert!(matches!(error, StreamError::Timeout { .. }), "{error}");
    assert_in_time(start.elapsed(), LIMIT, "timeout");
}

#[tokio::test(start_paused = true)]
async fn whole_declared_length_outweighs_a_limit() {
    for case in &CASES[2..] {
        let recorder = Recorder::with(case.set);
        let mut flow = recorder.open_declaring(20).await;
        let token = flow.handle.cancellation_token();
        flow.pass(&[chunk(0, 10), chunk(1, 10)]).await;
        sleep(10 * LIMIT).await;
        let record = recorder.only().await;
        assert_eq!(
            (record.outcome(), record.evidence()),
            (&Outcome::Completed, Evidence::Length),
            "{}",
            case.name
        );
        assert!(!token.is_cancelled());
        flow.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn missing_declared_bytes_fail_at_the_limit() {
    let recorder = Recorder::with(|layer| layer.stalled_reader_timeout(LIMIT));
    let mut flow = recorder.open_declaring(20).await;
    flow.pass(&[chunk(0, 10)]).await;
    sleep(2 * LIMIT).await;
    assert!(matches!(flow.error().await, StreamError::StalledReader { .. }));
}

type Never = Pending<Result<Response<Full<bytes::Bytes>>, Infallible>>;

/// A call of a service that does not answer.
fn call_in_vain(recorder: &Recorder) -> impl Future + use<> {
    recorder.around(tower::service_fn(|_: Request<()>| -> Never { pending() })).call(Request::new(()))
}

#[tokio::test(start_paused = true)]
async fn unanswered_call_meets_its_streams_limits() {
    for case in CASES.iter().filter(|case| case.name != "stalled_reader_timeout") {
        let recorder = Recorder::with(case.set);
        let start = Instant::now();
        let mut call = task::spawn(Box::pin(call_in_vain(&recorder)));
        assert!(call.poll().is_pending());
        let settled = || recorder.audit().failed() == 1;
        until(case.name, settled).await;
        assert_in_time(start.elapsed(), LIMIT, case.name);
        let case = Case { chunks: 0, ..*case };
        assert_record(&recorder, &case, Phase::BeforeHead).await;
    }
}

#[tokio::test(start_paused = true)]
async fn unanswered_call_is_not_a_stalled_reader() {
    let recorder = Recorder::with(|layer| layer.stalled_reader_timeout(LIMIT));
    let mut call = task::spawn(Box::pin(call_in_vain(&recorder)));
    assert!(call.poll().is_pending());
    sleep(10 * LIMIT).await;
    assert_eq!(recorder.audit().in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn thousand_streams_meet_their_limits_in_time() {
    let recorder = Recorder::with(|layer| layer.idle_timeout(LIMIT));
    let mut flows = Vec::new();
    for _ in 0..1_000 {
        let mut flow = recorder.open().await;
        flow.assert_pending();
        let (token, start) = (flow.handle.cancellation_token(), Instant::now());
        flows.push((
            flow,
            tokio::spawn(async move {
                token.cancelled().await;
                start.elapsed()
            }),
        ));
        sleep(MS).await;
    }
    for (_flow, elapsed) in flows {
        assert_in_time(within("a limit", elapsed).await.unwrap(), LIMIT, "idle_timeout");
    }
}

const SHORT: Duration = Duration::from_millis(300);

async fn assert_stalled(recorder: &Recorder, bytes: usize) {
    let record = recorder.only().await;
    assert!(
        matches!(record.outcome(), Outcome::Failed(StreamError::StalledReader { limit: SHORT, .. })),
        "{record:?}"
    );
    assert_eq!((record.ended_by(), record.evidence()), (EndedBy::Layer, Evidence::Limit));
    assert!(record.metrics().bytes() >= bytes as u64, "it ran before");
    assert!(record.metrics().elapsed() >= SHORT);
}

#[tokio::test]
async fn stalled_http1_client_is_found() {
    let recorder = Recorder::with(|layer| layer.stalled_reader_timeout(SHORT));
    let service = recorder.around(answers([Response::new(body([]).endless(64 * 1024))]));
    let server = serve(Options::h1(), service).await;
    let mut client = RawClient::connect_small(server.addr).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.read_until("\r\n\r\n").await;
    assert_stalled(&recorder, 64 * 1024).await;
    client.read_to_end().await;
    assert!(!client.received.ends_with(b"0\r\n\r\n"), "it is told that the body is not whole");
}

#[tokio::test]
async fn stalled_http2_client_is_found() {
    let recorder = Recorder::with(|layer| layer.stalled_reader_timeout(SHORT));
    let service = recorder.around(answers([Response::new(body([]).endless(16 * 1024))]));
    let server = serve(Options::h2(), service).await;
    let mut client = H2Client::connect(server.addr).await;
    let (response, _sending) = client.get();
    let mut unread = within("the head", response).await.unwrap().into_body();
    assert_stalled(&recorder, 64 * 1024).await;
    let reset = async {
        loop {
            match unread.data().await {
                Some(Ok(data)) => unread.flow_control().release_capacity(data.len()).unwrap(),
                end => break end,
            }
        }
    };
    assert!(within("the end", reset).await.unwrap().unwrap_err().is_reset());
}

#[tokio::test]
async fn slow_http1_client_is_not_stalled() {
    let recorder = Recorder::with(|layer| layer.stalled_reader_timeout(SHORT));
    let chunk = bytes::Bytes::from(vec![b'x'; 64 * 1024]);
    let script = (0..10).fold(body([]), |body, _| body.data(chunk.clone()).yields());
    let server = serve(Options::h1(), recorder.around(answers([Response::new(script)]))).await;
    let mut client = RawClient::get(server.addr).await;
    for part in 1..=10 {
        client.read_bytes(part * 60 * 1024).await;
        sleep(SHORT / 10).await;
    }
    assert_eq!(recorder.only().await.outcome(), &Outcome::Completed);
}
