//! The client leaves before the body starts.

use std::sync::mpsc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use streaming_accumulator::Evidence::EndOfBody;
use streaming_accumulator::Phase::{BeforeBody, BeforeHead};
use tokio::net::TcpListener;
use tower::{Layer, Service, ServiceExt};
use tower_http::timeout::TimeoutLayer;

use crate::support::*;

/// A handler that waits at the gate with the request in its hands, then answers.
macro_rules! stuck {
    ($gate:expr) => {{
        let gate = $gate.clone();
        handler(move |request: Request<Incoming>| {
            let gate = gate.clone();
            async move {
                gate.passed().await;
                drop(request);
                Ok(Response::new(boxed(body(["hello"]))))
            }
        })
    }};
}

#[tokio::test]
async fn client_leaves_while_the_handler_runs() {
    for rst in [false, true] {
        let (gate, recorder) = (Gate::new(), Recorder::new());
        let server = serve(Options::h1(), recorder.around(stuck!(gate))).await;
        let client = RawClient::get(server.addr).await;
        gate.reached().await;
        recorder.assert_open(1);
        client.leave(rst).await;
        let record = recorder.only().await;
        assert_eq!(Account::of(&record), cancelled(BeforeHead, 0));
        assert_eq!(record.status(), None);
    }
}

#[tokio::test]
async fn http2_client_leaves_while_the_handler_runs() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Leaves {
        Reset,
        Fin,
        Rst,
        Aborted,
    }
    for leaves in [Leaves::Reset, Leaves::Fin, Leaves::Rst, Leaves::Aborted] {
        let (gate, recorder) = (Gate::new(), Recorder::new());
        let server = serve(Options::h2(), recorder.around(stuck!(gate))).await;
        let mut client = if leaves == Leaves::Rst {
            H2Client::connect_abrupt(server.addr).await
        } else {
            H2Client::connect(server.addr).await
        };
        let (_response, mut sending) = client.get();
        gate.reached().await;
        match leaves {
            Leaves::Reset => sending.send_reset(h2::Reason::CANCEL),
            Leaves::Fin | Leaves::Rst => client.connection.abort(),
            Leaves::Aborted => server.abort_connections(),
        }
        assert_eq!(recorder.account().await, cancelled(BeforeHead, 0), "{leaves:?}");
    }
}

/// The request and the client's FIN are there before the server first reads.
async fn queued(adapter: bool) -> (Recorder, Script) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = RawClient::get(listener.local_addr().unwrap()).await;
    client.half_close().await;
    let (recorder, script) = (Recorder::new(), answers([Response::new(body(["hello"]))]));
    let options = Options { adapter, ..Options::h1() };
    let server = serve_on(listener, options, recorder.around(script.clone()));
    client.read_to_end().await;
    server.all_closed().await;
    (recorder, script)
}

/// On the wire this is a race: whether the server sees the FIN together with the request.
fn raced(account: Account) -> bool {
    account == completed(EndOfBody, 5) || account.what == What::Cancelled
}

#[tokio::test]
async fn request_and_fin_at_once_through_the_adapter() {
    let (recorder, script) = queued(true).await;
    // No layer can see a call that is never made: as many records as calls is all that can be asked for.
    for record in recorder.all(script.calls()).await {
        assert!(raced(Account::of(&record)), "{record:?}");
    }
    // The adapter by itself, dropped as hyper drops it.
    let (recorder, script) = (Recorder::new(), answers([Response::new(body(["hello"]))]));
    let adapter = hyper_util::service::TowerToHyperService::new(recorder.around(script.clone()));
    drop(hyper::service::Service::call(&adapter, Request::new(())));
    assert_eq!((recorder.all(0).await.len(), script.calls()), (0, 0));
}

#[tokio::test]
async fn request_and_fin_at_once_called_directly() {
    let (recorder, script) = queued(false).await;
    assert_eq!(script.calls(), 1);
    let account = recorder.account().await;
    assert!(raced(account), "{account:?}");
    // The future by itself: called and never polled.
    let (recorder, script) = (Recorder::new(), answers([Response::new(body(["hello"]))]));
    drop(recorder.around(script.clone()).call(Request::new(())));
    assert_eq!((recorder.account().await, script.calls()), (cancelled(BeforeHead, 0), 1));
}

/// The stream is reset while the handler blocks its worker. Racy by nature: the server may poll the body
/// before it sees the reset, and such a short body then completes.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn reset_before_the_first_poll() {
    for hint in [false, true] {
        let recorder = Recorder::new();
        let (release, blocked) = mpsc::sync_channel::<()>(1);
        let blocked = std::sync::Arc::new(std::sync::Mutex::new(blocked));
        let entered = Gate::new();
        let entering = entered.clone();
        let service = handler(move |_: Request<Incoming>| {
            let (blocked, entering) = (blocked.clone(), entering.clone());
            async move {
                entering.open();
                tokio::task::block_in_place(|| blocked.lock().unwrap().recv().unwrap());
                Ok(Response::new(boxed(body(["hello"]).hint(hint))))
            }
        });
        let server = serve(Options::h2(), recorder.around(service)).await;
        let mut client = H2Client::connect(server.addr).await;
        let (_response, mut sending) = client.get();
        within("the handler", entered.passed()).await;
        sending.send_reset(h2::Reason::CANCEL);
        client.round_trip().await;
        release.send(()).unwrap();
        let account = recorder.account().await;
        let seen = account == cancelled(BeforeBody, 0) || account == cancelled(BeforeHead, 0);
        assert!(seen || (account.what == What::Completed && account.bytes == 5), "{account:?}");
    }
}

#[tokio::test]
async fn outer_timeout_while_the_handler_runs() {
    let (gate, recorder) = (Gate::new(), Recorder::new());
    let timeout =
        TimeoutLayer::with_status_code(http::StatusCode::GATEWAY_TIMEOUT, Duration::from_millis(20));
    // The timeout's own answer needs a body that can be made of nothing.
    let inner = recorder
        .around(stuck!(gate))
        .map_response(|response: Response<_>| response.map(axum::body::Body::new));
    let server = serve(Options::h1(), timeout.layer(inner)).await;
    let mut client = RawClient::get(server.addr).await;
    client.read_until("HTTP/1.1 504").await;
    // The client is still there; inside the layer it looks as if it had left.
    assert_eq!(recorder.account().await, cancelled(BeforeHead, 0));
}

/// Not knowable: hyper does not read the socket while the request body is unread, so it serves a client
/// that has left. It is `Completed` unless the write fails in time.
#[tokio::test]
async fn client_leaves_behind_an_unread_request_body() {
    for rst in [false, true] {
        let (gate, recorder) = (Gate::new(), Recorder::new());
        let server = serve(Options::h1(), recorder.around(stuck!(gate))).await;
        let mut client = RawClient::connect(server.addr).await;
        client.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
        gate.reached().await;
        client.leave(rst).await;
        gate.open();
        let account = recorder.account().await;
        let allowed = account == completed(EndOfBody, 5) || account.what == What::Cancelled;
        assert!(allowed, "{account:?}");
    }
}
