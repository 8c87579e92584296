use std::sync::Arc;

use streaming_accumulator::{StreamRecord, StreamingAccumulatorLayer};

fn main() {
    let _ = StreamingAccumulatorLayer::builder()
        .hook(|record: Arc<StreamRecord>| async move { println!("{record:?}") })
        .build();
}
