//! What a handler, and whoever gets the response, can do with the handle of a stream.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use streaming_accumulator::meter::{MeterSet, UsageBasis};
use streaming_accumulator::{
    AccumulatorBody, Outcome, Rejected, StreamError, StreamHandle, StreamingAccumulatorLayer, WhenFull,
};
use tokio::runtime::Handle;
use tokio_test::{assert_pending, assert_ready_eq, task};
use tower::{Layer, ServiceExt};

use crate::support::{Flow, MockBody, Records, body, complete, next, open, settled, until, within};

#[tokio::test(start_paused = true)]
async fn request_and_response_carry_the_same_handle() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder().on_end(seen.hook()).build().unwrap();
    let service = layer.layer(tower::service_fn(|request: Request<()>| async move {
        let stream = request.extensions().get::<StreamHandle>().unwrap();
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(stream.id().to_string()))))
    }));
    let response = service.oneshot(Request::get("/a?b").body(()).unwrap()).await.unwrap();
    let stream = response.extensions().get::<StreamHandle>().unwrap().clone();
    let id = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(id, stream.id().to_string());
    settled(&layer.handle()).await;
    assert_eq!((seen.only().id(), stream.uri().to_string()), (stream.id(), "/a?b".into()));
}

/// A handle whose stream ended so, and what was told when.
async fn assert_ends(layer: &StreamingAccumulatorLayer, end: impl AsyncFnOnce(Flow), outcome: Outcome) {
    let flow = open(layer).await;
    let stream = flow.handle.clone();
    let mut waiting = task::spawn(stream.ended());
    assert_pending!(waiting.poll());
    end(flow).await;
    assert!(waiting.is_woken(), "{outcome}");
    assert_ready_eq!(waiting.poll(), outcome.clone());
    assert_eq!(stream.ended().await, outcome, "also later");
}

#[tokio::test(start_paused = true)]
async fn ended_tells_each_outcome() {
    let layer = StreamingAccumulatorLayer::builder().idle_timeout(Duration::from_secs(5)).build().unwrap();
    let completes = async |mut flow: Flow| {
        flow.feed.push("all");
        flow.feed.end();
        assert_eq!(next(&mut flow.body).await.unwrap().unwrap(), "all");
        assert!(next(&mut flow.body).await.is_none());
    };
    assert_ends(&layer, completes, Outcome::Completed).await;
    assert_ends(&layer, async |flow| drop(flow), Outcome::Cancelled).await;
    assert_ends(&layer, async |flow| assert!(flow.handle.cancel()), Outcome::Cancelled).await;
    let fails = async |mut flow: Flow| {
        flow.feed.fail();
        assert!(next(&mut flow.body).await.unwrap().is_err());
    };
    let error = StreamError::Body("scripted error".into());
    assert_ends(&layer, fails, Outcome::Failed(error)).await;
    let flow = open(&layer).await;
    let stream = flow.handle.clone();
    let mut flow = flow;
    flow.assert_pending();
    let outcome = within("the idle timeout", stream.ended()).await;
    assert_eq!(outcome.error().map(StreamError::kind), Some("idle_timeout"));
}

#[tokio::test(start_paused = true)]
async fn ended_can_be_abandoned() {
    let layer = StreamingAccumulatorLayer::builder().build().unwrap();
    let Flow { body, handle, .. } = open(&layer).await;
    let mut waiting = task::spawn(handle.ended());
    assert_pending!(waiting.poll());
    drop(waiting);
    let mut others: Vec<_> = (0..3).map(|_| task::spawn(handle.ended())).collect();
    for other in &mut others {
        assert_pending!(other.poll());
    }
    drop(body);
    for other in &mut others {
        assert!(other.is_woken());
        assert_ready_eq!(other.poll(), Outcome::Cancelled);
    }
}

/// A handler that leaves its work to a task, which ends with the stream.
fn working()
-> impl tower::Service<Request<()>, Response = Response<MockBody>, Error = Infallible, Future: Send> + Clone {
    tower::service_fn(|request: Request<()>| async move {
        let stream = request.extensions().get::<StreamHandle>().unwrap().clone();
        tokio::spawn(async move {
            tokio::select! {
                () = pending::<()>() => {}
                _outcome = stream.ended() => {}
            }
        });
        Ok(Response::new(body(["hello"])))
    })
}

