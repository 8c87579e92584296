use std::error::Error;

use streaming_accumulator::StreamingAccumulatorLayer;

fn write(_: u64) -> Result<(), Box<dyn Error>> {
    Ok(())
}

fn main() {
    let _ = StreamingAccumulatorLayer::builder()
        .on_end(|record| async move { write(record.metrics().bytes()) })
        .build();
}
