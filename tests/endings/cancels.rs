//! Streams that are cancelled from another thread while their body is polled: the record counts what went on, and a
//! stream that was seen to end properly is not a cancelled one.

use std::hint::spin_loop;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use streaming_accumulator::meter::MeterSet;
use streaming_accumulator::{BodyError, Capture, Outcome, StreamHandle, StreamRecord};
use tower::ServiceExt;

use crate::support::*;

/// What a poller got of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Got {
    bytes: Vec<u8>,
    chunks: u64,
    frames: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Proper,
    Error,
}

/// The body that a server polls, watched.
struct Watched<B> {
    body: B,
    got: Arc<Mutex<Got>>,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let mut got = self.got.lock().unwrap();
        got.frame(&polled);
        if self.body.is_end_stream() && got.end.is_none() {
            got.end = Some(End::Proper);
        }
        drop(got);
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Got ===

impl Got {
    fn frame(&mut self, polled: &Option<Result<Frame<Bytes>, BodyError>>) {
        match polled {
            Some(Ok(frame)) => {
                self.frames += 1;
                match frame.data_ref() {
                    Some(data) => {
                        self.chunks += u64::from(!data.is_empty());
                        self.bytes.extend_from_slice(data);
                    }
                    None => self.end = Some(End::Proper),
                }
            }
            Some(Err(_)) => self.end = Some(End::Error),
            None => self.end = Some(End::Proper),
        }
    }

    /// The record says what was got.
    fn assert_is(&self, record: &StreamRecord, cancelled: bool) {
        let metrics = record.metrics();
        let outcome = record.outcome();
        assert_eq!(
            (metrics.bytes(), metrics.chunks(), metrics.frames()),
            (self.bytes.len() as u64, self.chunks, self.frames),
            "{:?}, {outcome}",
            self.end
        );
        assert!(record.content().to_bytes().unwrap() == self.bytes, "content is not what went on: {outcome}");
        match self.end {
            Some(End::Proper) => assert_eq!(outcome, &Outcome::Completed),
            Some(End::Error) => assert_ne!(outcome, &Outcome::Completed),
            None => {}
        }
        assert_eq!(cancelled, outcome == &Outcome::Cancelled, "what `cancel` returned, and {outcome}");
    }
}

/// A body whose frames differ from each other.
fn numbered(frames: usize) -> MockBody {
    let mut body = body([]);
    for number in 0..frames {
        body = body.data(format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{number}\"}}}}]}}\n\n"));
    }
    body
}

/// Waits a random time, most often a short one.
fn dawdle(rng: &mut Rng) {
    let most = 1 << rng.u32(0..13);
    for _ in 0..rng.u32(0..most) {
        spin_loop();
    }
}

/// Polls a body until it has ended, as hyper does: after a frame it asks whether that was the last, and after `length`
/// bytes it takes no more.
fn poll_to_end<B>(body: B, length: Option<u64>) -> Got
where
    B: Body<Data = Bytes, Error = BodyError>,
{
    let mut body = pin!(body);
    let mut got = Got::default();
    let waker = std::task::Waker::noop();
    while got.end.is_none() {
        let Poll::Ready(polled) = body.as_mut().poll_frame(&mut Context::from_waker(waker)) else {
            // Somebody decides at this moment.
            spin_loop();
            continue;
        };
        got.frame(&polled);
        let is_whole = length.is_some_and(|length| got.bytes.len() as u64 >= length);
        if got.end.is_none() && (is_whole || body.is_end_stream()) {
            got.end = Some(End::Proper);
        }
    }
    got
}

