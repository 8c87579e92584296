//! Streams in process: the test feeds a body, polls it by hand, and has the handle.

use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use streaming_accumulator::{
    AccumulatorBody, BodyError, Handle, StreamError, StreamHandle, StreamingAccumulatorLayer,
};
use tokio_test::task;
use tower::{Layer, ServiceExt};

use super::body::MockBody;
use super::feed::Feed;
use super::within;

/// One stream: the feeding end, the body, and the handle.
pub(crate) struct Flow {
    pub(crate) feed: Feed,
    pub(crate) body: AccumulatorBody<MockBody>,
    pub(crate) handle: StreamHandle,
}

/// Opens a stream that the test feeds.
pub(crate) async fn open<C: Send + Sync + 'static>(layer: &StreamingAccumulatorLayer<C>) -> Flow {
    let feed = Feed::default();
    let body = feed.body();
    open_with(layer, feed, body).await
}

/// The same, with a body that declares its length.
pub(crate) async fn open_declaring<C: Send + Sync + 'static>(
    layer: &StreamingAccumulatorLayer<C>,
    length: u64,
) -> Flow {
    let feed = Feed::default();
    let body = feed.body().claims(length);
    open_with(layer, feed, body).await
}

async fn open_with<C: Send + Sync + 'static>(
    layer: &StreamingAccumulatorLayer<C>,
    feed: Feed,
    body: MockBody,
) -> Flow {
    let service = layer.layer(tower::service_fn(move |request: Request<()>| {
        let mut response = Response::new(body.clone());
        response.extensions_mut().insert(request.extensions().get::<StreamHandle>().cloned().unwrap());
        ready(Ok::<_, Infallible>(response))
    }));
    let response = service.oneshot(Request::new(())).await.unwrap();
    let handle = response.extensions().get::<StreamHandle>().cloned().unwrap();
    Flow { feed, body: response.into_body(), handle }
}

/// A call that is answered with `hello` and read to its end.
pub(crate) async fn complete<C: Send + Sync + 'static>(layer: &StreamingAccumulatorLayer<C>) {
    let service = layer.layer(tower::service_fn(|_: Request<()>| {
        ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello")))))
    }));
    let response = service.oneshot(Request::new(())).await.unwrap();
    response.into_body().collect().await.unwrap();
}

/// The next frame's data, or the error.
pub(crate) async fn next<B>(body: &mut B) -> Option<Result<Bytes, B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}

/// Waits until nothing is in flight and nothing queued, and checks the sums.
pub(crate) async fn settled<C: Send + Sync + 'static>(handle: &Handle<C>) {
    let quiet = async {
        loop {
            let audit = handle.audit();
            if audit.in_flight() == 0 && audit.hooks().iter().all(|hook| hook.queued() == 0) {
                assert!(audit.is_balanced(), "{audit:?}");
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    // Hooks may be tried again for long, on a clock that is paused.
    let limit = Duration::from_secs(3600);
    tokio::time::timeout(limit, quiet).await.unwrap_or_else(|_| panic!("{:?}", handle.audit()));
}

// === impl Flow ===

impl Flow {
    /// The next frame's data, or how the body ends.
    pub(crate) async fn pull(&mut self) -> Option<Result<Bytes, BodyError>> {
        next(&mut self.body).await
    }

    /// Feeds these chunks and pulls them, each whole and unchanged.
    pub(crate) async fn pass(&mut self, chunks: &[Bytes]) {
        for chunk in chunks {
            self.feed.push(chunk.clone());
            assert_eq!(within("a chunk", self.pull()).await.unwrap().unwrap(), chunk);
        }
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
