//! What the server's side does to its streams.

use axum::Router;
use axum::routing::get;
use http::{Request, Response};
use http_body_util::BodyExt;
use streaming_accumulator::Evidence::{EndHint, EndOfBody};
use streaming_accumulator::Phase;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

use crate::support::client::read_h2;
use crate::support::*;

const HINTS: [(bool, streaming_accumulator::Evidence); 2] = [(false, EndOfBody), (true, EndHint)];

fn pending(gate: &Gate, hint: bool) -> MockBody {
    body(["hello"]).wait(gate).data("world").hint(hint)
}

#[tokio::test]
async fn graceful_shutdown_lets_a_stream_complete() {
    for (hint, evidence) in HINTS {
        for h2 in [false, true] {
            let (gate, recorder) = (Gate::new(), Recorder::new());
            let script = answers([Response::new(pending(&gate, hint))]);
            let server = serve(Options { h2, ..Options::default() }, recorder.around(script)).await;
            if h2 {
                let mut client = H2Client::connect(server.addr).await;
                let (response, _sending) = client.get();
                gate.reached().await;
                server.shut_down_gracefully();
                gate.open();
                assert_eq!(read_h2(response).await.body, "helloworld");
            } else {
                let mut client = RawClient::get(server.addr).await;
                gate.reached().await;
                server.shut_down_gracefully();
                gate.open();
                client.read_to_end().await;
                assert!(client.text().contains("world"));
            }
            server.all_closed().await;
            assert_eq!(recorder.account().await, completed(evidence, 10));
        }
    }
}

/// What axum's own server needs to serve one pending stream.
async fn axum_stream(gate: &Gate, hint: bool, recorder: &Recorder) -> (TcpListener, Router) {
    let gate = gate.clone();
    let route = get(move || async move { axum::body::Body::new(pending(&gate, hint)) });
    let router = Router::new().route("/", route).layer(recorder.layer());
    (TcpListener::bind("127.0.0.1:0").await.unwrap(), router)
}

#[tokio::test]
async fn graceful_shutdown_of_axum() {
    for (hint, evidence) in HINTS {
        let (gate, stop, recorder) = (Gate::new(), Gate::new(), Recorder::new());
        let (listener, router) = axum_stream(&gate, hint, &recorder).await;
        let addr = listener.local_addr().unwrap();
        let stopped = stop.clone();
        let serving =
            axum::serve(listener, router).with_graceful_shutdown(async move { stopped.passed().await });
        let serving = tokio::spawn(serving.into_future());
        let mut client = RawClient::get(addr).await;
        gate.reached().await;
        stop.open();
        gate.open();
        client.read_until("world").await;
        within("the server to stop", serving).await.unwrap().unwrap();
        assert_eq!(recorder.account().await, completed(evidence, 10));
    }
}

#[tokio::test]
async fn axum_server_aborted_mid_stream() {
    for (hint, evidence) in HINTS {
        let (gate, recorder) = (Gate::new(), Recorder::new());
        let (listener, router) = axum_stream(&gate, hint, &recorder).await;
        let addr = listener.local_addr().unwrap();
        let serving = tokio::spawn(axum::serve(listener, router).into_future());
        let mut client = RawClient::get(addr).await;
        gate.reached().await;
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
        // The connection is a task of its own and lives on.
        recorder.assert_open(1);
        gate.open();
        client.read_until("world").await;
        assert_eq!(recorder.account().await, completed(evidence, 10));
    }
}

/// Aborts the connection of a pending stream; a layer cannot tell this from a client that left.
async fn aborted(h2: bool) {
    for (hint, _) in HINTS {
        let (gate, recorder) = (Gate::new(), Recorder::new());
        let script = answers([Response::new(pending(&gate, hint))]);
        let server = serve(Options { h2, ..Options::default() }, recorder.around(script)).await;
        let h1_client = if h2 { None } else { Some(RawClient::get(server.addr).await) };
        let h2_client = if h2 {
            let mut client = H2Client::connect(server.addr).await;
            let stream = client.get();
            Some((client, stream))
        } else {
            None
        };
        gate.reached().await;
        recorder.assert_open(1);
        server.abort_connections();
        assert_eq!(recorder.account().await, cancelled(Phase::Body, 5));
        drop((h1_client, h2_client));
    }
}

