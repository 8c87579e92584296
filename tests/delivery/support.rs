//! A service whose bodies the test writes by hand.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Full};
use streaming_accumulator::{Handle, StreamHandle, StreamRecord, StreamingAccumulatorLayer};
use tower::{Layer, Service, ServiceExt};

pub(crate) type Open = Sender<Bytes, std::io::Error>;
pub(crate) type Streamed = streaming_accumulator::AccumulatorBody<Channel<Bytes, std::io::Error>>;

/// Answers `hello`, known to be complete.
pub(crate) async fn complete<C: Send + Sync + 'static>(layer: &StreamingAccumulatorLayer<C>) {
    let service = layer.layer(tower::service_fn(|_: Request<()>| {
        ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello")))))
    }));
    let response = service.oneshot(Request::new(())).await.unwrap();
    response.into_body().collect().await.unwrap();
}

/// Answers with a body that the test feeds through the sender. Also the request's handle.
pub(crate) async fn stream<C: Send + Sync + 'static>(
    layer: &StreamingAccumulatorLayer<C>,
) -> (Open, Streamed, StreamHandle) {
    let (sender, body) = Channel::new(16);
    let mut service = layer.layer(Once(Some(body)));
    let response = service.call(Request::new(())).await.unwrap();
    let stream = response.extensions().get::<StreamHandle>().cloned().unwrap();
    (sender, response.into_body(), stream)
}

/// A service that answers once, and puts the request's `StreamHandle` into its response.
pub(crate) struct Once(Option<Channel<Bytes, std::io::Error>>);

impl Clone for Once {
    fn clone(&self) -> Self {
        Self(None)
    }
}

impl Service<Request<()>> for Once {
    type Response = Response<Channel<Bytes, std::io::Error>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<()>) -> Self::Future {
        let body = self.0.take().expect("called once");
        let mut response = Response::new(body);
        let handle = request.extensions_mut().remove::<StreamHandle>();
        response.extensions_mut().insert(handle.expect("the layer puts it there"));
        ready(Ok(response))
    }
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
    let limit = Duration::from_secs(3600);
    tokio::time::timeout(limit, quiet).await.unwrap_or_else(|_| panic!("{:?}", handle.audit()));
}

/// Records in the order of their delivery.
pub(crate) struct Seen<C = ()>(Arc<Mutex<Vec<Arc<StreamRecord<C>>>>>);

impl<C> Clone for Seen<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> Default for Seen<C> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<C> Seen<C> {
    /// A hook that keeps what it gets.
    pub(crate) fn hook(&self) -> impl Fn(Arc<StreamRecord<C>>) -> Ready<()> + Send + Sync + 'static + use<C>
    where
        C: Send + Sync + 'static,
    {
        let seen = self.clone();
        move |record| {
            seen.push(record);
            ready(())
        }
    }

    pub(crate) fn push(&self, record: Arc<StreamRecord<C>>) {
        self.0.lock().unwrap().push(record);
    }

    pub(crate) fn all(&self) -> Vec<Arc<StreamRecord<C>>> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn only(&self) -> Arc<StreamRecord<C>> {
        let all = self.all();
        assert_eq!(all.len(), 1, "{} records", all.len());
        Arc::clone(&all[0])
    }
}

/// The next frame's data, or the error.
pub(crate) async fn next<B>(body: &mut B) -> Option<Result<Bytes, B::Error>>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}
