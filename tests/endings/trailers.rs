//! Trailers: after them hyper asks nothing and drops the body.

use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use streaming_accumulator::Evidence::{EndHint, Length, Trailers};
use tower::ServiceExt;

use crate::support::exchange::{H2, H10, H11};
use crate::support::*;

/// The hint is false before trailers and is not asked for after them: on and off must not differ.
fn summed() -> [MockBody; 2] {
    [false, true].map(|hint| body(["hello"]).trailers().hint(hint))
}

#[tokio::test]
async fn requested_trailers_are_sent_and_recorded() {
    for body in summed() {
        let (reply, record) =
            exchange(H11, body).asks("te", "trailers").header("trailer", "x-sum").run().await;
        assert_eq!(Account::of(&record), completed(Trailers, 5));
        assert_eq!(record.trailers().unwrap()["x-sum"], "abc");
        assert_eq!(record.metrics().frames(), 2);
        assert!(reply.text().contains("x-sum: abc"), "{}", reply.text());
    }
}

#[tokio::test]
async fn trailers_that_are_not_sent_are_recorded() {
    for body in summed() {
        let unasked = exchange(H11, body.clone()).header("trailer", "x-sum");
        let unannounced = exchange(H11, body.clone()).asks("te", "trailers");
        for exchange in [unasked, unannounced, exchange(H10, body)] {
            let reply = exchange.delivers("hello", completed(Trailers, 5)).await;
            assert!(!reply.text().contains("x-sum: abc"), "{}", reply.text());
        }
    }
}

#[tokio::test]
async fn trailers_on_http2_are_sent() {
    for body in summed() {
        let reply = exchange(H2, body).delivers("hello", completed(Trailers, 5)).await;
        assert_eq!(reply.trailers, Some(trailers(&[("x-sum", "abc")])));
    }
}

#[tokio::test]
async fn trailers_alone_complete_a_body() {
    for proto in [H10, H11, H2] {
        for hint in [false, true] {
            exchange(proto, body([]).trailers().hint(hint)).delivers("", completed(Trailers, 0)).await;
        }
    }
}

#[tokio::test]
async fn end_hint_before_the_trailers_hides_them() {
    for proto in [H11, H2] {
        let body = body(["hello"]).trailers().claims_end_after(1);
        let (reply, record) = exchange(proto, body).run().await;
        assert_eq!(Account::of(&record), completed(EndHint, 5));
        assert_eq!((record.trailers(), reply.trailers), (None::<&HeaderMap>, None));
    }
}

#[tokio::test]
async fn frames_after_trailers_are_never_polled() {
    for proto in [H10, H11, H2] {
        for hint in [false, true] {
            // The body panics if it is polled on.
            let body = body(["hello"]).trailers().data("never").hint(hint);
            exchange(proto, body).expect(completed(Trailers, 5)).await;
        }
    }
}

#[tokio::test]
async fn adapters_that_poll_on_after_trailers() {
    for body in summed() {
        let respond = async |recorder: &Recorder| {
            let service = recorder.around(answers([Response::new(body.clone())]));
            service.oneshot(Request::new(())).await.unwrap().into_body()
        };
        let recorder = Recorder::new();
        let collected = respond(&recorder).await.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-sum"], "abc");
        assert_eq!(recorder.account().await, completed(Trailers, 5));

        let recorder = Recorder::new();
        let mut stream = respond(&recorder).await.into_data_stream();
        let mut chunks = Vec::new();
        while let Some(chunk) = futures_util::StreamExt::next(&mut stream).await {
            chunks.push(chunk.unwrap());
        }
        assert!(futures_util::StreamExt::next(&mut stream).await.is_none());
        assert_eq!(chunks, ["hello"]);
        assert_eq!(recorder.account().await, completed(Trailers, 5));
    }
}

#[tokio::test]
async fn declared_length_before_trailers() {
    for hint in [false, true] {
        let recorder = Recorder::new();
        let service = handler(move |_| async move {
            let late = async { Some(Ok(trailers(&[("x-sum", "abc")]))) };
            let body = body(["helloworld"]).hint(hint).with_trailers(late);
            Ok(Response::builder().header("content-length", "10").body(boxed(body)).unwrap())
        });
        let server = serve(Options::h1(), recorder.around(service)).await;
        let mut client = RawClient::get(server.addr).await;
        client.read_until("helloworld").await;
        // `with_trailers` hides the inner end hint until the trailers are out.
        assert_eq!(recorder.account().await, completed(Length, 10));
    }
}