/// Runs `script` many times, by hand, and cancels it from another thread each time.
async fn race(recorder: fn() -> Recorder, runs: usize, length: Option<u64>, script: impl Fn() -> MockBody) {
    let mut rng = Rng::with_seed(0x5eed);
    for _ in 0..runs {
        let recorder = recorder();
        let mut response = Response::new(script());
        response.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
        let response = recorder.around(answers([response])).oneshot(Request::new(())).await.unwrap();
        let stream = response.extensions().get::<StreamHandle>().unwrap().clone();
        let body = response.into_body();
        let (go, mut fork) = (AtomicBool::new(false), rng.fork());
        let (got, cancelled) = std::thread::scope(|scope| {
            let canceller = scope.spawn(|| {
                while !go.load(SeqCst) {
                    spin_loop();
                }
                dawdle(&mut fork);
                stream.cancel()
            });
            go.store(true, SeqCst);
            let got = poll_to_end(body, length);
            (got, canceller.join().unwrap())
        });
        let record = recorder.only().await;
        got.assert_is(&record, cancelled);
    }
}

fn plain() -> Recorder {
    Recorder::with(|builder| builder.capture(Capture::all(64 << 20)))
}

fn metered() -> Recorder {
    Recorder::with(|builder| builder.capture(Capture::all(64 << 20)).meter(MeterSet::detect()))
}

const RUNS: usize = 300;

fn few(runs: usize) -> usize {
    rounds(runs, 20 * runs)
}

#[tokio::test]
async fn cancelled_endless_body_is_counted_exactly() {
    for recorder in [plain, metered] {
        race(recorder, few(RUNS), None, || numbered(3).endless(7)).await;
    }
}

#[tokio::test]
async fn late_cancel_does_not_undo_the_end() {
    for recorder in [plain, metered] {
        race(recorder, few(RUNS), None, || numbered(4)).await;
        race(recorder, few(RUNS), None, || numbered(1)).await;
    }
}

#[tokio::test]
async fn late_cancel_does_not_undo_the_hint() {
    for recorder in [plain, metered] {
        race(recorder, few(RUNS), None, || numbered(4).hint(true)).await;
        race(recorder, few(RUNS), None, || numbered(2).data("").hint(true)).await;
    }
}

#[tokio::test]
async fn late_cancel_does_not_undo_the_length() {
    let length = http_body::Body::size_hint(&numbered(4).exact()).exact();
    for recorder in [plain, metered] {
        race(recorder, few(RUNS), length, || numbered(4).exact()).await;
        race(recorder, few(RUNS), length, || numbered(4).exact().hint(true)).await;
    }
}

#[tokio::test]
async fn late_cancel_does_not_undo_trailers() {
    for recorder in [plain, metered] {
        race(recorder, few(RUNS), None, || numbered(3).trailers()).await;
    }
}

#[tokio::test]
async fn late_cancel_does_not_undo_the_protocols_end() {
    race(metered, few(RUNS), None, || numbered(2).data("data: [DONE]\n\n").data(": bye\n\n")).await;
}

#[tokio::test]
async fn cancelled_body_that_fails_is_never_complete() {
    for recorder in [plain, metered] {
        race(recorder, few(RUNS), None, || numbered(3).fails()).await;
    }
}

