//! A Tower layer that makes every streamed HTTP response accountable.
//!
//! [`StreamingAccumulatorLayer`] goes around any service whose response body streams (axum, hyper,
//! tonic). It tees the body into a bounded lock-free accumulator, decides **once** how the stream ended, and delivers
//! **one** record of it to async hooks: the place where a team bills, audits, caches or alerts.
//!
//! ```
//! use axum::{Router, routing::get};
//! use streaming_accumulator::StreamingAccumulatorLayer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let layer = StreamingAccumulatorLayer::builder()
//!     .on_complete(|record| async move { println!("bill {} bytes", record.metrics().bytes()) })
//!     .on_cancel(|record| async move { println!("cut after {:?}", record.metrics().elapsed()) })
//!     .build()?;
//! let handle = layer.handle();
//! let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(layer);
//! # let _ = app;
//! // After the server has stopped:
//! let report = handle.shutdown(std::time::Duration::from_secs(10)).await;
//! assert!(report.is_clean());
//! # Ok(())
//! # }
//! ```
//!
//! # How a stream ends
//!
//! There is no single signal. hyper drops a body *without* having seen `None` after five normal endings:
//! when the body reports its end, when on HTTP/1.1 the declared length is reached, after trailers, when
//! the body is empty, and when the response has no content (HEAD, 204, 304). And `None` is no proof of
//! success when fewer bytes than declared came out. A wrapper that bills on `None` and calls every drop a
//! cancellation is wrong both ways. Here the body records facts, and one function decides from all of
//! them, in the order that the docs of [`Evidence`] and [`Outcome`] give.
//!
//! Each record says [how it ended](Outcome), [how far it had come](Phase), [what that rests
//! on](Evidence), and [who ended it](EndedBy). What a layer cannot know is listed at [`StreamRecord`].
//!
//! # The trap: where to install it
//!
//! Install it outside of everything that changes the body. An outer layer that compresses, limits, buffers or replaces the body changes what the
//! server sees, and a record of an inner layer speaks of the inner body. Outside axum's `Router`, the
//! response's body type changes, so `axum::serve` needs `.map_response(|r| r.map(axum::body::Body::new))`
//! around it; `Router::layer` does that by itself.
//!
//! # Guarantees
//!
//! * One record for each call that is admitted, whatever happens; the first cause wins.
//! * The client sees byte for byte and frame for frame what it would have seen without the layer.
//! * Memory is bounded: the capture's limit per stream, a slot for each stream or undelivered record, and a
//!   [`MemoryBudget`] for all of them, which costs captures and never a client.
//! * Nothing is spawned, awaited or blocked on from a drop; hooks run on workers.
//! * [`Handle::audit`] shows that nothing was lost.
//!
//! # What an LLM stream used
//!
//! With [`Builder::meter`] a record also says which model answered, why it ended, and what it used:
//! [`StreamRecord::usage`] has the tokens in one [normal form](Usage) for all providers, with the
//! [basis](meter::UsageBasis) that they rest on, and [`StreamRecord::llm`] everything [else](meter::LlmReport). The
//! meters know the protocols of OpenAI, Anthropic, Gemini, Bedrock, Mistral, Cohere and Ollama, however a stream is cut;
//! a [`Meter`](meter::Meter) of your own plugs in beside them. Where the meter saw the protocol's own end, a client that
//! then left has not cancelled; and an error inside a successful response makes it failed.
//!
//! ```
//! # #[cfg(feature = "llm")] {
//! use streaming_accumulator::StreamingAccumulatorLayer;
//! use streaming_accumulator::meter::{CharsPerToken, MeterSet};
//!
//! let layer = StreamingAccumulatorLayer::builder()
//!     .meter(MeterSet::detect().estimate(CharsPerToken))
//!     .on_end(|record| async move {
//!         let model = record.llm().and_then(|llm| llm.model());
//!         println!("{model:?}: {:?} tokens, {}", record.usage().total_tokens, record.usage().basis);
//!     })
//!     .build()?;
//! # let _ = layer;
//! # }
//! # Ok::<(), streaming_accumulator::ConfigError>(())
//! ```
//!
//! # While a stream runs
//!
//! A handler finds its [`StreamHandle`] in the request's extensions, a caller finds it in the response's, and
//! [`Handle::streams`] lists those of all streams: live numbers, a token that fires when the client has left, the
//! [end](StreamHandle::ended) to wait for, a [snapshot](StreamHandle::snapshot) of what is captured, and
//! [taps](StreamHandle::tap), which read the chunks as they come. A [lossless](Tap::lossless) tap slows the body down
//! when it falls behind, as the [`BackpressureStrategy`] says; any other misses chunks and is told how many. Streams that are not HTTP bodies get all this from [`StreamPipeline`].
//!
//! ```
//! use std::time::Duration;
//! use streaming_accumulator::{BackpressureStrategy, Capture, MemoryBudget, StreamingAccumulatorLayer};
//!
//! let budget = MemoryBudget::new(512 * 1024 * 1024);
//! let layer = StreamingAccumulatorLayer::builder()
//!     .capture(Capture::all(64 * 1024 * 1024))
//!     .memory_budget(&budget)
//!     .spill_after(1024 * 1024)
//!     .backpressure(BackpressureStrategy::Block(Duration::from_secs(5)))
//!     .idle_timeout(Duration::from_secs(60))
//!     .stalled_reader_timeout(Duration::from_secs(120))
//!     .on_end(|record| async move { println!("{record:?}") })
//!     .build()?;
//! # let _ = layer;
//! # Ok::<(), streaming_accumulator::ConfigError>(())
//! ```
//!
//! # Features
//!
//! * `tracing` (default): a span per stream, and events for its end, for retries and for dead letters.
//! * `llm`: meters, which read what a stream of a language model used.
//! * `llm-br`, `llm-gzip` (and deflate), `llm-zstd`: meters read bodies with these content encodings.
//! * `llm-estimate`: `TokenEstimator`, which counts tokens by the vocabularies of OpenAI's models.
//! * `spill`: captured content beyond a limit goes to a temporary file.
//! * `compression`: captured content can be kept as LZ4 blocks.
//! * `serde`: records, and all that they hold, serialise and read back.
//! * `full`: all of these.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[allow(unsafe_code, reason = "confined to blocks and the links between them, and checked by loom")]
mod accumulator;
mod contain;
mod error;
mod id;
mod words;

pub mod delivery;
pub mod http;
#[cfg(feature = "llm")]
pub mod meter;
pub mod stream;

/// What is kept of a stream, and how much.
pub mod capture {
    pub use crate::accumulator::{
        AppendError, Capture, Content, ContentAccumulator, ContentReader, ContentWriter, MemoryBudget,
        StreamChunk,
    };
}

pub use self::accumulator::{Capture, Content, ContentAccumulator, MemoryBudget, StreamChunk};
pub use self::delivery::{Audit, Handle, RetryPolicy, ShutdownReport, StreamHook, WhenFull};
pub use self::error::{BoxError, ConfigError};
#[cfg(feature = "llm")]
pub use self::http::CaptureRequestLayer;
pub use self::http::{
    AccumulatorBody, BodyError, Builder, Rejected, StreamingAccumulator, StreamingAccumulatorLayer,
};
pub use self::id::StreamId;
#[cfg(feature = "llm")]
pub use self::meter::Usage;
pub use self::stream::{
    BackpressureStrategy, EndedBy, Evidence, Outcome, Phase, PushError, StopReason, StreamError,
    StreamHandle, StreamMetrics, StreamPipeline, StreamRecord, Tap,
};
