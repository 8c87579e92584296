//! Nothing: the tests are in `tests/`.

pub use streaming_accumulator::StreamingAccumulatorLayer;
