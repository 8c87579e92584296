//! What happens to each stream, all of it chosen by its number.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use streaming_accumulator::{BackpressureStrategy, Capture, StreamingAccumulatorLayer, WhenFull};

use crate::checks::Soak;

pub(crate) const KIB: usize = 1024;

pub(crate) const MIB: usize = 1024 * KIB;

/// The content of every body, from a point that its number tells: a prime number of random bytes, over and
/// over.
pub(crate) struct Pattern(Box<[u8; Self::LEN]>);

/// What happens to one stream, all of it chosen by its number. Its client's part is not in it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) n: u64,
    pub(crate) layer: usize,
    pub(crate) size: u64,
    pub(crate) largest_chunk: usize,
    pub(crate) fault: Fault,
    pub(crate) taps: Vec<Reader>,
    /// The body says how long it is.
    pub(crate) exact: bool,
    /// The body is not ready once every this many frames.
    pub(crate) pauses: u64,
}

/// What ends a stream early, after a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    None,
    /// The body fails.
    Error(u64),
    /// Somebody cancels the stream, and may come too late.
    Cancel(u64),
}

/// What a tap does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reader {
    ToTheEnd {
        waited: bool,
    },
    /// It is dropped after `after` chunks.
    Leaves {
        waited: bool,
        after: u64,
    },
    /// It is held as long as the body and never read.
    Idle {
        waited: bool,
    },
}

/// One layer's settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) capture: Capture,
    /// Bytes that the capture may hold.
    pub(crate) most: usize,
    pub(crate) strategy: BackpressureStrategy,
    pub(crate) buffer_limit: usize,
    pub(crate) when_full: WhenFull,
}

impl Pattern {
    /// The length after which it repeats.
    pub(crate) const PERIOD: usize = 65_521;
    pub(crate) const LEN: usize = 2 * Self::PERIOD;

    pub(crate) fn new(rng: &mut Rng) -> Self {
        let period: Vec<u8> = (0..Self::PERIOD).map(|_| rng.u8(..)).collect();
        let twice = period.iter().chain(&period).copied().collect::<Vec<u8>>();
        Self(twice.into_boxed_slice().try_into().expect("of that length"))
    }

    /// At most `most` bytes of stream `n` from `at` on.
    pub(crate) fn from(&self, n: u64, at: u64, most: usize) -> &[u8] {
        let start = ((n.wrapping_mul(7919) + at) % Self::PERIOD as u64) as usize;
        &self.0[start..start + most.min(Self::PERIOD)]
    }

    /// Whether `bytes` are those of stream `n` at `at`.
    pub(crate) fn has(&self, n: u64, at: u64, bytes: &[u8]) -> bool {
        let mut at = at;
        bytes.chunks(Self::PERIOD).all(|bytes| {
            let found = self.from(n, at, bytes.len()) == bytes;
            at += bytes.len() as u64;
            found
        })
    }
}

impl Plan {
    pub(crate) fn of(seed: u64, n: u64, kinds: &[Kind]) -> Self {
        let mut rng = Rng::with_seed(seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let layer = rng.usize(..kinds.len());
        let largest_chunk = *rng.choice(&[40, 200, 1000, 1500, 6000, 20_000]).expect("not empty");
        // As many short ones as long ones, and no more frames than take a moment.
        let doubled = rng.u32(0..22);
        let size = rng.u64(0..1 << doubled).min(largest_chunk as u64 * 1000);
        let somewhere = rng.u64(0..size.max(1));
        let fault = match rng.u8(..8) {
            0 => Fault::Error(somewhere),
            1 => Fault::Cancel(somewhere),
            _ => Fault::None,
        };
        let taps = if rng.u8(..3) == 0 { rng.usize(1..4) } else { 0 };
        // One that is waited for and never reads holds an adaptive stream for ever, as it should.
        let may_hang = matches!(kinds[layer].strategy, BackpressureStrategy::Adaptive { .. });
        let taps = (0..taps).map(|_| {
            let waited = rng.bool();
            match rng.u8(..4) {
                0 => Reader::Idle { waited: waited && !may_hang },
                1 => Reader::Leaves { waited, after: rng.u64(0..100) },
                _ => Reader::ToTheEnd { waited },
            }
        });
        let taps = taps.collect();
        Self { n, layer, size, largest_chunk, fault, taps, exact: rng.u8(..3) == 0, pauses: rng.u64(2..50) }
    }

    /// Whether a client that stays gets every byte.
    pub(crate) fn is_safe(&self, kinds: &[Kind]) -> bool {
        let waited = self.taps.iter().any(|tap| match tap {
            Reader::ToTheEnd { waited } | Reader::Leaves { waited, .. } | Reader::Idle { waited } => *waited,
        });
        let ends_it = matches!(
            kinds[self.layer].strategy,
            BackpressureStrategy::Reject | BackpressureStrategy::Block(_)
        );
        self.fault == Fault::None && !(waited && ends_it)
    }
}

impl Kind {
    /// One of each kind, of random sizes.
    pub(crate) fn all(rng: &mut Rng) -> Vec<Self> {
        let adaptive = BackpressureStrategy::Adaptive {
            initial_delay: Duration::from_micros(100),
            max_delay: Duration::from_millis(2),
            multiplier: 2.0,
        };
        let block = BackpressureStrategy::Block(Duration::from_millis(5));
        let [small, large] = [rng.usize(2..9) * KIB, rng.usize(1024..4096) * KIB];
        let [head, tail, only_tail] = [4..33, 4..33, 8..129].map(|sizes| rng.usize(sizes) * KIB);
        let kind = |capture, most, strategy, buffer_limit, when_full| Self {
            capture,
            most,
            strategy,
            buffer_limit,
            when_full,
        };
        vec![
            kind(Capture::all(small), small, adaptive, 64, WhenFull::Wait),
            kind(Capture::all(large), large, BackpressureStrategy::Reject, 256, WhenFull::Reject),
            kind(Capture::tail(only_tail), only_tail, BackpressureStrategy::DropOldest, 32, WhenFull::Wait),
            kind(Capture::head_tail(head, tail), head + tail, block, 16, WhenFull::Wait),
            kind(Capture::none(), 0, adaptive, 1024, WhenFull::Wait),
        ]
    }

    pub(crate) fn layer(&self, soak: &Arc<Soak>) -> StreamingAccumulatorLayer<u64> {
        let checker = Arc::clone(soak);
        StreamingAccumulatorLayer::builder()
            .context(|parts| number(&parts.uri))
            .capture(self.capture)
            .memory_budget(&soak.budget)
            .backpressure(self.strategy)
            .buffer_limit(self.buffer_limit)
            .when_full(self.when_full)
            .on_end(move |record| {
                let soak = Arc::clone(&checker);
                async move {
                    soak.check(&record);
                    // It never fails: the sender is in the soak.
                    let _ = soak.stuck.subscribe().wait_for(|stuck| !stuck).await;
                }
            })
            .build()
            .unwrap()
    }
}

pub(crate) fn number(uri: &http::Uri) -> u64 {
    uri.path().trim_start_matches('/').parse().expect("the number of a stream")
}
