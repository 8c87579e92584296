//! The live view of one stream.

use std::fmt;
use std::sync::Arc;

use http::{Method, Uri};
use tokio_util::sync::CancellationToken;

use super::metrics::StreamMetrics;
use super::notify::Alarm;
use super::outcome::Outcome;
use super::settle::Settlement;
use super::state::StreamState;
use super::stop_reason::StopReason;
use super::tap::{ConsumerGroup, Tap};
use super::termination::EndSignal;
use crate::accumulator::Content;
use crate::id::StreamId;
#[cfg(feature = "llm")]
use crate::meter::Usage;

/// A live view of one stream.
///
/// The layer puts one into the extensions of each request that it admits and of its response;
/// [`Handle::streams`](crate::Handle::streams) lists those of all streams. It stays usable after the stream's end, with
/// its last numbers, until it is dropped.
///
/// ```
/// use streaming_accumulator::StreamHandle;
///
/// async fn handler(request: http::Request<()>) {
///     let Some(stream) = request.extensions().get::<StreamHandle>().cloned() else { return };
///     let work = async { /* ask a model, fill a cache */ };
///     tokio::spawn(async move {
///         // Stops the work when the client leaves, and ends with it when the stream completes.
///         tokio::select! {
///             () = work => {}
///             outcome = stream.ended() => println!("{outcome}"),
///         }
///     });
/// }
/// ```
#[derive(Clone)]
pub struct StreamHandle {
    state: Arc<StreamState>,
}

// === impl StreamHandle ===

impl StreamHandle {
    pub(crate) fn new(state: Arc<StreamState>) -> Self {
        Self { state }
    }

    #[cfg(feature = "llm")]
    pub(crate) fn state(&self) -> &Arc<StreamState> {
        &self.state
    }

    /// The stream's id, which its record will carry.
    pub fn id(&self) -> StreamId {
        self.state.id()
    }

    /// The request's method.
    pub fn method(&self) -> &Method {
        &self.state.request().method
    }

    /// The request's URI, query included.
    pub fn uri(&self) -> &Uri {
        &self.state.request().uri
    }

    /// The stream's numbers, live.
    pub fn metrics(&self) -> &StreamMetrics {
        self.state.metrics()
    }

    /// The tokens that a meter has counted so far, if one reads the response.
    ///
    /// Once the stream has ended this is `None`: then [`StreamRecord::usage`](crate::StreamRecord::usage) has them.
    /// Nothing is estimated here. Waits for the meter if it reads a chunk at this moment, so do not call it in a
    /// meter of your own.
    #[cfg(feature = "llm")]
    pub fn usage(&self) -> Option<Usage> {
        self.state.meters().usage_so_far()
    }

    /// A token that is cancelled when the stream ends in any other way than `Completed`: within microseconds of the
    /// moment at which the server drops the response.
    ///
    /// It is a child of the layer's token. Cancelling the token by hand stops whoever listens to it, not the stream:
    /// for that there is [`cancel`](Self::cancel). It does not fire on completion, so that work which follows a
    /// complete response is not cut off. A task that only waits for the token therefore outlives a completed stream:
    /// use [`run_until_cancelled`](CancellationToken::run_until_cancelled), or wait for [`ended`](Self::ended).
    pub fn cancellation_token(&self) -> CancellationToken {
        self.state.token()
    }

    /// Waits until the stream has ended, however it ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn ended(&self) -> Outcome {
        let (state, mut alarm) = (&self.state, Alarm::default());
        let outcome = || state.outcome().cloned();
        std::future::poll_fn(|cx| alarm.poll_next(state.readers(), cx, outcome)).await
    }

    /// What was captured so far.
    pub fn snapshot(&self) -> Content {
        self.state.snapshot()
    }

    /// A live reader of this stream's chunks.
    pub fn tap(&self) -> Tap {
        Tap::new(&self.state)
    }

    /// A group of readers that share this stream's chunks: each chunk goes to one of them.
    pub fn consumer_group(&self) -> ConsumerGroup {
        ConsumerGroup::new(&self.state)
    }

    /// Stops the stream: its record says `Cancelled`, ended by the layer, and whoever polls the body next gets
    /// [`StreamError::Stopped`](crate::StreamError::Stopped).
    ///
    /// When this returns, the record is settled, also if nobody polls the body, and no further chunk goes on. Before
    /// there is a response the inner service is left to answer (its work can listen to the token); the body of its
    /// response then yields the error at once. Inside the `context` closure the stop takes effect when the closure
    /// returns.
    ///
    /// Returns false, and stops nothing, where the stream has ended already, has handed over all that it declared, or
    /// has reached the end of its protocol, as a meter sees it: then it is `Completed`. Where a meter has seen an
    /// error inside the stream, that error takes the place of the stop, in the record and in the body.
    pub fn cancel(&self) -> bool {
        self.stop(StopReason::Cancelled)
    }

    pub(crate) fn stop(&self, reason: StopReason) -> bool {
        matches!(
            self.state.settle(EndSignal::Stopped(reason), None),
            Settlement::Failed(_) | Settlement::Deferred
        )
    }
}

impl fmt::Debug for StreamHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamHandle")
            .field("id", &self.id())
            .field("bytes", &self.metrics().bytes())
            .finish_non_exhaustive()
    }
}
