//! The layer's builder.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use tokio::sync::Semaphore;

use crate::accumulator::Capture;
use crate::admission::{MakeContext, Shared, WhenFull};
use crate::body::OnChunk;
use crate::dispatch::{Config, DeadLetter, Dispatcher, OnDeadLetter};
use crate::error::ConfigError;
use crate::hook::{ErasedHook, ForAll, ForSome, IntoHookResult, StreamHook};
use crate::layer::StreamingAccumulatorLayer;
use crate::outcome::Outcome;
use crate::pipeline::StreamHandle;
use crate::record::StreamRecord;
use crate::retry::RetryPolicy;
use crate::stop::StopReason;

/// Builds a [`StreamingAccumulatorLayer`].
///
/// ```
/// use std::time::Duration;
/// use streaming_accumulator::{Capture, StreamingAccumulatorLayer, WhenFull};
///
/// let layer = StreamingAccumulatorLayer::builder()
///     .context(|parts| parts.headers.get("x-tenant").cloned())
///     .capture(Capture::tail(16 * 1024))
///     .on_end(|record| async move { println!("{record:?}") })
///     .hook_timeout(Duration::from_secs(5))
///     .when_full(WhenFull::Reject)
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), streaming_accumulator::ConfigError>(())
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct Builder<C = ()> {
    context: MakeContext<C>,
    hooks: Vec<Box<dyn ErasedHook<C>>>,
    hooks_before_context: bool,
    capture: Capture,
    on_chunk: Option<Arc<OnChunk>>,
    on_dead_letter: Option<OnDeadLetter<C>>,
    dead_letters: usize,
    retry: RetryPolicy,
    hook_timeout: Duration,
    workers: usize,
    max_in_flight: usize,
    when_full: WhenFull,
}

// === impl StreamingAccumulatorLayer ===

impl StreamingAccumulatorLayer {
    /// A builder with the documented defaults, without hooks.
    pub fn builder() -> Builder {
        Builder {
            context: Arc::new(|_| ()),
            hooks: Vec::new(),
            hooks_before_context: false,
            capture: Capture::all(1024 * 1024),
            on_chunk: None,
            on_dead_letter: None,
            dead_letters: 1024,
            retry: RetryPolicy::default(),
            hook_timeout: Duration::from_secs(30),
            workers: 4,
            max_in_flight: 65_536,
            when_full: WhenFull::default(),
        }
    }
}

// === impl Builder ===

impl Builder {
    /// What a stream's record knows of its request: the tenant, the route, the API key's id.
    ///
    /// `context` runs once per stream, inside `call`, with the head of the request; its extensions hold
    /// what outer layers put there and the stream's [`StreamHandle`]. If it panics, the
    /// stream goes on and [`StreamRecord::context`] is `None`. Comes before the hooks, because it sets the
    /// type of their records.
    pub fn context<C2>(self, context: impl Fn(&Parts) -> C2 + Send + Sync + 'static) -> Builder<C2>
    where
        C2: Send + Sync + 'static,
    {
        Builder {
            context: Arc::new(context),
            hooks_before_context: !self.hooks.is_empty() || self.on_dead_letter.is_some(),
            hooks: Vec::new(),
            capture: self.capture,
            on_chunk: self.on_chunk,
            on_dead_letter: None,
            dead_letters: self.dead_letters,
            retry: self.retry,
            hook_timeout: self.hook_timeout,
            workers: self.workers,
            max_in_flight: self.max_in_flight,
            when_full: self.when_full,
        }
    }
}

impl<C: Send + Sync + 'static> Builder<C> {
    /// How much of each stream is kept. Default `Capture::all` of 1 MiB: a whole LLM answer, with room.
    pub fn capture(mut self, capture: Capture) -> Self {
        self.capture = capture;
        self
    }

