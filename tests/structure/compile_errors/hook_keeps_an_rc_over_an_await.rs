use std::rc::Rc;

use streaming_accumulator::StreamingAccumulatorLayer;

async fn save(_: &str) {}

fn main() {
    let _ = StreamingAccumulatorLayer::builder()
        .on_end(|record| async move {
            let id = Rc::new(record.id().to_string());
            save(&id).await;
        })
        .build();
}