#[tokio::test]
async fn task_that_awaits_the_end_is_not_left_over() {
    let layer = StreamingAccumulatorLayer::builder().on_end(|_| async {}).build().unwrap();
    complete(&layer).await;
    let tasks = Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    let call = || layer.layer(working()).oneshot(Request::new(()));
    for _ in 0..3 {
        call().await.unwrap().into_body().collect().await.unwrap();
        drop(call().await.unwrap());
        assert!(call().await.unwrap().extensions().get::<StreamHandle>().unwrap().cancel());
    }
    until("the tasks to end", || tasks.num_alive_tasks() == before).await;
    assert_eq!(layer.handle().audit().settled(), 10);
}

const CONTENT: &str = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"gpt-4o\",\
                       \"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
const USAGE: &str = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"gpt-4o\",\"choices\":[],\
                     \"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5,\"total_tokens\":8}}\n\n";

#[tokio::test(start_paused = true)]
async fn usage_can_be_read_while_it_streams() {
    let seen = Records::default();
    let layer =
        StreamingAccumulatorLayer::builder().meter(MeterSet::detect()).on_end(seen.hook()).build().unwrap();
    let service = layer.layer(tower::service_fn(|_: Request<()>| async {
        let mut response = Response::new(body([CONTENT, USAGE, "data: [DONE]\n\n"]));
        response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
        Ok::<_, Infallible>(response)
    }));
    let request = Request::post("/v1/chat/completions").body(()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    let stream = response.extensions().get::<StreamHandle>().unwrap().clone();
    let mut body: AccumulatorBody<MockBody> = response.into_body();
    next(&mut body).await.unwrap().unwrap();
    let usage = stream.usage().unwrap();
    assert_eq!((usage.input_tokens, usage.total_tokens), (None, None), "{usage:?}");
    assert_ne!(usage.basis, UsageBasis::Estimated);
    next(&mut body).await.unwrap().unwrap();
    let usage = stream.usage().unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.total_tokens), (Some(3), Some(5), Some(8)));
    while next(&mut body).await.is_some() {}
    drop(body);
    assert!(stream.usage().is_none(), "then the record has it");
    settled(&layer.handle()).await;
    assert_eq!(seen.only().usage().total_tokens, Some(8));
}

#[tokio::test(start_paused = true)]
async fn stream_without_a_meter_has_no_usage() {
    let layer = StreamingAccumulatorLayer::builder().build().unwrap();
    let mut flow = open(&layer).await;
    flow.pass(&[Bytes::from_static(CONTENT.as_bytes())]).await;
    assert!(flow.handle.usage().is_none());
}

/// A service whose own answer is a 503.
fn overloaded()
-> impl tower::Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send> + Clone
{
    tower::service_fn(|_: Request<()>| async {
        let mut response = Response::new(Full::from("busy"));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        Ok(response)
    })
}

fn marks<B>(response: &Response<B>) -> (u16, bool, bool) {
    let extensions = response.extensions();
    let is_rejected = extensions.get::<Rejected>().is_some();
    (response.status().as_u16(), is_rejected, extensions.get::<StreamHandle>().is_some())
}

