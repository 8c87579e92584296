use streaming_accumulator::{StreamRecord, StreamingAccumulatorLayer};

async fn bill(record: StreamRecord) {
    println!("{record:?}");
}

fn main() {
    let _ = StreamingAccumulatorLayer::builder().on_end(bill).build();
}
