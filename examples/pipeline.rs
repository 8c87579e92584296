//! A stream that is not an HTTP body: several producers, one accumulator, a live view, one record.
//!
//! `cargo run --example pipeline`
//!
//! Three providers answer the same question; their chunks go through one pipeline as they come. A tap shows
//! them live, two workers share them, and at the end the hook that also bills HTTP streams gets the record.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use streaming_accumulator::{
    BackpressureStrategy, Outcome, StreamPipeline, StreamRecord, StreamingAccumulatorLayer,
};
use tokio::task::JoinSet;

/// What a record is billed to.
struct Tenant(&'static str);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let layer = StreamingAccumulatorLayer::builder()
        .context(|_| Tenant("from a request"))
        .on_complete(|record| async move { bill(&record) })
        .on_cancel(|record| async move { bill(&record) })
        .build()?;
    let handle = layer.handle();

    let pipeline = StreamPipeline::builder()
        .buffer_limit(16)
        .backpressure(BackpressureStrategy::Block(Duration::from_secs(1)))
        .open(&handle, Tenant("acme"))
        .await?;

    let mut readers = JoinSet::new();
    let mut tap = pipeline.tap().lossless();
    readers.spawn(async move {
        while let Some(chunk) = tap.next().await {
            println!("tap: {}", String::from_utf8_lossy(&chunk));
        }
        println!("tap: {:?}", tap.outcome());
    });
    let group = pipeline.handle().consumer_group();
    for worker in 1..=2 {
        let mut chunks = group.clone();
        readers.spawn(async move {
            let mut taken = 0;
            while chunks.next().await.is_some() {
                taken += 1;
            }
            println!("worker {worker}: {taken} chunks");
        });
    }

    let mut providers = JoinSet::new();
    for provider in ["one", "two", "three"] {
        let pipeline = pipeline.clone();
        // Fires when somebody stops the stream: the provider's work ends with it.
        let stopped = pipeline.child_token();
        providers.spawn(stopped.run_until_cancelled_owned(async move {
            for n in 1..=4 {
                let chunk = Bytes::from(format!("{provider} says {n}"));
                if pipeline.push(chunk).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }));
    }
    providers.join_all().await;
    pipeline.finish(Outcome::Completed);

    readers.join_all().await;
    let report = handle.shutdown(Duration::from_secs(5)).await;
    println!("{report}");
    Ok(())
}

fn bill(record: &StreamRecord<Tenant>) {
    println!(
        "bill {}: {} {} chunks, {} bytes, kept {} of them",
        record.context().map_or("nobody", |tenant| tenant.0),
        record.outcome(),
        record.metrics().chunks(),
        record.metrics().bytes(),
        record.content().len()
    );
}
