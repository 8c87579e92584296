//! The streams in flight.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slab::Slab;

use crate::id::StreamId;
use crate::stream::state::StreamState;

/// More than the threads of most servers, so that two seldom want the same one.
const SHARDS: usize = 16;

/// The streams in flight: slabs, so that a stream comes and goes by its index, and several, so that threads seldom
/// wait for each other.
#[derive(Debug)]
pub(super) struct Registry {
    shards: [Mutex<Slab<Arc<StreamState>>>; SHARDS],
    next: AtomicUsize,
}

/// Where a stream stands in the registry.
#[derive(Clone, Copy, Debug)]
pub(super) struct RegistryKey {
    shard: usize,
    index: usize,
}

// === impl Registry ===

impl Registry {
    pub(super) fn new() -> Self {
        Self { shards: Default::default(), next: AtomicUsize::new(0) }
    }

    pub(super) fn insert(&self, stream: &Arc<StreamState>) -> RegistryKey {
        let shard = self.next.fetch_add(1, Relaxed) % SHARDS;
        RegistryKey { shard, index: self.shard(shard).insert(Arc::clone(stream)) }
    }

    /// Removes a stream. The caller drops what is returned, after the lock is free.
    pub(super) fn remove(&self, key: RegistryKey) -> Option<Arc<StreamState>> {
        self.shard(key.shard).try_remove(key.index)
    }

    /// All of them, the oldest first.
    pub(super) fn all(&self) -> Vec<Arc<StreamState>> {
        let mut streams = Vec::new();
        for shard in 0..SHARDS {
            streams.extend(self.shard(shard).iter().map(|(_, stream)| Arc::clone(stream)));
        }
        streams.sort_by_key(|stream| stream.id());
        streams
    }

    pub(super) fn find(&self, id: StreamId) -> Option<Arc<StreamState>> {
        (0..SHARDS).find_map(|shard| {
            let slab = self.shard(shard);
            slab.iter().find(|(_, stream)| stream.id() == id).map(|(_, stream)| Arc::clone(stream))
        })
    }

    fn shard(&self, shard: usize) -> MutexGuard<'_, Slab<Arc<StreamState>>> {
        // Nothing can panic under this lock.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
