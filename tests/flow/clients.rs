//! Readers beside streams of real clients: they slow them down, and see them leave.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use streaming_accumulator::BackpressureStrategy::Reject;
use streaming_accumulator::{BoxError, Outcome, StreamHandle, Tap};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::pressure::lag_and_limit;
use crate::readers::{MS, chunks, rest};
use crate::support::{
    Gate, H2Client, MockBody, Options, RawClient, Recorder, Reply, Server, answers, body, boxed, handler,
    read_h2, serve, within,
};

/// A server whose stream a slow reader taps; what it read.
async fn served(
    recorder: &Recorder,
    options: Options,
    sent: &[Bytes],
) -> (Server, oneshot::Receiver<Vec<Bytes>>) {
    let (done, read) = oneshot::channel();
    let done = Arc::new(Mutex::new(Some(done)));
    let script = sent.iter().fold(body([]), |body, chunk| body.data(chunk.clone()));
    let service = handler(move |request: Request<Incoming>| {
        let mut tap = request.extensions().get::<StreamHandle>().unwrap().tap().lossless();
        let done = done.lock().unwrap().take().unwrap();
        tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(chunk) = tap.recv().await {
                seen.push(chunk.bytes);
                tokio::time::sleep(2 * MS).await;
            }
            done.send(seen)
        });
        std::future::ready(Ok::<_, BoxError>(Response::new(boxed(script.clone()))))
    });
    (serve(options, recorder.around(service)).await, read)
}

#[tokio::test]
async fn slow_reader_slows_the_client_without_loss() {
    let sent = chunks(0..100);
    let whole = sent.concat();
    for options in [Options::h1(), Options::h2()] {
        let recorder = Recorder::with(|layer| layer.buffer_limit(10));
        let (server, read) = served(&recorder, options, &sent).await;
        let start = Instant::now();
        let reply = if options.h2 {
            let mut client = H2Client::connect(server.addr).await;
            let (response, _sending) = client.get();
            read_h2(response).await
        } else {
            let mut client = RawClient::connect(server.addr).await;
            client.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
            let clean = client.read_to_end().await;
            Reply::of_h1(&client, clean)
        };
        // Ninety of the chunks had to wait for the reader.
        assert!(start.elapsed() >= 90 * 2 * MS, "{:?}", start.elapsed());
        assert!(!reply.broken);
        assert!(reply.body == whole);
        assert!(within("the reader", read).await.unwrap() == sent);
        assert_eq!(recorder.only().await.outcome(), &Outcome::Completed);
    }
}

#[tokio::test]
async fn client_sees_a_rejected_stream_break_off() {
    for options in [Options::h1(), Options::h2()] {
        let recorder = Recorder::with(|layer| {
            layer.backpressure(Reject).buffer_limit(10).on_chunk(|_, stream| {
                // A reader that is never read from, for as long as the stream runs.
                if stream.metrics().chunks() == 0 {
                    std::mem::forget(stream.tap().lossless());
                }
                std::ops::ControlFlow::Continue(())
            })
        });
        let service = recorder.around(answers([Response::new(body([]).endless(100))]));
        let server = serve(options, service).await;
        let broken = if options.h2 {
            let mut client = H2Client::connect(server.addr).await;
            let (response, _sending) = client.get();
            read_h2(response).await.reset.is_some()
        } else {
            let mut client = RawClient::get(server.addr).await;
            client.read_to_end().await;
            !client.text().ends_with("0\r\n\r\n")
        };
        assert!(broken);
        let record = recorder.only().await;
        assert_eq!(lag_and_limit(record.outcome().error().unwrap()).1, 10);
    }
}

/// A server whose handler taps its stream, and what the tap will have seen.
async fn tapped(
    options: Options,
    body: MockBody,
) -> (Server, oneshot::Receiver<(Vec<Bytes>, Option<Outcome>)>) {
    let (seen, see) = oneshot::channel();
    let once = Arc::new(Mutex::new(Some((seen, body))));
    let service = handler(move |request: Request<Incoming>| {
        let (seen, body) = once.lock().unwrap().take().unwrap();
        let mut tap: Tap = request.extensions().get::<StreamHandle>().unwrap().tap().lossless();
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
