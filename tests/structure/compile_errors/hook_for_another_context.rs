use std::sync::Arc;

use streaming_accumulator::{BoxError, StreamHook, StreamRecord, StreamingAccumulatorLayer};

struct Ledger;

impl StreamHook<String> for Ledger {
    async fn on_end(&self, _: Arc<StreamRecord<String>>) -> Result<(), BoxError> {
        Ok(())
    }
}

fn main() {
    let _ = StreamingAccumulatorLayer::builder().hook(Ledger).build();
}
