//! One stream, from its opening to its record.
//!
//! ```text
//!   StreamState      what is known of a running stream; the body writes it, anybody reads it
//!     pass_chunk     keep, count, meter: a chunk goes on only if it passes the gate of the metrics
//!     settle         close the gate ─▶ facts ─▶ decide ─▶ record ─▶ on_end ─▶ wakers, token, tracing
//!   StreamHandle     the live view that users get
//!   StreamGuard      settles the stream when future or body are dropped
//! ```
//!
//! Nothing here knows who delivers records: a stream is opened with an `on_end` callback that does.

pub(crate) mod backpressure;
pub(crate) mod check;
pub(crate) mod error;
pub(crate) mod handle;
pub(crate) mod head;
pub(crate) mod limits;
#[cfg(feature = "llm")]
pub(crate) mod meters;
pub(crate) mod metrics;
mod notify;
pub(crate) mod outcome;
mod pace;
pub(crate) mod pipeline;
pub(crate) mod record;
#[cfg(feature = "serde")]
mod record_serde;
#[cfg(feature = "llm")]
mod report;
pub(crate) mod settle;
pub(crate) mod state;
pub(crate) mod stop_reason;
pub(crate) mod tap;
pub(crate) mod termination;
pub(crate) mod throttle;
pub(crate) mod timer;
pub(crate) mod trace;

pub use self::backpressure::BackpressureStrategy;
pub use self::error::{PushError, StreamError};
pub use self::handle::StreamHandle;
pub use self::metrics::StreamMetrics;
pub use self::outcome::{EndedBy, Evidence, Outcome, Phase};
pub use self::pipeline::{StreamPipeline, StreamPipelineBuilder};
pub use self::record::StreamRecord;
#[cfg(feature = "serde")]
pub use self::record_serde::RecordWithContent;
pub use self::stop_reason::StopReason;
pub use self::tap::{ConsumerGroup, Tap};
pub use crate::error::ParseWordError;
pub use crate::id::ParseStreamIdError;
