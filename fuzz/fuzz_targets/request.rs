//! Requests that are read as they stream through a layer: the same model and the same prompt however they are cut,
//! and the bytes as they were.

#![no_main]

mod common;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use common::{knobs, same_however_cut};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::Value;
use streaming_accumulator::http::RequestBody;
use streaming_accumulator::meter::{Estimator, MeterSet};
use streaming_accumulator::{
    BoxError, Capture, CaptureRequestLayer, StreamRecord, StreamingAccumulatorLayer,
};
use tokio::runtime::{self, Runtime};
use tokio::sync::mpsc;
use tower::{Layer, ServiceExt, service_fn};

/// Makes a number of a text that tells it from others.
struct Sum;

/// A layer, and its records as they are delivered.
struct Bench {
    runtime: Runtime,
    layer: StreamingAccumulatorLayer,
    records: mpsc::Receiver<Arc<StreamRecord>>,
}

thread_local! {
    static BENCH: std::cell::RefCell<Bench> = Bench::new().into();
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut body = data;
    let Some(knobs) = knobs(&mut body) else { return };
    let (model, _) = same_however_cut(body, &knobs.lengths, |pieces| {
        BENCH.with_borrow_mut(|bench| bench.asked(body, pieces))
    });
    let wanted = serde_json::from_slice::<Value>(body).ok();
    match wanted.as_ref().and_then(|body| body["model"].as_str()) {
        Some(wanted) if !wanted.is_empty() && wanted.len() < 250 => {
            assert_eq!(model.as_deref(), Some(wanted));
        }
        _ => {}
    }
});

impl Bench {
    fn new() -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (sender, records) = mpsc::channel(1);
        let guard = runtime.enter();
        let layer = StreamingAccumulatorLayer::builder()
            .meter(MeterSet::detect().estimate(Sum))
            .capture(Capture::none())
            .on_end(move |record| {
                let sender = sender.clone();
                async move { sender.send(record).await.expect("somebody waits") }
            })
            .build()
            .expect("a layer");
        drop(guard);
        Self { runtime, layer, records }
    }

    /// The model and the prompt's sum that the layer finds in a request of these pieces.
    fn asked(&mut self, whole: &[u8], pieces: &[&[u8]]) -> (Option<Box<str>>, Option<u64>) {
        let frames: Vec<_> = pieces
            .iter()
            .map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        let upload = StreamBody::new(futures_util::stream::iter(frames));
        let request = Request::post("/v1/chat/completions").header("content-type", "application/json");
        let answer = service_fn(async |request: Request<RequestBody<_>>| {
            let upload: http_body_util::Collected<Bytes> = RequestBody::collect(request.into_body()).await?;
            assert_eq!(upload.to_bytes(), whole, "the bytes are as they were");
            Ok::<_, BoxError>(Response::new(Full::new(Bytes::from_static(b"data: {}\n\n"))))
        });
        let service = self.layer.layer(CaptureRequestLayer::new(1024 * 1024).layer(answer));
        let records = &mut self.records;
        let record = self.runtime.block_on(async move {
            let answer = service.oneshot(request.body(upload).expect("a request")).await.expect("an answer");
            answer.into_body().collect().await.expect("a body");
            records.recv().await.expect("a record")
        });
        let model = record.llm().and_then(|report| report.request_model.clone());
        (model, record.usage().input_tokens)
    }
}

impl Estimator for Sum {
    fn tokens(&self, _model: Option<&str>, text: &str) -> u64 {
        crc32fast::hash(text.as_bytes()).into()
    }
}
