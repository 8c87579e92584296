//! The thread that moves content out of memory.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use flume::Sender;

use super::file::SpillFile;
use super::segmented_log::{SegmentConfig, SegmentedLog};
use crate::accumulator::block::Pool;

/// The thread that moves content of one layer's streams, and how it is moved.
#[derive(Debug)]
pub(crate) struct SpillWorker {
    config: Arc<SegmentConfig>,
    jobs: Sender<Arc<SegmentedLog>>,
}

// === impl SpillWorker ===

impl SpillWorker {
    /// Starts the thread, and checks that the directory can be written to.
    ///
    /// `spill` is the bytes of content from which a stream goes to a file, and the directory of that. At most `jobs`
    /// streams wait for the thread; it should be as many as may be in flight.
    pub(crate) fn start(spill: Option<(u64, PathBuf)>, compress: bool, jobs: usize) -> io::Result<Arc<Self>> {
        if let Some((_, directory)) = &spill {
            // Better now than with the first stream.
            SpillFile::create(directory)?.check()?;
        }
        let (sender, receiver) = flume::bounded::<Arc<SegmentedLog>>(jobs);
        thread::Builder::new().name("stream-spill".into()).spawn(move || {
            for log in receiver {
                let work = AssertUnwindSafe(|| log.work());
                if catch_unwind(work).is_err() {
                    // Otherwise the body might wait for it for ever.
                    log.fail("a panic, which is a bug in this crate");
                }
            }
        })?;
        let (spill_after, directory) = spill.unzip();
        let config = SegmentConfig { spill_after, directory: directory.unwrap_or_default(), compress };
        Ok(Arc::new(Self { config: Arc::new(config), jobs: sender }))
    }

    /// The log of a stream, of at most `limit` bytes, out of which the thread moves content.
    pub(in crate::accumulator) fn log(&self, pool: &Arc<Pool>, limit: u64) -> Arc<SegmentedLog> {
        Arc::new(SegmentedLog::new(&self.config, &self.jobs, pool, limit))
    }
}
