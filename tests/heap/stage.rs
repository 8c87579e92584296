//! A layer whose streams are polled by hand, with every allocation counted.

use std::convert::Infallible;
use std::future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::task::noop_waker_ref;
use http::{Request, Response};
use http_body::{Body, Frame};
use streaming_accumulator::{
    AccumulatorBody, BackpressureStrategy, Builder, Capture, StreamHandle, StreamRecord, Tap,
};
use tower::ServiceExt;

use crate::body::ready;
use crate::heap;
use crate::support::Recorder;

pub(crate) const MIB: usize = 1024 * 1024;

/// Frames before a stream counts as being on its way.
pub(crate) const START: usize = 64;

/// What reads the stream beside the client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reader {
    Nobody,
    /// A tap that reads each chunk as it comes.
    Tap,
    /// The same, and the stream waits for it.
    Waited,
    /// A tap that reads when 48 chunks are there.
    Late,
    /// A tap that never reads.
    Idle,
}

/// What polling one stream allocated.
pub(crate) struct Allocated {
    /// For each frame that was not free: its number, and the calls that its poll made.
    pub(crate) frames: Vec<(usize, u64)>,
    /// Calls of the tap, and the chunks that it read.
    pub(crate) tap: (u64, u64),
}

/// A layer with its records, and how many streams it has had.
pub(crate) struct Stage {
    pub(crate) recorder: Recorder,
    pub(crate) streams: u64,
}

pub(crate) type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

pub(crate) fn shared(len: usize) -> Bytes {
    // Shared already: the first clone of a `Bytes` that is not allocates.
    let bytes = Bytes::from(vec![b'x'; len]);
    let _shared = bytes.clone();
    bytes
}

pub(crate) fn poll<B: Body>(body: Pin<&mut B>) -> Polled<B> {
    body.poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// Reads all that is there; how many chunks. A task's waker is known again from poll to poll, which `Waker::noop` need not
/// be: it may have a table in each crate.
pub(crate) fn drain(tap: &mut Tap) -> u64 {
    let mut chunks = 0;
    while let Poll::Ready(Some(chunk)) =
        Pin::new(&mut *tap).poll_next(&mut Context::from_waker(noop_waker_ref()))
    {
        drop(std::hint::black_box(chunk));
        chunks += 1;
    }
    chunks
}

/// Polls a stream of `frames` chunks of `size` bytes to its end, by hand, with a reader beside. The first
/// frames and the last one are not counted.
pub(crate) async fn allocated(stage: &mut Stage, size: usize, frames: usize, reader: Reader) -> Allocated {
    let chunks = vec![shared(size); frames];
    let mut body = pin!(stage.open(ready(chunks)).await);
    let stream = stage.stream();
    let mut tap = match reader {
        Reader::Nobody => None,
        Reader::Waited => Some(stream.tap().lossless()),
        Reader::Tap | Reader::Late | Reader::Idle => Some(stream.tap()),
    };
    // Room for the report: it is not to count.
    let mut allocated = Allocated { frames: Vec::with_capacity(frames), tap: (0, 0) };
    for n in 0..frames {
        let (calls, frame) = heap::calls_of(|| poll(body.as_mut()));
        assert!(matches!(frame, Poll::Ready(Some(Ok(_)))), "{frame:?}");
        let counts = n >= START && n < frames - 1;
        if counts && calls > 0 {
            allocated.frames.push((n, calls));
        }
        let reads = match reader {
            Reader::Nobody | Reader::Idle => false,
            Reader::Tap | Reader::Waited => true,
            Reader::Late => n % 48 == 47,
        };
        if let Some(tap) = tap.as_mut().filter(|_| reads) {
            let before = heap::calls();
            let chunks = drain(tap);
            if counts {
                allocated.tap = (allocated.tap.0 + heap::calls() - before, allocated.tap.1 + chunks);
            }
        }
    }
    assert!(matches!(poll(body.as_mut()), Poll::Ready(None)));
    allocated
}

impl Stage {
    pub(crate) fn new(capture: Capture) -> Self {
        Self::with(|builder| builder.capture(capture))
    }

    pub(crate) fn with(configure: impl FnOnce(Builder) -> Builder) -> Self {
        let strict = BackpressureStrategy::Block(std::time::Duration::from_secs(1));
        Self { recorder: Recorder::with(|builder| configure(builder).backpressure(strict)), streams: 0 }
    }

    /// The body of a new stream.
    pub(crate) async fn open<B: Body<Data = Bytes, Error = Infallible>>(
        &mut self,
        body: B,
    ) -> AccumulatorBody<B> {
        self.streams += 1;
        let echo =
            |request: Request<B>| future::ready(Ok::<_, Infallible>(Response::new(request.into_body())));
        let response = self.recorder.around(tower::service_fn(echo)).oneshot(Request::new(body)).await;
        response.unwrap().into_body()
    }

    pub(crate) fn stream(&self) -> StreamHandle {
        self.recorder.handle().streams().remove(0)
    }

    /// The record of the stream that has ended.
    pub(crate) async fn record(&self) -> Arc<StreamRecord> {
        let handle = self.recorder.handle();
        while handle.audit().hooks()[0].delivered() < self.streams {
            tokio::task::yield_now().await;
        }
        // Taken, so that the record's memory is the caller's to free.
        let [(_, record)] = self.recorder.records().take().try_into().expect("one record");
        record
    }

    /// Drops the layer, and lets its workers end: they do when they see that nobody will send them anything.
    pub(crate) async fn end(self) {
        drop(self);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}