#[tokio::test]
async fn connection_task_aborted() {
    aborted(false).await;
}

#[tokio::test]
async fn http2_connection_task_aborted() {
    aborted(true).await;
}

/// A stream that is pending on the runtime `server` when `end` ends it; the layer lives on this one.
async fn runtime_dies(h2: bool, server: Runtime, end: fn(Runtime)) {
    let (gate, recorder) = (Gate::new(), Recorder::new());
    let service = recorder.around(answers([Response::new(pending(&gate, true))]));
    let (tell, told) = tokio::sync::oneshot::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        server.block_on(async {
            let server = serve(Options { h2, ..Options::default() }, service).await;
            let _ = tell.send(server.addr);
            let _ = stopped.await;
            // Gone with its runtime, not before.
            std::mem::forget(server);
        });
        end(server);
    });
    let addr = within("the server", told).await.unwrap();
    let h1_client = if h2 { None } else { Some(RawClient::get(addr).await) };
    let h2_client = if h2 {
        let mut client = H2Client::connect(addr).await;
        let stream = client.get();
        Some((client, stream))
    } else {
        None
    };
    gate.reached().await;
    stop.send(()).unwrap();
    // Settled in the drop itself, delivered by the runtime that is alive.
    assert_eq!(recorder.account().await, cancelled(Phase::Body, 5));
    drop((h1_client, h2_client));
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap().unwrap();
}

#[tokio::test]
async fn servers_runtime_shut_down() {
    let ends: [fn(Runtime); 3] =
        [drop, Runtime::shutdown_background, |rt| rt.shutdown_timeout(std::time::Duration::from_secs(1))];
    for end in ends {
        for h2 in [false, true] {
            let multi = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime_dies(h2, multi, end).await;
            runtime_dies(h2, Builder::new_current_thread().enable_all().build().unwrap(), end).await;
        }
    }
}

#[test]
fn layers_own_runtime_shut_down() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (gate, recorder) = (Gate::new(), runtime.block_on(async { Recorder::new() }));
    let service = recorder.around(answers([Response::new(pending(&gate, true))]));
    runtime.block_on(async {
        let response = service.oneshot(Request::new(())).await.unwrap();
        tokio::spawn(response.into_body().collect());
        gate.reached().await;
    });
    drop(runtime);
    // Nobody is left to deliver it, and nothing is lost: it is settled and queued.
    let audit = recorder.handle().audit();
    assert_eq!((audit.in_flight(), audit.settled(), audit.cancelled()), (0, 1, 1));
    assert_eq!((audit.hooks()[0].queued(), audit.hooks()[0].delivered()), (1, 0));
    assert!(audit.is_balanced(), "{audit:?}");
}

#[tokio::test]
async fn body_dropped_on_a_plain_thread() {
    let (gate, recorder) = (Gate::new(), Recorder::new());
    let service = recorder.around(answers([Response::new(pending(&gate, true))]));
    let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    let dropped = std::thread::spawn(move || {
        assert!(tokio::runtime::Handle::try_current().is_err());
        drop(body);
    });
    dropped.join().unwrap();
    assert_eq!(recorder.account().await, cancelled(Phase::Body, 5));
}

/// A frame of HTTP/2 by hand: the client crate sends its GOAWAY only when no stream is open.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
}

#[tokio::test]
async fn client_sends_goaway_and_keeps_reading() {
    for (hint, evidence) in HINTS {
        let (gate, recorder) = (Gate::new(), Recorder::new());
        let script = answers([Response::new(pending(&gate, hint))]);
        let server = serve(Options::h2(), recorder.around(script)).await;
        let mut client = RawClient::connect(server.addr).await;
        client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        client.send(frame(4, 0, 0, &[])).await;
        // GET, http, /, and the authority `a`; END_HEADERS and END_STREAM.
        client.send(frame(1, 5, 1, &[0x82, 0x86, 0x84, 0x41, 1, b'a'])).await;
        client.read_until("hello").await;
        gate.reached().await;
        client.send(frame(7, 0, 0, &[0; 8])).await;
        // An answered ping: the server has seen the GOAWAY.
        client.send(frame(6, 0, 0, b"pingping")).await;
        client.read_until("pingping").await;
        gate.open();
        client.read_until("world").await;
        assert_eq!(recorder.account().await, completed(evidence, 10));
    }
}
