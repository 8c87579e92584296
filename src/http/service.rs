//! The middleware's service: admission, and the opening of streams.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use http::{Request, Response};
use http_body::Body;
use tokio::sync::OwnedSemaphorePermit;
use tower_service::Service;

use super::body::{AccumulatorBody, Tee};
use super::response_future::ResponseFuture;
use super::shared::LayerShared;
use crate::contain::contain;
use crate::delivery::WhenFull;
use crate::delivery::dispatcher::SlotWait;
use crate::id::StreamId;
use crate::stream::check::ChunkCheck;
use crate::stream::head::RequestHead;
use crate::stream::settle::StreamGuard;
use crate::stream::state::{Flags, StreamState};
use crate::stream::trace;

/// Makes every response of the service inside it accountable. See the [crate docs](crate).
///
/// Made by [`StreamingAccumulatorLayer`](crate::StreamingAccumulatorLayer).
///
/// It is ready when it has reserved a slot and the inner service is ready, so that layers outside of it, such as
/// `LoadShed`, `Balance` and `Buffer`, see that it is saturated. Called without having been polled ready, as plain hyper
/// services are, it takes a slot if there is one, and else answers as [`WhenFull::Reject`](crate::WhenFull) does.
pub struct StreamingAccumulator<S, C = ()> {
    inner: S,
    shared: Arc<LayerShared<C>>,
    /// Reserved by `poll_ready`, taken by `call`.
    slot: Option<OwnedSemaphorePermit>,
    wait: SlotWait,
}

// === impl StreamingAccumulator ===

impl<S, C> StreamingAccumulator<S, C> {
    pub(crate) fn new(inner: S, shared: Arc<LayerShared<C>>) -> Self {
        Self { inner, shared, slot: None, wait: SlotWait::new() }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside, to change it.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service inside, without the layer.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, C: Send + Sync + 'static> StreamingAccumulator<S, C> {
    fn poll_slot(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let dispatcher = &self.shared.dispatcher;
        dispatcher.start();
        if self.slot.is_none() && dispatcher.when_full() == WhenFull::Wait {
            // None once the shutdown has begun: then the call is rejected.
            self.slot = ready!(self.wait.poll(dispatcher, cx));
        }
        Poll::Ready(())
    }

    /// The slot that was reserved, or one that is free.
    fn take_slot(&mut self) -> Option<OwnedSemaphorePermit> {
        let dispatcher = &self.shared.dispatcher;
        match self.slot.take() {
            // It may have been reserved before the shutdown.
            Some(slot) => (!dispatcher.is_closed()).then_some(slot),
            None => {
                dispatcher.start();
                dispatcher.try_slot().ok()
            }
        }
    }

    /// Opens a stream for `request`, and puts its handle into the request's extensions.
    fn open<B>(&self, request: Request<B>, slot: OwnedSemaphorePermit) -> (Request<B>, StreamGuard) {
        let LayerShared { dispatcher, context, .. } = &*self.shared;
        let (mut parts, body) = request.into_parts();
        let now = SystemTime::now();
        let id = StreamId::at(now);
        let span = trace::stream(id, &parts.method, parts.uri.path());
        let head =
            RequestHead { method: parts.method.clone(), uri: parts.uri.clone(), version: parts.version };
        let stream = Arc::new(StreamState::new(id, now, dispatcher.stream_config(), head, span));
        let guard = dispatcher.open(&stream, slot, |handle| {
            parts.extensions.insert(handle);
            let context = contain(|| context(&parts));
            if context.is_none() {
                trace::callback_panicked(Some(id), "context");
            }
            context
        });
        (Request::from_parts(parts, body), guard)
    }
}

impl<S, C, ReqB, ResB> Service<Request<ReqB>> for StreamingAccumulator<S, C>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    S::Error: Display + 'static,
    ResB: Body,
    C: Send + Sync + 'static,
{
    type Response = Response<AccumulatorBody<ResB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The slot first: while it waits, what the inner service would reserve stays free for others.
        ready!(self.poll_slot(cx));
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let (request, is_ours) = match &self.shared.filter {
            None => (request, true),
            Some(filter) => {
                let (parts, body) = request.into_parts();
                // A filter that panics lets the stream be accounted for: that loses no record.
                let is_ours = contain(|| filter(&parts)).unwrap_or_else(|| {
                    trace::callback_panicked(None, "filter");
                    true
                });
                (Request::from_parts(parts, body), is_ours)
            }
        };
        if !is_ours {
            self.slot = None;
            return ResponseFuture::untouched(self.inner.call(request));
        }
        let Some(slot) = self.take_slot() else {
            self.shared.dispatcher.rejected();
            return ResponseFuture::rejected();
        };
        let (request, guard) = self.open(request, slot);
        let stream = guard.state();
        stream.enter_poll();
        let future = self.inner.call(request);
        stream.leave_poll(Flags::NONE);
        let check = ChunkCheck::new(self.shared.dispatcher.on_chunk(), stream);
        let tee = Tee::new(stream, check);
        ResponseFuture::running(future, tee, guard)
    }
}

impl<S: Clone, C> Clone for StreamingAccumulator<S, C> {
    /// The clone has no slot: it reserves its own.
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::clone(&self.shared))
    }
}

impl<S: fmt::Debug, C> fmt::Debug for StreamingAccumulator<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamingAccumulator").field("inner", &self.inner).finish_non_exhaustive()
    }
}
