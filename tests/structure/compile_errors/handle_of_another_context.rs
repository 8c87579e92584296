use streaming_accumulator::{StreamPipeline, StreamingAccumulatorLayer};

fn main() {
    let layer = StreamingAccumulatorLayer::builder().context(|_| 7_u64).build().unwrap();
    drop(StreamPipeline::builder().open(&layer.handle(), "from a queue"));
}