#[tokio::test(start_paused = true)]
async fn layers_own_503_is_marked() {
    let layer =
        StreamingAccumulatorLayer::builder().max_in_flight(1).when_full(WhenFull::Reject).build().unwrap();
    let call = || layer.layer(overloaded()).oneshot(Request::new(()));
    let response = call().await.unwrap();
    assert_eq!(marks(&response), (503, false, true), "the service's own");
    let full = call().await.unwrap();
    assert_eq!(marks(&full), (503, true, false), "full");
    assert_eq!(full.headers()["retry-after"], "1");
    assert!(full.body().get_ref().is_none(), "no body of the service's");
    drop(response);
    layer.handle().shutdown(Duration::from_secs(1)).await;
    assert_eq!(marks(&call().await.unwrap()), (503, true, false), "shut down");
    let audit = layer.handle().audit();
    assert_eq!((audit.opened(), audit.rejected()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn filtered_streams_pass_untouched() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder()
        .filter(|request| request.uri.path().starts_with("/v1/"))
        .on_chunk(|chunk, _| {
            assert_ne!(chunk, "untouched");
            std::ops::ControlFlow::Continue(())
        })
        .on_end(seen.hook())
        .max_in_flight(1)
        .when_full(WhenFull::Reject)
        .build()
        .unwrap();
    let held = {
        let service = layer.layer(tower::service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(body(["x"]).wait(&crate::support::Gate::new())))
        }));
        service.oneshot(Request::get("/v1/x").body(()).unwrap()).await.unwrap()
    };
    let service = layer.layer(tower::service_fn(async |request: Request<()>| {
        assert!(request.extensions().get::<StreamHandle>().is_none());
        Ok::<_, Infallible>(Response::new(body(["untouched"]).exact().hint(true).trailers()))
    }));
    // Though the layer is full.
    let response = service.clone().oneshot(Request::get("/health").body(()).unwrap()).await.unwrap();
    assert_eq!(marks(&response), (200, false, false));
    let mut body = response.into_body();
    assert_eq!(http_body::Body::size_hint(&body).exact(), Some(9));
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "untouched");
    let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["x-sum"], "abc");
    assert!(http_body::Body::is_end_stream(&body));
    drop(body);
    let rejected = service.oneshot(Request::get("/v1/y").body(()).unwrap()).await.unwrap();
    assert_eq!(marks(&rejected), (503, true, false));
    drop(held);
    settled(&layer.handle()).await;
    assert_eq!((layer.handle().audit().opened(), seen.only().uri().path()), (1, "/v1/x"));
}

#[tokio::test(start_paused = true)]
async fn panicking_filter_accounts_for_the_stream() {
    let layer = StreamingAccumulatorLayer::builder()
        .filter(|_| panic!("scripted panic of a filter"))
        .build()
        .unwrap();
    complete(&layer).await;
    settled(&layer.handle()).await;
    assert_eq!(layer.handle().audit().completed(), 1);
}

#[tokio::test]
async fn body_collects_under_anyhow() -> anyhow::Result<()> {
    let layer = StreamingAccumulatorLayer::builder().build()?;
    let service = layer.layer(tower::service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(body(["hel", "lo"])))
    }));
    let response = service.oneshot(Request::new(())).await?;
    assert_eq!(response.into_body().collect().await?.to_bytes(), "hello");

    async fn cancelled(layer: &StreamingAccumulatorLayer) -> anyhow::Result<Bytes> {
        let flow = open(layer).await;
        flow.handle.cancel();
        Ok(flow.body.collect().await?.to_bytes())
    }
    let error = cancelled(&layer).await.unwrap_err();
    assert!(error.chain().any(|cause| cause.is::<StreamError>()), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn inner_service_and_body_are_within_reach() {
    #[derive(Debug, Default)]
    struct Named(&'static str);
    let layer = StreamingAccumulatorLayer::builder().build().unwrap();
    let mut service = layer.layer(Named("inner"));
    assert_eq!(service.get_ref().0, "inner");
    service.get_mut().0 = "changed";
    assert_eq!(service.into_inner().0, "changed");

    let mut flow = open(&layer).await;
    flow.pass(&[Bytes::from_static(b"a")]).await;
    assert!(flow.body.get_ref().is_some());
    flow.feed.push("b");
    // Pulled past the layer.
    assert_eq!(next(flow.body.get_mut().unwrap()).await.unwrap().unwrap(), "b");
    assert_eq!(flow.handle.metrics().bytes(), 1);
    let Flow { feed, body, handle } = flow;
    let mut inner = body.into_inner().unwrap();
    assert_eq!(handle.ended().await, Outcome::Cancelled);
    feed.push("c");
    assert_eq!(next(&mut inner).await.unwrap().unwrap(), "c");

    let mut flow = open(&layer).await;
    flow.handle.cancel();
    assert!(matches!(flow.error().await, StreamError::Stopped { .. }));
    assert!(flow.body.get_ref().is_none() && flow.body.into_inner().is_none(), "the upstream is gone");
}
