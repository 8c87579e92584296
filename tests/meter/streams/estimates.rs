//! Estimates: for streams that were cut, when somebody asks, and for no call that used nothing.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::BodyExt;
use streaming_accumulator::http::RequestBody;
use streaming_accumulator::meter::{Estimator, Meter, MeterSet, ReportBuilder, UsageBasis};
use streaming_accumulator::{AccumulatorBody, BoxError, CaptureRequestLayer, Outcome, Phase, StreamRecord};
use tower::{Layer, ServiceExt};

use super::lines::{lines, tokens};
use crate::support::*;

/// A token for each byte; how often it was asked.
#[derive(Clone, Default)]
struct Bytewise(Arc<AtomicU64>);

/// Reports texts and no usage.
struct Texts;

/// What the inner service answers.
type Answered = Result<Response<MockBody>, BoxError>;

type Answer = fn() -> Answered;

// === impl Bytewise ===

impl Estimator for Bytewise {
    fn tokens(&self, _: Option<&str>, text: &str) -> u64 {
        self.0.fetch_add(1, SeqCst);
        text.len() as u64
    }
}

// === impl Texts ===

impl Meter for Texts {
    fn feed(&mut self, bytes: &[u8], reading: &mut ReportBuilder) {
        reading.text(0, &String::from_utf8_lossy(bytes));
    }

    fn finish(&mut self, _: &mut ReportBuilder) {}

    fn is_terminated(&self) -> Option<bool> {
        None
    }
}

/// A layer that meters, and has an estimator.
fn estimating(set: MeterSet) -> (Recorder, Bytewise) {
    let estimator = Bytewise::default();
    let set = set.estimate(estimator.clone());
    (Recorder::with(|builder| builder.meter(set)), estimator)
}

fn texts() -> MeterSet {
    MeterSet::none().with(|_| Some(Box::new(Texts)))
}

/// A request for the answer to nine bytes.
fn request() -> Request<MockBody> {
    Request::new(body([r#"{"model":"gpt","messages":[{"role":"user","content":"how are u"}]}"#]))
}

fn counts(record: &StreamRecord) -> (Option<u64>, Option<u64>, UsageBasis) {
    let usage = record.usage();
    (usage.input_tokens, usage.output_tokens, usage.basis)
}

/// Reads the request, of which at most `max` bytes are captured, then answers.
async fn answer_capturing(
    max: usize,
    recorder: &Recorder,
    response: Answered,
) -> Result<Response<AccumulatorBody<TestBody>>, BoxError> {
    let response = Arc::new(Mutex::new(Some(response)));
    let service = handler(move |request: Request<RequestBody<MockBody>>| {
        let response = Arc::clone(&response);
        async move {
            request.into_body().collect().await?;
            let response = response.lock().unwrap().take().unwrap()?;
            Ok(response.map(boxed))
        }
    });
    recorder.around(CaptureRequestLayer::new(max).layer(service)).oneshot(request()).await
}

/// The same, with room for the whole request.
async fn answer(
    recorder: &Recorder,
    response: Answered,
) -> Result<Response<AccumulatorBody<TestBody>>, BoxError> {
    answer_capturing(1024, recorder, response).await
}

/// The record of an answer that is pulled so far and then dropped.
async fn cut(recorder: &Recorder, body: MockBody) -> Arc<StreamRecord> {
    let response = Ok(Response::new(body.wait(&Gate::new())));
    cut_answer(answer(recorder, response).await.unwrap(), recorder).await
}

async fn cut_answer(response: Response<AccumulatorBody<TestBody>>, recorder: &Recorder) -> Arc<StreamRecord> {
    let mut body = response.into_body();
    let mut frame = tokio_test::task::spawn(body.frame());
    assert!(frame.poll().is_ready());
    drop(frame);
    drop(body);
    recorder.only().await
}

#[tokio::test]
async fn unreported_usage_is_estimated_once_on_demand() {
    let (recorder, estimator) = estimating(texts());
    let record = cut(&recorder, body(["fine"])).await;
    assert_eq!((record.outcome(), estimator.0.load(SeqCst)), (&Outcome::Cancelled, 0));
    assert_eq!(counts(&record), (Some(9), Some(4), UsageBasis::Estimated));
    let asked = estimator.0.load(SeqCst);
    assert!(asked > 0);
    assert_eq!(counts(&record), (Some(9), Some(4), UsageBasis::Estimated));
    assert_eq!(estimator.0.load(SeqCst), asked);
}

#[tokio::test]
async fn capturing_nothing_keeps_the_model_only() {
    let (recorder, _) = estimating(texts());
    let response = Ok(Response::new(body(["fine"]).wait(&Gate::new())));
    let response = answer_capturing(0, &recorder, response).await.unwrap();
    let record = cut_answer(response, &recorder).await;
    assert_eq!(record.llm().and_then(|report| report.request_model.as_deref()), Some("gpt"));
    // No prompt was kept: nine characters are three tokens by their number, and nine by the estimator.
    assert_eq!(counts(&record), (Some(3), Some(4), UsageBasis::Estimated));
}

#[tokio::test]
async fn what_was_reported_stands() {
    let (recorder, _) = estimating(lines());
    let record = cut(&recorder, body(["fine\n"])).await;
    // One token by the protocol, four bytes.
    assert_eq!(tokens(&record), (Some(1), UsageBasis::Estimated));
    assert_eq!(record.usage().input_tokens, Some(9));
}

#[tokio::test]
async fn input_is_estimated_when_client_leaves_early() {
    let (recorder, _) = estimating(texts());
    let service = handler(|request: Request<RequestBody<MockBody>>| async move {
        request.into_body().collect().await?;
        std::future::pending().await
    });
    let service = recorder.around(CaptureRequestLayer::new(1024).layer(service));
    let mut response = tokio_test::task::spawn(service.oneshot(request()));
    assert!(response.poll().is_pending());
    drop(response);
    let record = recorder.only().await;
    assert_eq!((record.outcome(), record.phase()), (&Outcome::Cancelled, Phase::BeforeHead));
    assert_eq!(counts(&record), (Some(9), None, UsageBasis::Estimated));
}

#[tokio::test]
async fn refused_and_failed_calls_get_no_estimate() {
    let refused = || Ok(Response::builder().status(429).body(body(["later"])).unwrap());
    let strange = || Ok(Response::new(body(["something else"])));
    let cases: [(MeterSet, Answer); 3] =
        [(texts(), refused), (texts(), || Err("scripted error".into())), (MeterSet::none(), strange)];
    for (set, response) in cases {
        let (recorder, _) = estimating(set);
        let response = answer(&recorder, response()).await;
        if let Ok(response) = response {
            response.into_body().collect().await.unwrap();
        }
        let record = recorder.only().await;
        assert_eq!(counts(&record), (None, None, UsageBasis::Absent), "{record:?}");
        assert_eq!(record.llm().and_then(|report| report.request_model.as_deref()), Some("gpt"));
    }
}