    /// Called with the record of each stream that completed. See [`StreamHook`] for what hooks may do.
    pub fn on_complete<H, F>(self, hook: H) -> Self
    where
        H: Fn(Arc<StreamRecord<C>>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoHookResult> + Send + 'static,
    {
        let wants = |outcome: &Outcome| matches!(outcome, Outcome::Completed);
        self.add(ForSome { name: "on_complete", wants, hook })
    }

    /// Called with the record of each stream that was cancelled, by the client or on purpose.
    pub fn on_cancel<H, F>(self, hook: H) -> Self
    where
        H: Fn(Arc<StreamRecord<C>>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoHookResult> + Send + 'static,
    {
        let wants = |outcome: &Outcome| matches!(outcome, Outcome::Cancelled);
        self.add(ForSome { name: "on_cancel", wants, hook })
    }

    /// Called with the record of each stream that failed or was interrupted by a crash.
    pub fn on_failure<H, F>(self, hook: H) -> Self
    where
        H: Fn(Arc<StreamRecord<C>>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoHookResult> + Send + 'static,
    {
        let wants = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_) | Outcome::Interrupted);
        self.add(ForSome { name: "on_failure", wants, hook })
    }

    /// Called with the record of every stream, however it ended.
    pub fn on_end<H, F>(self, hook: H) -> Self
    where
        H: Fn(Arc<StreamRecord<C>>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoHookResult> + Send + 'static,
    {
        self.add(ForSome { name: "on_end", wants: |_| true, hook })
    }

    /// Adds a hook. Each hook has its own queue, workers and retries: a slow one delays no other.
    pub fn hook(self, hook: impl StreamHook<C>) -> Self {
        self.add(ForAll(hook))
    }

    fn add(mut self, hook: impl ErasedHook<C> + 'static) -> Self {
        self.hooks.push(Box::new(hook));
        self
    }

    /// Called inline with each chunk before it goes on, inside the body's poll: keep it cheap.
    ///
    /// `Break` withholds the chunk and ends the stream: the client gets
    /// [`StreamError::Stopped`](crate::StreamError::Stopped), and the record says `Cancelled`, by the
    /// layer, for the given reason. If the closure panics, that is logged, and it is not called again for
    /// this stream, which goes on.
    pub fn on_chunk(
        mut self,
        on_chunk: impl Fn(&Bytes, &StreamHandle) -> ControlFlow<StopReason> + Send + Sync + 'static,
    ) -> Self {
        self.on_chunk = Some(Arc::new(on_chunk));
        self
    }

    /// When failed deliveries are tried again. Default [`RetryPolicy::default`].
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// How long one call of a hook may take. Default 30 s: longer than most databases' own limits.
    pub fn hook_timeout(mut self, timeout: Duration) -> Self {
        self.hook_timeout = timeout;
        self
    }

    /// How many records each hook may work on at once. Default 4.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// How many streams and undelivered records there may be together. Default 65,536.
    ///
    /// A stream's slot is free again when every hook has taken its record or given up on it.
    pub fn max_in_flight(mut self, streams: usize) -> Self {
        self.max_in_flight = streams;
        self
    }

    /// What a call does when there is no slot. Default [`WhenFull::Wait`].
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// How many dead letters are kept for each hook. Default 1,024, each with its captured content.
    ///
    /// When they are full the oldest goes, with an error event that names it; it stays in the audit.
    pub fn dead_letters(mut self, letters: usize) -> Self {
        self.dead_letters = letters;
        self
    }

    /// Called, on a worker, with each record that a hook gave up on: to write it somewhere safe.
    pub fn on_dead_letter(mut self, callback: impl Fn(&DeadLetter<C>) + Send + Sync + 'static) -> Self {
        self.on_dead_letter = Some(Arc::new(callback));
        self
    }

    /// Builds the layer. Inside a tokio runtime its workers start there, otherwise on the runtime of the
    /// first call.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the setting that cannot work.
    pub fn build(self) -> Result<StreamingAccumulatorLayer<C>, ConfigError> {
        self.check()?;
        let config = Config {
            retry: self.retry,
            hook_timeout: self.hook_timeout,
            workers: self.workers,
            max_in_flight: self.max_in_flight,
            dead_letters: self.dead_letters,
            on_dead_letter: self.on_dead_letter,
        };
        let dispatcher = Dispatcher::new(config, self.hooks);
        dispatcher.start();
        Ok(StreamingAccumulatorLayer::new(Shared {
            dispatcher: Arc::new(dispatcher),
            context: self.context,
            capture: self.capture,
            pool: Arc::default(),
            on_chunk: self.on_chunk,
            when_full: self.when_full,
        }))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let zero = |setting| ConfigError::Zero { setting };
        if self.hooks_before_context {
            return Err(ConfigError::HooksBeforeContext);
        }
        if self.workers == 0 {
            return Err(zero("workers"));
        }
        if self.max_in_flight == 0 {
            return Err(zero("max_in_flight"));
        }
        if self.dead_letters == 0 {
            return Err(zero("dead_letters"));
        }
        if self.hook_timeout.is_zero() {
            return Err(zero("hook_timeout"));
        }
        if self.max_in_flight > Semaphore::MAX_PERMITS {
            return Err(ConfigError::MaxInFlight { value: self.max_in_flight, max: Semaphore::MAX_PERMITS });
        }
        self.retry.check()
    }
}

impl<C> fmt::Debug for Builder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("capture", &self.capture)
            .field("hooks", &self.hooks.iter().map(|hook| hook.name()).collect::<Vec<_>>())
            .field("retry", &self.retry)
            .field("hook_timeout", &self.hook_timeout)
            .field("workers", &self.workers)
            .field("max_in_flight", &self.max_in_flight)
            .field("when_full", &self.when_full)
            .finish_non_exhaustive()
    }
}
