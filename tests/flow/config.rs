//! Settings that cannot work are named when the layer is built.

use std::time::Duration;

use streaming_accumulator::BackpressureStrategy::Adaptive;
use streaming_accumulator::{Builder, ConfigError, StreamingAccumulatorLayer};

use crate::readers::MS;

type Configure = fn(Builder) -> Builder;

fn refused(configure: impl FnOnce(Builder) -> Builder) -> ConfigError {
    configure(StreamingAccumulatorLayer::builder()).build().expect_err("it cannot work")
}

fn adaptive(initial_delay: Duration, max_delay: Duration, multiplier: f64) -> ConfigError {
    refused(|layer| layer.backpressure(Adaptive { initial_delay, max_delay, multiplier }))
}

#[test]
fn zero_is_refused_by_its_settings_name() {
    let zeros: [(&str, Configure); 7] = [
        ("buffer_limit", |layer| layer.buffer_limit(0)),
        ("memory_budget", |layer| layer.memory_budget(0)),
        ("max_bytes_per_second", |layer| layer.max_bytes_per_second(0)),
        ("first_chunk_timeout", |layer| layer.first_chunk_timeout(Duration::ZERO)),
        ("idle_timeout", |layer| layer.idle_timeout(Duration::ZERO)),
        ("total_timeout", |layer| layer.total_timeout(Duration::ZERO)),
        ("stalled_reader_timeout", |layer| layer.stalled_reader_timeout(Duration::ZERO)),
    ];
    for (name, zero) in zeros {
        let error = refused(zero);
        assert!(matches!(error, ConfigError::Zero { setting, .. } if setting == name), "{error}");
        assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
    }
}

#[test]
fn a_mark_must_be_a_percentage() {
    for wrong in [0, 101, u8::MAX] {
        let error = refused(|layer| layer.high_water_mark(wrong));
        assert!(matches!(error, ConfigError::HighWaterMark { percent, .. } if percent == wrong), "{error}");
        assert!(error.to_string().contains("`high_water_mark`"), "{error}");
    }
    for right in [1, 100] {
        StreamingAccumulatorLayer::builder().high_water_mark(right).build().unwrap();
    }
}

#[test]
fn the_first_delay_must_not_exceed_the_longest() {
    let error = adaptive(3 * MS, 2 * MS, 2.0);
    assert!(
        matches!(error, ConfigError::BackpressureDelays { initial, max, .. } if (initial, max) == (3 * MS, 2 * MS))
    );
    let text = error.to_string();
    assert!(text.contains("backpressure") && text.contains("3ms") && text.contains("2ms"), "{text}");
}

#[test]
fn multiplier_must_be_at_least_one() {
    for wrong in [0.5, 0.0, -2.0, f64::NAN, f64::NEG_INFINITY] {
        let error = adaptive(MS, 2 * MS, wrong);
        assert!(matches!(error, ConfigError::Multiplier { .. }), "{error}");
        assert!(error.to_string().contains("multiplier") && error.to_string().contains(&wrong.to_string()));
    }
    let right = Adaptive { initial_delay: MS, max_delay: MS, multiplier: 1.0 };
    StreamingAccumulatorLayer::builder().backpressure(right).build().unwrap();
}
