//! What a stream moves out of its log while it grows: into compressed memory, or into a file.
//!
//! A [`SegmentedLog`] keeps the newest chunks in a log and the older ones in [`Segment`]s. It is a reader of its log
//! like any other. A thread of the layer's own, the [`SpillWorker`], moves the chunks: never one of the runtime's. The
//! writer notes that there is something to move, and no stream is in the worker's queue twice. What was moved is
//! released from the log, so memory holds at most what the worker is behind by.
//!
//! Without the feature `spill` there are no files: [`SpillFile`](file::SpillFile) then has no values.

#[cfg(feature = "spill")]
mod file;
#[cfg(not(feature = "spill"))]
#[path = "no_file.rs"]
mod file;
mod segment;
mod segmented_log;
mod worker;

pub(super) use self::segment::Segment;
pub(super) use self::segmented_log::SegmentedLog;
pub(crate) use self::worker::SpillWorker;