/// The same on a real server. What the server pulled is watched outside of the layer.
async fn race_on_a_server(options: Options, runs: usize, script: impl Fn() -> MockBody) {
    let mut rng = Rng::with_seed(0x5eed);
    for _ in 0..runs {
        let recorder = plain();
        let got = Arc::new(Mutex::new(Got::default()));
        let (sender, streams) = std::sync::mpsc::sync_channel::<StreamHandle>(1);
        let watching = Arc::clone(&got);
        let layered = recorder.around(answers([Response::new(script())]));
        let service = tower::service_fn(move |request: Request<Incoming>| {
            let (layered, sender, got) = (layered.clone(), sender.clone(), Arc::clone(&watching));
            async move {
                let response = layered.oneshot(request).await?;
                sender.send(response.extensions().get::<StreamHandle>().unwrap().clone()).unwrap();
                Ok::<_, server::BoxError>(response.map(|body| Watched { body, got }))
            }
        });
        let server = serve(options, service).await;
        let mut fork = rng.fork();
        let canceller = std::thread::spawn(move || {
            let stream = streams.recv().unwrap();
            for _ in 0..4 {
                dawdle(&mut fork);
            }
            stream.cancel()
        });
        let reply = if options.h2 {
            let mut client = H2Client::connect(server.addr).await;
            let reply = read_h2(client.get().0).await;
            client.leave();
            reply
        } else {
            let mut client = RawClient::get(server.addr).await;
            client.half_close().await;
            let clean = client.read_to_end().await;
            Reply::of_h1(&client, clean)
        };
        let cancelled = within("the canceller", tokio::task::spawn_blocking(|| canceller.join().unwrap()));
        let cancelled = cancelled.await.unwrap();
        let record = recorder.only().await;
        let mut got = got.lock().unwrap().clone();
        let whole = if options.h2 { !reply.broken } else { reply.text().ends_with("0\r\n\r\n") };
        // At the declared length hyper drops the body and asks nothing.
        if got.end.is_none() && record.declared_length() == Some(got.bytes.len() as u64) {
            got.end = Some(End::Proper);
        }
        got.assert_is(&record, cancelled);
        assert!(got.bytes.starts_with(&reply.body), "the client has nothing that was not pulled");
        if record.declared_length().is_none() {
            assert_eq!(whole, record.outcome() == &Outcome::Completed, "{reply:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancels_on_http11_are_counted_exactly() {
    let options = Options { half_close: true, ..Options::h1() };
    race_on_a_server(options, few(100), || numbered(200)).await;
    race_on_a_server(options, few(100), || numbered(2).yields().data("end")).await;
    race_on_a_server(options, few(100), || numbered(2).yields().data("end").hint(true)).await;
    race_on_a_server(options, few(100), || numbered(4).exact()).await;
    race_on_a_server(options, few(100), || numbered(3).endless(1000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancels_on_http2_are_counted_exactly() {
    race_on_a_server(Options::h2(), few(100), || numbered(20)).await;
    race_on_a_server(Options::h2(), few(100), || numbered(2).yields().data("end").hint(true)).await;
    race_on_a_server(Options::h2(), few(100), || numbered(3).endless(1000)).await;
}

#[tokio::test]
async fn on_chunk_that_cancels_withholds_nothing_uncounted() {
    for at in [1, 2, 3] {
        for script in [numbered(3), numbered(3).hint(true), numbered(3).exact(), numbered(3).endless(9)] {
            let recorder = Recorder::with(|builder| {
                builder.on_chunk(move |_, stream| {
                    if stream.metrics().chunks() + 1 == at {
                        assert!(stream.cancel());
                    }
                    std::ops::ControlFlow::Continue(())
                })
            });
            let service = recorder.around(answers([Response::new(script)]));
            let body = service.oneshot(Request::new(())).await.unwrap().into_body();
            let got = poll_to_end(body, None);
            assert_eq!((got.frames, got.end), (at - 1, Some(End::Error)));
            got.assert_is(&*recorder.only().await, true);
        }
    }
}

#[tokio::test]
async fn on_chunk_that_cancels_on_a_server() {
    use crate::support::exchange::{H2, H11};
    for proto in [H11, H2] {
        let recorder = Recorder::with(|builder| {
            builder.on_chunk(|_, stream| {
                if stream.metrics().chunks() == 2 {
                    stream.cancel();
                }
                std::ops::ControlFlow::Continue(())
            })
        });
        // A pause lets the server send what it has.
        let body = numbered(2).yields().yields().data("never");
        let (reply, record) = exchange(proto, body).run_through(recorder).await;
        assert_eq!(record.outcome(), &Outcome::Cancelled);
        assert_eq!((record.metrics().chunks(), record.metrics().frames()), (2, 2));
        let content = record.content().to_bytes().unwrap();
        assert_eq!(content.len() as u64, record.metrics().bytes());
        assert!(content.starts_with(&reply.body), "{reply:?}");
        assert!(!content.ends_with(b"never"));
    }
}
