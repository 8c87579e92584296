//! Streams whose bodies the test feeds and polls by hand, and readers to go beside them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future;
use std::future::{poll_fn, ready};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use futures_util::Stream;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use streaming_accumulator::{
    AccumulatorBody, Audit, BoxError, Builder, Outcome, StreamError, StreamHandle, StreamRecord,
    StreamingAccumulator, StreamingAccumulatorLayer, Tap, WorkGroup,
};
use tokio::time::Instant;
use tokio_test::task;
use tower::{Layer, ServiceExt};

use crate::support::{until, within};

pub(crate) const MS: Duration = Duration::from_millis(1);

/// A layer whose hook keeps every record.
pub(crate) struct Harness {
    pub(crate) layer: StreamingAccumulatorLayer,
    records: Arc<Mutex<Vec<Arc<StreamRecord>>>>,
}

/// One stream: the feeding end, the body, and the handle.
pub(crate) struct Flow {
    pub(crate) feed: Feed,
    pub(crate) body: AccumulatorBody<Feed>,
    pub(crate) handle: StreamHandle,
}

/// A body of unknown length that yields what it is fed.
#[derive(Clone, Default)]
pub(crate) struct Feed(Arc<Fed>);

#[derive(Default)]
struct Fed {
    chunks: Mutex<VecDeque<Bytes>>,
    ended: AtomicBool,
    declared: Option<u64>,
    polls: AtomicU64,
    waker: AtomicWaker,
}

/// A tap or a member of a work group.
pub(crate) trait Live: Stream<Item = Bytes> + Unpin + Send {
    fn missed(&self) -> u64;
    fn outcome(&self) -> Option<Outcome>;
}

type OpenReader = fn(&StreamHandle) -> Box<dyn Live>;

/// Both kinds of readers, waited for: what holds for one must hold for the other.
pub(crate) const WAITED: [OpenReader; 2] =
    [|stream| Box::new(stream.tap().waited()), |stream| Box::new(stream.work_group().waited())];

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
        let poll = future::poll_fn(|cx| Pin::new(&mut *reader).poll_next(cx));
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

pub(crate) fn harness(configure: impl FnOnce(Builder) -> Builder) -> Harness {
    let records = Arc::<Mutex<Vec<_>>>::default();
    let kept = Arc::clone(&records);
    let builder = StreamingAccumulatorLayer::builder().on_end(move |record| {
        kept.lock().unwrap().push(record);
        ready(())
    });
    Harness { layer: configure(builder).build().unwrap(), records }
}

// === impl Harness ===

impl Harness {
    pub(crate) async fn open(&self) -> Flow {
        self.open_with(Feed::default()).await
    }

    /// A stream whose body declares its length.
    pub(crate) async fn open_declaring(&self, length: u64) -> Flow {
        self.open_with(Feed(Arc::new(Fed { declared: Some(length), ..Fed::default() }))).await
    }

    async fn open_with(&self, feed: Feed) -> Flow {
        let body = feed.clone();
        let service = self.layer.layer(tower::service_fn(move |request: Request<()>| {
            let mut response = Response::new(body.clone());
            response.extensions_mut().insert(request.extensions().get::<StreamHandle>().cloned().unwrap());
            ready(Ok::<_, Infallible>(response))
        }));
        let response = service.oneshot(Request::new(())).await.unwrap();
        let handle = response.extensions().get::<StreamHandle>().cloned().unwrap();
        Flow { feed, body: response.into_body(), handle }
    }

    pub(crate) fn around<S>(&self, service: S) -> StreamingAccumulator<S> {
        self.layer.layer(service)
    }

    pub(crate) fn audit(&self) -> Audit {
        self.layer.handle().audit()
    }

    /// The records so far, once `streams` of them are delivered and the books are closed.
    pub(crate) async fn records(&self, streams: u64) -> Vec<Arc<StreamRecord>> {
        let delivered = || self.audit().hooks()[0].delivered() >= streams;
        until(&format!("{streams} records"), delivered).await;
        let audit = self.audit();
        assert_eq!((audit.settled(), audit.is_balanced()), (streams, true), "{audit:?}");
        self.records.lock().unwrap().clone()
    }

    /// The one record.
    pub(crate) async fn record(&self) -> Arc<StreamRecord> {
        let records = self.records(1).await;
        assert_eq!(records.len(), 1);
        Arc::clone(&records[0])
    }

    pub(crate) fn forget_records(&self) {
        self.records.lock().unwrap().clear();
    }
}

// === impl Flow ===

impl Flow {
    /// The next frame's data, or how the body ends.
    pub(crate) async fn pull(&mut self) -> Option<Result<Bytes, BoxError>> {
        let frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await?;
        Some(frame.map(|frame| frame.into_data().unwrap()))
    }

    /// Feeds these chunks and pulls them, each whole and unchanged.
    pub(crate) async fn pass(&mut self, chunks: &[Bytes]) {
        for chunk in chunks {
            self.feed.push(chunk.clone());
            assert_eq!(within("a chunk", self.pull()).await.unwrap().unwrap(), chunk);
        }
    }

    /// Feeds and pulls one chunk; how long that took.
    pub(crate) async fn timed(&mut self) -> Duration {
        let start = Instant::now();
        self.pass(&[chunk(0, 10)]).await;
        start.elapsed()
    }

    /// Ends the body, and sees it end in order.
    pub(crate) async fn end(&mut self) {
        self.feed.end();
        assert!(within("the end", self.pull()).await.is_none());
    }

    /// The error with which the layer ends the body, and that nothing comes after it.
    pub(crate) async fn error(&mut self) -> StreamError {
        let error = within("an error", self.pull()).await.unwrap().unwrap_err();
        assert!(self.pull().await.is_none());
        error.downcast_ref::<StreamError>().unwrap().clone()
    }

    /// Polls the body, and sees that it has nothing now.
    pub(crate) fn assert_pending(&mut self) {
        let polled = task::spawn(()).enter(|cx, _| Pin::new(&mut self.body).poll_frame(cx).map(drop));
        assert!(polled.is_pending());
    }
}

// === impl Feed ===

impl Feed {
    pub(crate) fn push(&self, chunk: Bytes) {
        self.0.chunks.lock().unwrap().push_back(chunk);
        self.0.waker.wake();
    }

    pub(crate) fn end(&self) {
        self.0.ended.store(true, SeqCst);
        self.0.waker.wake();
    }

    /// How often it was polled.
    pub(crate) fn polls(&self) -> u64 {
        self.0.polls.load(SeqCst)
    }
}

impl Body for Feed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let fed = &self.0;
        fed.polls.fetch_add(1, SeqCst);
        fed.waker.register(cx.waker());
        // Before the look for a chunk: the last one came before the end.
        let ended = fed.ended.load(SeqCst);
        match fed.chunks.lock().unwrap().pop_front() {
            Some(chunk) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
            None if ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.0.declared.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Live for Tap {
    fn missed(&self) -> u64 {
        self.missed()
    }

    fn outcome(&self) -> Option<Outcome> {
        self.outcome().cloned()
    }
}

impl Live for WorkGroup {
    fn missed(&self) -> u64 {
        self.missed()
    }

    fn outcome(&self) -> Option<Outcome> {
        self.outcome().cloned()
    }
}
