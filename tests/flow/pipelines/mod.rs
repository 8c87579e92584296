//! Pipelines: streams that are not HTTP bodies, from their producers to their one record.

mod content;
mod layers;
mod producers;
mod records;
mod strategies;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use streaming_accumulator::BackpressureStrategy::{self, Block};
use streaming_accumulator::stream::StreamPipelineBuilder;
use streaming_accumulator::{Builder, PushError, StreamError, StreamPipeline, StreamRecord};
use tokio::time::Instant;

use crate::pressure::ADAPTIVE;
use crate::readers::chunk;
use crate::support::{Recorder, within};

/// Strategies that hold a producer, for as long as a test takes.
const HOLDING: [BackpressureStrategy; 2] = [ADAPTIVE, Block(Duration::from_secs(3600))];

type Context = &'static str;
/// A layer whose hooks keep every record, with the name of the hook that got it.
type Hooks = Recorder<Context>;

fn hooks(configure: impl FnOnce(Builder<Context>) -> Builder<Context>) -> Hooks {
    Recorder::routed(configure)
}

// === impl Hooks ===

impl Hooks {
    async fn pipeline(&self, builder: StreamPipelineBuilder) -> StreamPipeline {
        within("a slot", builder.open(&self.handle(), "acme")).await.unwrap()
    }

    /// The one record and the name of the one hook that got it, with the books closed.
    async fn record(&self) -> (Context, Arc<StreamRecord<Context>>) {
        self.only().await;
        let audit = self.audit();
        assert_eq!(audit.rejected(), 0, "{audit:?}");
        assert!(self.handle().streams().is_empty());
        self.records().take().remove(0)
    }
}

async fn push_all(pipeline: &StreamPipeline, chunks: &[Bytes]) {
    for chunk in chunks {
        within("a push", pipeline.push(chunk.clone())).await.unwrap();
    }
}

/// How long one push takes.
async fn timed(pipeline: &StreamPipeline) -> Duration {
    let start = Instant::now();
    push_all(pipeline, &[chunk(0, 10)]).await;
    start.elapsed()
}

fn content(pipeline: &StreamPipeline) -> Vec<Bytes> {
    pipeline.snapshot().chunks().map(Result::unwrap).collect()
}

fn is_stopped(result: Result<(), PushError>) -> bool {
    matches!(result, Err(PushError::Ended | PushError::Failed(StreamError::Stopped { .. })))
}

/// Chunk `n` of a producer, large enough to be kept by reference now and then.
fn from(producer: u8, n: u32) -> Bytes {
    let mut bytes = vec![producer; if n % 97 == 5 { 1_500 } else { 5 + n as usize % 60 }];
    bytes[1..5].copy_from_slice(&n.to_le_bytes());
    bytes.into()
}

/// How many chunks of each producer there are, having seen that each producer's are whole and in order.
fn by_producer<const PRODUCERS: usize>(chunks: &[Bytes]) -> [u32; PRODUCERS] {
    let mut next = [0; PRODUCERS];
    for chunk in chunks {
        let producer = chunk[0];
        let n = &mut next[producer as usize];
        assert_eq!(chunk, &from(producer, *n), "producer {producer}");
        *n += 1;
    }
    next
}

/// Runs producers side by side, each with `each` chunks.
async fn produce<const PRODUCERS: usize>(pipeline: &StreamPipeline, each: u32) {
    let producers = (0..PRODUCERS as u8).map(|producer| {
        let pipeline = pipeline.clone();
        tokio::spawn(async move {
            for n in 0..each {
                pipeline.push(from(producer, n)).await.unwrap();
            }
        })
    });
    for done in within("producers", join_all(producers)).await {
        done.unwrap();
    }
}
