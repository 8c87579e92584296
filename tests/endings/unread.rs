//! Back-pressure and HTTP/2 windows, where the client reads nothing.

use http::Response;
use streaming_accumulator::Evidence::{EndHint, EndOfBody, Trailers};
use streaming_accumulator::Phase;

use crate::support::*;

const WINDOW: usize = 65_535;

struct Unread {
    recorder: Recorder,
    response: Response<h2::RecvStream>,
    sending: h2::SendStream<bytes::Bytes>,
    _client: H2Client,
    _server: Server,
}

/// A client with the default window that has the head and reads no further.
async fn unread(body: MockBody) -> Unread {
    let recorder = Recorder::new();
    let server = serve(Options::h2(), recorder.around(answers([Response::new(body)]))).await;
    let mut client = H2Client::connect(server.addr).await;
    let (response, sending) = client.get();
    let response = within("the head", response).await.unwrap();
    Unread { recorder, response, sending, _client: client, _server: server }
}

impl Unread {
    async fn reset(mut self) -> Account {
        self.sending.send_reset(h2::Reason::CANCEL);
        self.recorder.account().await
    }

    /// Not knowable: the server takes the end of the body before the window lets it through.
    async fn completes_unread(self, account: Account) {
        assert_eq!(self.recorder.account().await, account);
        assert_eq!(self.reset().await, account, "a reset comes too late");
    }
}

fn frame(size: usize) -> Vec<u8> {
    vec![b'x'; size]
}

/// How far the server looks ahead is its own affair and changed before; that it stops, and that the
/// record says how far it came, is not.
async fn stalls(size: usize, bytes: std::ops::RangeInclusive<usize>) {
    let unread = unread(body([]).endless(size)).await;
    let stalled = unread.recorder.stalled().await;
    assert!(bytes.contains(&(stalled as usize)), "{stalled}");
    unread.recorder.assert_open(1);
    assert_eq!(unread.reset().await, cancelled(Phase::Body, stalled));
}

#[tokio::test]
async fn window_never_released() {
    stalls(16 * 1024, WINDOW..=WINDOW + 2 * 16 * 1024).await;
}

#[tokio::test]
async fn window_never_released_with_large_frames() {
    stalls(1 << 20, 1 << 20..=2 << 20).await;
}

#[tokio::test]
async fn one_large_frame_with_the_end_hint() {
    let body = body([]).data(frame(8_000_000)).hint(true);
    unread(body).await.completes_unread(completed(EndHint, 8_000_000)).await;
}

#[tokio::test]
async fn one_large_frame_without_the_end_hint() {
    let body = body([]).data(frame(8_000_000));
    unread(body).await.completes_unread(completed(EndOfBody, 8_000_000)).await;
}

#[tokio::test]
async fn window_full_inside_the_last_frame() {
    for (hint, evidence) in [(false, EndOfBody), (true, EndHint)] {
        let body = body([]).data(frame(30_000)).data(frame(30_000)).data(frame(30_000)).hint(hint);
        unread(body).await.completes_unread(completed(evidence, 90_000)).await;
    }
}

/// Completed by the hint, although the last ten bytes are never sent: it is the body's own word.
#[tokio::test]
async fn window_full_before_the_last_frame() {
    let unread = unread(body([]).data(frame(WINDOW)).data(frame(10)).hint(true)).await;
    unread.recorder.pulled(WINDOW as u64 + 10).await;
    unread.recorder.assert_open(1);
    assert_eq!(unread.reset().await, completed(EndHint, WINDOW as u64 + 10));
}

#[tokio::test]
async fn window_full_before_the_trailers() {
    for hint in [false, true] {
        let body = body([]).data(frame(WINDOW)).trailers().hint(hint);
        unread(body).await.completes_unread(completed(Trailers, WINDOW as u64)).await;
    }
}

#[tokio::test]
async fn many_small_frames_unread() {
    let unread = unread(body([]).endless(100)).await;
    let held = unread.response;
    // The client itself ends the connection: too many frames that nobody reads.
    let account = unread.recorder.account().await;
    assert!(account.bytes >= 100, "{account:?}");
    assert_eq!(account, cancelled(Phase::Body, account.bytes));
    drop(held);
}
