use streaming_accumulator::StreamingAccumulatorLayer;

fn main() {
    let _ = StreamingAccumulatorLayer::builder()
        .on_chunk(|chunk, _| println!("{}", chunk.len()))
        .build();
}
