//! Chunks that carry numbers, and readers that go beside a stream.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use streaming_accumulator::stream::ConsumerGroup;
use streaming_accumulator::{Outcome, StreamHandle, Tap};
use tokio::time::Instant;
use tokio_test::task;

use crate::support::Flow;

pub(crate) const MS: Duration = Duration::from_millis(1);

/// A tap or a member of a work group.
pub(crate) trait Live: Stream<Item = Bytes> + Unpin + Send {
    fn lagged(&self) -> u64;
    fn outcome(&self) -> Option<Outcome>;
}

type OpenReader = fn(&StreamHandle) -> Box<dyn Live>;

/// Both kinds of readers, waited for: what holds for one must hold for the other.
pub(crate) const WAITED: [OpenReader; 2] =
    [|stream| Box::new(stream.tap().lossless()), |stream| Box::new(stream.consumer_group().lossless())];

/// A chunk of `len` bytes that carries its number.
pub(crate) fn chunk(number: u64, len: usize) -> Bytes {
    let mut text = format!("{number}:").into_bytes();
    assert!(text.len() <= len);
    text.resize(len, b'x');
    text.into()
}

/// Chunks of different lengths, some long enough to be kept by reference.
pub(crate) fn chunks(numbers: Range<u64>) -> Vec<Bytes> {
    numbers.map(|n| chunk(n, if n % 5 == 3 { 1500 } else { 10 + n as usize * 37 % 300 })).collect()
}

/// The numbers that chunks carry.
pub(crate) fn numbers(chunks: &[Bytes]) -> Vec<u64> {
    let number = |chunk: &Bytes| {
        let text = std::str::from_utf8(chunk).unwrap();
        text.split_once(':').unwrap().0.parse().unwrap()
    };
    chunks.iter().map(number).collect()
}

/// What a reader has at the moment.
pub(crate) fn at_hand(reader: &mut (impl Stream<Item = Bytes> + Unpin + ?Sized)) -> Vec<Bytes> {
    take(reader, usize::MAX)
}

/// At most `most` chunks of what a reader has at the moment.
pub(crate) fn take(reader: &mut (impl Stream<Item = Bytes> + Unpin + ?Sized), most: usize) -> Vec<Bytes> {
    let next = || {
        // The test's own task does not yield for it, so its budget must not end it.
        let poll = poll_fn(|cx| Pin::new(&mut *reader).poll_next(cx));
        task::spawn(tokio::task::unconstrained(poll)).poll()
    };
    let chunks = std::iter::repeat_with(next).map_while(|polled| match polled {
        Poll::Ready(chunk) => chunk,
        Poll::Pending => None,
    });
    chunks.take(most).collect()
}

/// All that is still to come from a reader.
pub(crate) async fn rest(reader: &mut (impl Stream<Item = Bytes> + Unpin + ?Sized)) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    while let Some(chunk) = poll_fn(|cx| Pin::new(&mut *reader).poll_next(cx)).await {
        chunks.push(chunk);
    }
    chunks
}

/// Feeds and pulls one chunk; how long that took.
pub(crate) async fn timed(flow: &mut Flow) -> Duration {
    let start = Instant::now();
    flow.pass(&[chunk(0, 10)]).await;
    start.elapsed()
}

impl Live for Tap {
    fn lagged(&self) -> u64 {
        self.lagged()
    }

    fn outcome(&self) -> Option<Outcome> {
        self.outcome().cloned()
    }
}

impl Live for ConsumerGroup {
    fn lagged(&self) -> u64 {
        self.lagged()
    }

    fn outcome(&self) -> Option<Outcome> {
        self.outcome().cloned()
    }
}
