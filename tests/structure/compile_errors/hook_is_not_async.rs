use streaming_accumulator::StreamingAccumulatorLayer;

fn main() {
    let _ = StreamingAccumulatorLayer::builder()
        .on_end(|record| println!("{record:?}"))
        .build();
}
