//! Pipelines that are opened on a layer obey that layer's settings.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method};
use streaming_accumulator::meter::{MeterSet, UsageBasis};
use streaming_accumulator::{
    Capture, EndedBy, MemoryBudget, Outcome, PushError, StopReason, StreamError, StreamPipeline, WhenFull,
};

use super::{hooks, push_all};
use crate::readers::{MS, chunk, chunks};
use crate::support::{until, within};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn pipeline_keeps_what_its_layer_captures() {
    let text = chunks(0..40).concat();
    for (capture, kept) in [
        (Capture::tail(100), Bytes::copy_from_slice(&text[text.len() - 100..])),
        (Capture::head(100), Bytes::copy_from_slice(&text[..100])),
        (Capture::none(), Bytes::new()),
    ] {
        let hooks = hooks(|layer| layer.capture(capture));
        let pipeline = hooks.pipeline(StreamPipeline::builder()).await;
        push_all(&pipeline, &chunks(0..40)).await;
        assert!(pipeline.finish(Outcome::Completed));
        let (_, record) = hooks.record().await;
        assert_eq!(record.content().to_bytes().unwrap(), kept, "{capture:?}");
        assert!(record.content().is_truncated());
        assert_eq!(record.metrics().bytes(), text.len() as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn own_capture_wins_over_the_layers() {
    let hooks = hooks(|layer| layer.capture(Capture::none()));
    let pipeline = hooks.pipeline(StreamPipeline::builder().max_size(1024)).await;
    push_all(&pipeline, &[chunk(0, 10)]).await;
    assert!(pipeline.finish(Outcome::Completed));
    assert_eq!(hooks.record().await.1.content().to_bytes().unwrap(), chunk(0, 10));
}

#[tokio::test(start_paused = true)]
async fn strict_capture_fails_a_pipeline() {
    let hooks = hooks(|layer| layer.capture(Capture::all(15).or_fail()));
    let pipeline = hooks.pipeline(StreamPipeline::builder()).await;
    push_all(&pipeline, &[chunk(0, 10)]).await;
    let error = pipeline.push(chunk(1, 10)).await.unwrap_err();
    assert!(matches!(error, PushError::Failed(StreamError::ContentTooLarge { limit: 15, .. })), "{error}");
    let (hook, record) = hooks.record().await;
    assert_eq!((hook, record.metrics().bytes(), record.ended_by()), ("failure", 10, EndedBy::Layer));
    assert_eq!(record.content().to_bytes().unwrap(), chunk(0, 10));
}

#[tokio::test(start_paused = true)]
async fn idle_pipeline_meets_its_layers_limit() {
    let hooks = hooks(|layer| layer.idle_timeout(SECOND));
    let pipeline = hooks.pipeline(StreamPipeline::builder()).await;
    let token = pipeline.child_token();
    for number in 0..5 {
        push_all(&pipeline, &[chunk(number, 10)]).await;
        tokio::time::sleep(800 * MS).await;
        assert!(!token.is_cancelled());
    }
    within("the limit", token.cancelled()).await;
    let error = pipeline.push(chunk(9, 10)).await.unwrap_err();
    assert_eq!(kind(&error), "idle_timeout");
    let (hook, record) = hooks.record().await;
    assert_eq!((hook, record.outcome().error().map(StreamError::kind)), ("failure", Some("idle_timeout")));
    assert_eq!(record.metrics().chunks(), 5);
}

#[tokio::test(start_paused = true)]
async fn busy_pipeline_meets_its_layers_total_limit() {
    let hooks = hooks(|layer| layer.total_timeout(SECOND));
    let pipeline = hooks.pipeline(StreamPipeline::builder()).await;
    let mut pushed = 0;
    let error = loop {
        match pipeline.push(chunk(pushed, 10)).await {
            Ok(()) => pushed += 1,
            Err(error) => break error,
        }
        tokio::time::sleep(50 * MS).await;
    };
    assert_eq!(kind(&error), "timeout");
    assert!((19..=23).contains(&pushed), "{pushed} in a second, and a sixteenth of one at the most");
    let (hook, record) = hooks.record().await;
    assert_eq!((hook, record.metrics().chunks()), ("failure", pushed));
}

#[tokio::test(start_paused = true)]
async fn silent_pipeline_meets_the_first_chunk_limit() {
    let hooks = hooks(|layer| layer.first_chunk_timeout(SECOND));
    let pipeline = hooks.pipeline(StreamPipeline::builder()).await;
    within("the limit", pipeline.child_token().cancelled()).await;
    assert_eq!(kind(&pipeline.push(chunk(0, 10)).await.unwrap_err()), "first_chunk_timeout");
    assert_eq!(hooks.record().await.0, "failure");
}

fn kind(error: &PushError) -> &'static str {
    match error {
        PushError::Failed(error) => error.kind(),
        _ => "none",
    }
}

const EVENTS: [&str; 3] = [
    "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"gpt-4o\",\
     \"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"gpt-4o\",\"choices\":[],\
     \"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5,\"total_tokens\":8}}\n\n",
    "data: [DONE]\n\n",
];

#[tokio::test(start_paused = true)]
async fn pipeline_is_metered_as_its_layer_is() {
    for size in [1, 7, 4096] {
        let hooks = hooks(|layer| layer.meter(MeterSet::detect()));
        let builder = StreamPipeline::builder()
            .request(Method::POST, "/v1/chat/completions".parse().unwrap())
            .content_type(HeaderValue::from_static("text/event-stream"));
        let pipeline = hooks.pipeline(builder).await;
        let text = EVENTS.concat();
        for piece in text.as_bytes().chunks(size) {
            push_all(&pipeline, &[Bytes::copy_from_slice(piece)]).await;
        }
        assert_eq!(pipeline.handle().usage().unwrap().total_tokens, Some(8));
        assert!(pipeline.finish(Outcome::Completed));
        let (hook, record) = hooks.record().await;
        let usage = record.usage();
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(3), Some(5)));
        assert_eq!((hook, usage.basis), ("complete", UsageBasis::Reported));
        assert_eq!(record.llm().unwrap().model(), Some("gpt-4o"));
    }
}

