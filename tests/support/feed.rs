//! A part of a body that the test writes while the body is read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use bytes::Bytes;

use super::body::{MockBody, Step};

/// The feeding end of a body of unknown length, which yields what it is fed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Feed(Arc<Fed>);

/// What comes next out of a feed.
pub(crate) enum Next {
    Data(Bytes),
    Error,
    /// Nothing more: the body goes on with its script.
    End,
}

#[derive(Debug, Default)]
struct Fed {
    chunks: Mutex<VecDeque<Bytes>>,
    ended: AtomicBool,
    failed: AtomicBool,
    polls: AtomicU64,
    waker: AtomicWaker,
}

// === impl Feed ===

impl Feed {
    /// The body that is fed.
    pub(crate) fn body(&self) -> MockBody {
        MockBody::scripted([Step::Fed(self.clone())])
    }

    pub(crate) fn push(&self, chunk: impl Into<Bytes>) {
        self.0.chunks.lock().unwrap().push_back(chunk.into());
        self.0.waker.wake();
    }

    /// The body ends once it has yielded what was pushed.
    pub(crate) fn end(&self) {
        self.0.ended.store(true, SeqCst);
        self.0.waker.wake();
    }

    /// The body fails once it has yielded what was pushed.
    pub(crate) fn fail(&self) {
        self.0.failed.store(true, SeqCst);
        self.end();
    }

    /// How often the body was polled while it was fed.
    pub(crate) fn polls(&self) -> u64 {
        self.0.polls.load(SeqCst)
    }

    /// Whether nothing is left that could be fed.
    pub(crate) fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Next> {
        self.0.polls.fetch_add(1, SeqCst);
        self.0.waker.register(cx.waker());
        // Before the look for a chunk: the last one came before the end.
        let ended = self.0.ended.load(SeqCst);
        match self.0.chunks.lock().unwrap().pop_front() {
            Some(chunk) => Poll::Ready(Next::Data(chunk)),
            None if ended && self.0.failed.load(SeqCst) => Poll::Ready(Next::Error),
            None if ended => Poll::Ready(Next::End),
            None => Poll::Pending,
        }
    }
}
