//! Pipelines that are streams of a layer.

use super::dispatcher::WhenFull;
use super::handle::Handle;
use crate::stream::check::ChunkCheck;
use crate::stream::error::PushError;
use crate::stream::pipeline::{StreamPipeline, StreamPipelineBuilder};

impl StreamPipelineBuilder {
    /// Opens the pipeline as a stream of a layer: it obeys the layer's capture, time limits, meter and `on_chunk`, and
    /// its record goes to the layer's hooks, with `context`. Waits for a slot and for memory, or is refused, as the
    /// layer's [`WhenFull`] says.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use streaming_accumulator::{Outcome, StreamPipeline, StreamingAccumulatorLayer};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = StreamingAccumulatorLayer::builder()
    ///     .context(|_| "from HTTP")
    ///     .on_complete(|record| async move { println!("{:?}: {record:?}", record.context()) })
    ///     .build()?;
    /// let pipeline = StreamPipeline::builder().open(&layer.handle(), "from a queue").await?;
    /// pipeline.push(Bytes::from_static(b"hello")).await?;
    /// pipeline.finish(Outcome::Completed);
    /// layer.handle().shutdown(std::time::Duration::from_secs(5)).await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`PushError::Full`] where the layer rejects and has no slot, [`PushError::Closed`] where its shutdown has begun.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits, it has opened nothing.
    pub async fn open<C: Send + Sync + 'static>(
        self,
        handle: &Handle<C>,
        context: C,
    ) -> Result<StreamPipeline, PushError> {
        let dispatcher = handle.dispatcher();
        dispatcher.start();
        let slot = match dispatcher.when_full() {
            WhenFull::Wait => dispatcher.slot().await,
            WhenFull::Reject => dispatcher.try_slot().ok(),
        };
        let Some(slot) = slot else {
            let is_closed = dispatcher.is_closed();
            if !is_closed {
                dispatcher.rejected();
            }
            return Err(if is_closed { PushError::Closed } else { PushError::Full });
        };
        let stream = self.state(dispatcher.stream_config());
        let check = ChunkCheck::new(dispatcher.on_chunk(), &stream);
        let key = dispatcher.opened(&stream);
        let on_end = dispatcher.on_end(stream.span().clone(), slot, key, Some(context));
        Ok(self.start(stream, check, on_end))
    }
}
