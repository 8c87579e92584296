//! Backpressure as the tests of layers and of pipelines set it.

use std::time::Duration;

use streaming_accumulator::BackpressureStrategy::{self, Adaptive, Block, DropOldest, Reject};
use streaming_accumulator::stream::StreamPipelineBuilder;
use streaming_accumulator::{Capture, StreamError, StreamPipeline};

use crate::support::Recorder;

pub(crate) const ADAPTIVE: BackpressureStrategy = Adaptive {
    initial_delay: Duration::from_millis(10),
    max_delay: Duration::from_millis(50),
    multiplier: 2.0,
};

pub(crate) const ALL: [BackpressureStrategy; 4] =
    [ADAPTIVE, DropOldest, Reject, Block(Duration::from_millis(30))];

/// Chunks at which a stream is full.
const FULL: usize = 10;

/// The percentage of those from which on it is throttled: five chunks.
const MARK: u8 = 50;

/// A layer whose streams are throttled from five chunks on, and full at ten.
pub(crate) fn pressed(strategy: BackpressureStrategy, capture: Capture) -> Recorder {
    Recorder::with(|layer| {
        layer.capture(capture).backpressure(strategy).buffer_limit(FULL).high_water_mark(MARK)
    })
}

/// A pipeline that is throttled from five chunks on, and full at ten.
pub(crate) fn pressed_pipeline(strategy: BackpressureStrategy) -> StreamPipelineBuilder {
    StreamPipeline::builder().backpressure(strategy).buffer_limit(FULL).high_water_mark(MARK)
}

/// How far a stream's reader was behind, and how far it might be.
pub(crate) fn lag_and_limit(error: &StreamError) -> (u64, u64) {
    match error {
        StreamError::Backpressure { lag, limit, .. } => (*lag, *limit),
        other => panic!("{other}"),
    }
}
