//! The handle by which a layer is watched, steered and shut down.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::audit::Audit;
use super::dead_letters::DeadLetter;
use super::dispatcher::Dispatcher;
use super::shutdown::ShutdownReport;
use crate::id::StreamId;
use crate::stream::handle::StreamHandle;

/// Watches, steers and shuts down a [`StreamingAccumulatorLayer`](crate::StreamingAccumulatorLayer).
///
/// Clones are of the same layer. A handle does not need the layer to be alive.
pub struct Handle<C = ()> {
    dispatcher: Arc<Dispatcher<C>>,
}

// === impl Handle ===

impl<C> Handle<C> {
    pub(crate) fn new(dispatcher: Arc<Dispatcher<C>>) -> Self {
        Self { dispatcher }
    }

    pub(crate) fn dispatcher(&self) -> &Arc<Dispatcher<C>> {
        &self.dispatcher
    }
}

impl<C: Send + Sync + 'static> Handle<C> {
    /// Shuts the layer down without losing a record.
    ///
    /// 1. Admits nothing any more: calls, also those that wait for a slot, get a 503.
    /// 2. Waits until every stream has ended and every hook has taken or given up on every record, for at
    ///    most `deadline`.
    /// 3. Then stops the streams that still run: they settle as `Cancelled`, with
    ///    [`StopReason::Shutdown`](crate::StopReason::Shutdown). Hooks get one more `hook_timeout` for
    ///    what is queued; an attempt that fails now is the last one.
    /// 4. Stops the workers. What they did not get to is counted as left, and stays in the audit.
    ///
    /// A stream that ends even later is still settled and counted.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves the layer closed but its workers running; it can be called again.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with its time driver enabled.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        self.dispatcher.shutdown(deadline).await
    }

    /// The state of the accounts.
    pub fn audit(&self) -> Audit {
        self.dispatcher.audit()
    }

    /// The streams in flight, the oldest first.
    pub fn streams(&self) -> Vec<StreamHandle> {
        self.dispatcher.streams()
    }

    /// Stops a stream, as [`StreamHandle::cancel`] does. False if it is not in flight.
    pub fn cancel(&self, id: StreamId) -> bool {
        self.dispatcher.stream(id).is_some_and(|stream| stream.cancel())
    }

    /// The dead letters of all hooks, per hook the oldest first.
    pub fn dead_letters(&self) -> Vec<DeadLetter<C>> {
        self.dispatcher.dead_letters()
    }

    /// Queues the dead letters of stream `id` again, with all attempts that the retry policy allows.
    /// False if there is none.
    pub fn redeliver(&self, id: StreamId) -> bool {
        self.dispatcher.redeliver(id)
    }

    /// Queues all dead letters again, and returns how many streams they are of.
    pub fn redeliver_all(&self) -> usize {
        let ids: BTreeSet<_> = self.dead_letters().iter().map(DeadLetter::id).collect();
        ids.into_iter().filter(|id| self.redeliver(*id)).count()
    }

    /// Whether the shutdown has begun.
    pub fn is_closed(&self) -> bool {
        self.dispatcher.is_closed()
    }
}

impl<C> Clone for Handle<C> {
    fn clone(&self) -> Self {
        Self { dispatcher: Arc::clone(&self.dispatcher) }
    }
}

impl<C> fmt::Debug for Handle<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}
