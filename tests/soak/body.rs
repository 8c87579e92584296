//! The body of the soak: its frames follow from a plan, so that none has to be kept.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use http_body::{Body, Frame, SizeHint};
use streaming_accumulator::{StreamHandle, Tap};

use crate::checks::Soak;
use crate::plan::{Fault, KIB, Plan};
use crate::support::server::BoxError;

/// What upstreams are read into.
const READ_BUFFER: usize = 64 * KIB;

/// The body of a stream that follows its plan.
pub(crate) struct SoakBody {
    pub(crate) soak: Arc<Soak>,
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    pub(crate) stream: StreamHandle,
    pub(crate) buffer: BytesMut,
    pub(crate) at: u64,
    pub(crate) frames: u64,
    pub(crate) ready: bool,
    pub(crate) _idle: Vec<Tap>,
}

impl Body for SoakBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Plan { n, size, fault, pauses, largest_chunk, .. } = this.plan;
        match fault {
            Fault::Error(at) if this.at >= at => return Poll::Ready(Some(Err("planned".into()))),
            Fault::Cancel(at) if this.at >= at => {
                this.plan.fault = Fault::None;
                let stream = this.stream.clone();
                tokio::spawn(async move { stream.cancel() });
            }
            _ => {}
        }
        if this.at == size {
            return Poll::Ready(None);
        }
        if this.ready && this.frames % pauses == pauses - 1 {
            this.ready = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.ready = true;
        this.frames += 1;
        if this.buffer.is_empty() {
            let len = READ_BUFFER.min((size - this.at) as usize);
            this.buffer = BytesMut::from(this.soak.pattern.from(n, this.at, len));
        }
        let len = this.rng.usize(1..=largest_chunk).min(this.buffer.len());
        this.at += len as u64;
        Poll::Ready(Some(Ok(Frame::data(this.buffer.split_to(len).freeze()))))
    }

    fn size_hint(&self) -> SizeHint {
        if self.plan.exact { SizeHint::with_exact(self.plan.size - self.at) } else { SizeHint::default() }
    }
}
