//! A thousand connections that end at any moment, in any way: as many records as calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use fastrand::Rng;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::client::read_h2;
use crate::support::*;

const CONNECTIONS: u64 = 1000;
/// At once: enough to be a crowd on two cores.
const CROWD: usize = 64;

/// What the server does with a call.
const PATHS: [&str; 5] = ["/finite", "/endless", "/stuck-body", "/stuck-head", "/fails"];

/// When a client ends its connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    /// Before it has sent a whole request.
    Early,
    BeforeHead,
    AfterHead,
    MidBody(usize),
    /// It reads to the end.
    Complete,
}

/// A handler for [`PATHS`] that counts its calls.
macro_rules! service {
    ($calls:expr) => {{
        let calls = Arc::clone(&$calls);
        handler(move |request: Request<Incoming>| {
            calls.fetch_add(1, SeqCst);
            async move {
                let never = Gate::new();
                let body = match request.uri().path() {
                    "/finite" => body(["hello"]).yields().data("world").hint(fastrand::bool()),
                    "/endless" => body([]).endless(4096),
                    "/stuck-body" => body(["hello"]).wait(&never),
                    "/fails" => body(["hello"]).yields().fails(),
                    _ => {
                        never.passed().await;
                        body([])
                    }
                };
                Ok(Response::new(boxed(body)))
            }
        })
    }};
}

/// Whether the client saw a whole response.
async fn h1_client(addr: std::net::SocketAddr, mut rng: Rng, path: &str, moment: Moment) -> bool {
    let mut client = RawClient::connect(addr).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let sent = if moment == Moment::Early { rng.usize(..request.len()) } else { request.len() };
    client.send(&request[..sent]).await;
    // Where the server was faster, that changes nothing: the client leaves anyway.
    match moment {
        Moment::Early | Moment::BeforeHead => true,
        Moment::AfterHead => client.try_read_until("\r\n\r\n").await,
        Moment::MidBody(bytes) => client.try_read_bytes(bytes).await,
        Moment::Complete => {
            client.read_to_end().await;
            return client.text().ends_with("5\r\nworld\r\n0\r\n\r\n");
        }
    };
    client.leave_if_it_can(rng.bool()).await;
    false
}

async fn h2_client(addr: std::net::SocketAddr, mut rng: Rng, path: &str, moment: Moment) -> bool {
    let mut client =
        if rng.bool() { H2Client::connect_abrupt(addr).await } else { H2Client::connect(addr).await };
    if moment == Moment::Early {
        client.leave();
        return false;
    }
    let request = Request::get(format!("http://a{path}")).body(()).unwrap();
    let (response, mut sending) = client.send(request);
    let reached = async {
        if moment == Moment::Complete {
            return read_h2(response).await.body == "helloworld";
        }
        if moment == Moment::BeforeHead {
            return false;
        }
        let Ok(response) = within("the head", response).await else { return false };
        let mut body = response.into_body();
        let mut read = 0;
        while let Moment::MidBody(bytes) = moment
            && read < bytes
            && let Some(Ok(data)) = within("data", body.data()).await
        {
            read += data.len();
            let _ = body.flow_control().release_capacity(data.len());
        }
        false
    };
    let complete = reached.await;
    if rng.bool() {
        sending.send_reset(h2::Reason::CANCEL);
        // The reset may get out before the socket is taken away, or not.
        tokio::task::yield_now().await;
    }
    client.leave();
    complete
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_killed() {
    let recorder = Recorder::new();
    let calls = Arc::new(AtomicU64::new(0));
    let h1 = serve(Options::h1(), recorder.around(service!(calls))).await;
    let h2 = serve(Options::h2(), recorder.around(service!(calls))).await;

    let mut rng = Rng::with_seed(0x5eed);
    let crowd = Arc::new(Semaphore::new(CROWD));
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut path = PATHS[rng.usize(..PATHS.len())];
        let moment = match rng.u8(..5) {
            0 => Moment::Early,
            1 => Moment::BeforeHead,
            2 => Moment::AfterHead,
            // Small enough for every path that has a body.
            3 => Moment::MidBody(rng.usize(1..5)),
            _ => Moment::Complete,
        };
        match moment {
            Moment::Complete => path = "/finite",
            // A head that never comes cannot be waited for.
            Moment::AfterHead | Moment::MidBody(_) if path == "/stuck-head" => path = "/endless",
            _ => {}
        }
        let (permit, rng) = (Arc::clone(&crowd).acquire_owned().await.unwrap(), rng.fork());
        let (h1, h2) = (h1.addr, h2.addr);
        let over_h2 = clients.len() % 2 == 0;
        clients.spawn(async move {
            let complete = if over_h2 {
                h2_client(h2, rng, path, moment).await
            } else {
                h1_client(h1, rng, path, moment).await
            };
            drop(permit);
            assert_eq!(complete, moment == Moment::Complete, "{path} {moment:?}");
            complete
        });
    }
    let complete = clients.join_all().await.into_iter().filter(|complete| *complete).count() as u64;

    h1.all_closed().await;
    h2.all_closed().await;
    // The books: one record for each call, none in flight, every id once.
    let calls = calls.load(SeqCst);
    let records = recorder.all(calls).await;
    let audit = recorder.handle().audit();
    assert!(recorder.handle().streams().is_empty());
    assert!(complete >= CONNECTIONS / 10 && calls > complete, "{complete} of {calls}");
    assert!(audit.completed() >= complete, "{audit:?}");
    assert!(audit.cancelled() > 0 && audit.failed() > 0, "{audit:?}");
    for record in records {
        let account = Account::of(&record);
        match record.uri().path() {
            // They have no end of their own.
            "/endless" | "/stuck-body" | "/stuck-head" => assert_eq!(account.what, What::Cancelled),
            "/fails" => assert!([What::Failed("body"), What::Cancelled].contains(&account.what)),
            _ => assert!([What::Completed, What::Cancelled].contains(&account.what)),
        }
    }
}
