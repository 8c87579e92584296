//! Bodies that arrive in time: one piece after the other, an interval apart.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// One piece of a body.
pub(crate) enum Piece {
    /// Goes out with no wait.
    Now(Bytes),
    /// Goes out at the next tick.
    Tick(Bytes),
}

/// A body of `pieces`.
///
/// Nothing is spawned: the pieces are made when the server asks for them, so they stop when it drops the
/// body because the client left.
pub(crate) fn body(interval: Duration, pieces: impl Iterator<Item = Piece> + Send + 'static) -> Body {
    let clock = clock(interval);
    Body::from_stream(stream::unfold((clock, pieces), async |(mut clock, mut pieces)| {
        let bytes = match pieces.next()? {
            Piece::Now(bytes) => bytes,
            Piece::Tick(bytes) => {
                if let Some(clock) = &mut clock {
                    clock.tick().await;
                }
                bytes
            }
        };
        Some((Ok::<_, Infallible>(bytes), (clock, pieces)))
    }))
}

/// Ticks for the first time after one interval. None if the interval is zero: no timer is that short.
fn clock(interval: Duration) -> Option<Interval> {
    if interval.is_zero() {
        return None;
    }
    let mut clock = interval_at(Instant::now() + interval, interval);
    // After a pause of the client's the pace goes on, with no burst to catch up.
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(clock)
}
