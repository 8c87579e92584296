//! Admission: a call gets its slot and becomes a stream.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use http::Request;
use http::request::Parts;
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};

use crate::http::body::{Check, OnChunk, Tee};
use crate::accumulator::Mark;
use crate::delivery::Dispatcher;
use crate::stream::settle::{self, Guard};
use crate::id::StreamId;
use crate::stream::state::{Pipeline, RequestHead, Rules};
use crate::stream::trace;

/// What a call does when all `max_in_flight` slots are taken, or the memory budget is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// It waits for a slot, in the order of arrival. The inner service is called when there is one.
    #[default]
    Wait,
    /// It gets a 503 with `Retry-After: 1`. The inner service is not called.
    Reject,
}

pub(crate) type MakeContext<C> = Arc<dyn Fn(&Parts) -> C + Send + Sync>;

/// What the layer, its services and its streams share.
pub(crate) struct Shared<C> {
    pub(crate) dispatcher: Arc<Dispatcher<C>>,
    pub(crate) context: MakeContext<C>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) on_chunk: Option<Arc<OnChunk>>,
    pub(crate) when_full: WhenFull,
}

// === impl Shared ===

impl<C: Send + Sync + 'static> Shared<C> {
    /// A slot, or whether to wait for one.
    pub(crate) fn try_slot(&self) -> Result<OwnedSemaphorePermit, bool> {
        self.dispatcher.start();
        if self.dispatcher.budget().is_beyond(Mark::Admission) && !self.dispatcher.is_closed() {
            return Err(self.when_full == WhenFull::Wait);
        }
        let slots = Arc::clone(self.dispatcher.slots());
        slots.try_acquire_owned().map_err(|error| match error {
            TryAcquireError::NoPermits => self.when_full == WhenFull::Wait,
            TryAcquireError::Closed => false,
        })
    }

    /// A slot, as soon as there is one; `None` once the shutdown has begun.
    pub(crate) fn slot(&self) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send + 'static {
        self.dispatcher.slot()
    }

    pub(crate) fn rejected(&self) {
        self.dispatcher.rejected();
    }

    pub(crate) fn abandoned(&self) {
        self.dispatcher.abandoned();
    }

    /// Opens a stream for `request`, and puts its handle into the request's extensions.
    pub(crate) fn open<B>(&self, request: Request<B>, slot: OwnedSemaphorePermit) -> (Request<B>, Guard) {
        let (mut parts, body) = request.into_parts();
        let id = StreamId::new();
        let span = trace::stream(id, &parts.method, parts.uri.path());
        let head =
            RequestHead { method: parts.method.clone(), uri: parts.uri.clone(), version: parts.version };
        let pipeline = Pipeline::new(id, &self.rules, head, self.dispatcher.token(), span.clone());
        let guard = settle::open(&self.dispatcher, pipeline, slot, |handle| {
            parts.extensions.insert(handle);
            catch_unwind(AssertUnwindSafe(|| (self.context)(&parts)))
                .inspect_err(|_| trace::callback_panicked(Some(&span), "context"))
                .ok()
        });
        (Request::from_parts(parts, body), guard)
    }

    /// What the body of `guard`'s stream does with its chunks.
    pub(crate) fn tee(&self, guard: &Guard) -> Tee {
        let fails_beyond = self.rules.keeping.capture.fails_beyond();
        Tee {
            writer: guard.pipeline().writer(),
            is_paced: self.rules.max_bytes_per_second.is_some(),
            gate: None,
            hint: false,
            is_metered: false,
            bodiless: false,
            check: (self.on_chunk.is_some() || fails_beyond.is_some())
                .then(|| Check { on_chunk: self.on_chunk.clone(), fails_beyond }),
        }
    }
}