#[tokio::test(start_paused = true)]
async fn chunks_of_a_pipeline_can_be_withheld() {
    let hooks = hooks(|layer| {
        layer.on_chunk(|_, stream| match stream.metrics().chunks() {
            2 => ControlFlow::Break(StopReason::from("enough")),
            _ => ControlFlow::Continue(()),
        })
    });
    let pipeline = hooks.pipeline(StreamPipeline::builder()).await;
    push_all(&pipeline, &[chunk(0, 10), chunk(1, 10)]).await;
    for number in 2..4 {
        assert_eq!(kind(&pipeline.push(chunk(number, 10)).await.unwrap_err()), "stopped");
    }
    let (hook, record) = hooks.record().await;
    assert_eq!((hook, record.stop_reason()), ("cancel", Some(&StopReason::from("enough"))));
    assert_eq!((record.metrics().bytes(), record.metrics().bytes_produced()), (20, 30));
    assert_eq!(record.content().len(), 20);
}

#[tokio::test(start_paused = true)]
async fn full_layer_refuses_a_pipeline() {
    let hooks = hooks(|layer| layer.max_in_flight(1).when_full(WhenFull::Reject));
    let held = hooks.pipeline(StreamPipeline::builder()).await;
    let refused = StreamPipeline::builder().open(&hooks.handle(), "acme").await;
    assert_eq!(refused.unwrap_err(), PushError::Full);
    let audit = hooks.audit();
    assert_eq!((audit.opened(), audit.in_flight(), audit.rejected()), (1, 1, 1));
    assert!(held.finish(Outcome::Completed));
    until("the slot", || hooks.audit().hooks()[0].delivered() == 1).await;
    let opened = StreamPipeline::builder().open(&hooks.handle(), "acme").await.unwrap();
    assert!(opened.finish(Outcome::Completed));
}

#[tokio::test(start_paused = true)]
async fn closed_layer_refuses_a_pipeline() {
    for when_full in [WhenFull::Wait, WhenFull::Reject] {
        let hooks = hooks(|layer| layer.when_full(when_full));
        assert!(hooks.handle().shutdown(SECOND).await.is_clean());
        let refused = StreamPipeline::builder().open(&hooks.handle(), "acme").await;
        assert_eq!(refused.unwrap_err(), PushError::Closed);
        assert_eq!(hooks.audit().opened(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn pipeline_is_charged_to_its_layers_budget() {
    let budget = MemoryBudget::new(1024 * 1024);
    let hooks = hooks(|layer| layer.capture(Capture::all(1 << 30)).memory_budget(&budget));
    let pipeline = hooks.pipeline(StreamPipeline::builder()).await;
    for number in 0..500 {
        push_all(&pipeline, &[chunk(number, 8 * 1024)]).await;
    }
    assert!(budget.used() > 512 * 1024, "{budget:?}");
    assert!(budget.peak() <= 1024 * 1024, "{budget:?}");
    assert_eq!(hooks.audit().memory_used(), budget.used());
    assert!(pipeline.finish(Outcome::Completed));
    drop(pipeline);
    let (_, record) = hooks.record().await;
    assert!(record.content().is_truncated());
    assert_eq!(record.metrics().bytes(), 500 * 8 * 1024);
    drop(record);
    until("the memory to be given back", || budget.used() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn pipeline_with_a_budget_of_its_own() {
    let (shared, own) = (MemoryBudget::new(1024 * 1024), MemoryBudget::new(1024 * 1024));
    let hooks = hooks(|layer| layer.memory_budget(&shared));
    let pipeline = hooks.pipeline(StreamPipeline::builder().memory_budget(&own)).await;
    push_all(&pipeline, &[chunk(0, 100)]).await;
    assert!(shared.used() == 0 && own.used() > 0, "{shared:?} {own:?}");
    assert!(pipeline.finish(Outcome::Completed));
    hooks.record().await;
}
