//! The layer's builder.

use std::env;
use std::fmt;
use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use tokio::sync::Semaphore;

use crate::accumulator::{BufferConfig, Capture, Pool, SpillWorker};
use crate::http::admission::{MakeContext, Shared, WhenFull};
use crate::stream::backpressure::{BackpressureStrategy, Pressure};
use crate::http::body::OnChunk;
use crate::accumulator::MemoryBudget;
use crate::delivery::{Config, DeadLetter, Dispatcher, OnDeadLetter};
use crate::error::ConfigError;
use crate::delivery::hook::{ErasedHook, ForAll, ForSome, IntoHookResult, StreamHook};
use crate::http::layer::StreamingAccumulatorLayer;
use crate::stream::limits::TimeLimits;
use crate::meter::MeterSet;
use crate::stream::meters::Meters;
use crate::stream::outcome::Outcome;
use crate::stream::state::{Rules, StreamHandle};
use crate::stream::record::StreamRecord;
use crate::http::request_body::{AsIs, CaptureRequest};
use crate::delivery::retry::RetryPolicy;
use crate::stream::stop::StopReason;

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
pub struct Builder<C = (), R = AsIs> {
    context: MakeContext<C>,
    hooks: Vec<Box<dyn ErasedHook<C>>>,
    hooks_before_context: bool,
    capture: Capture,
    flow: Flow,
    on_chunk: Option<Arc<OnChunk>>,
    on_dead_letter: Option<OnDeadLetter<C>>,
    dead_letters: usize,
    retry: RetryPolicy,
    hook_timeout: Duration,
    workers: usize,
    max_in_flight: usize,
    when_full: WhenFull,
    request: PhantomData<fn() -> R>,
}

/// The settings of memory, pressure and time.
#[derive(Debug)]
struct Flow {
    budget: MemoryBudget,
    strategy: BackpressureStrategy,
    buffer_limit: usize,
    high_water_mark: u8,
    max_bytes_per_second: Option<u64>,
    limits: TimeLimits,
    meters: Option<MeterSet>,
    capture_request: Option<usize>,
    spill_after: Option<u64>,
    spill_directory: Option<PathBuf>,
    #[cfg(feature = "compression")]
    compress: bool,
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
            flow: Flow {
                budget: MemoryBudget::unlimited(),
                strategy: BackpressureStrategy::default(),
                buffer_limit: 1024,
                high_water_mark: 80,
                max_bytes_per_second: None,
                limits: TimeLimits::default(),
                meters: None,
                capture_request: None,
                spill_after: None,
                spill_directory: None,
                #[cfg(feature = "compression")]
                compress: false,
            },
            on_chunk: None,
            on_dead_letter: None,
            dead_letters: 1024,
            retry: RetryPolicy::default(),
            hook_timeout: Duration::from_secs(30),
            workers: 4,
            max_in_flight: 65_536,
            when_full: WhenFull::default(),
            request: PhantomData,
        }
    }
}

// === impl Builder ===

impl<R> Builder<(), R> {
    /// What a stream's record knows of its request: the tenant, the route, the API key's id.
    ///
    /// `context` runs once per stream, inside `call`, with the head of the request; its extensions hold
    /// what outer layers put there and the stream's [`StreamHandle`]. If it panics, the
    /// stream goes on and [`StreamRecord::context`] is `None`. Comes before the hooks, because it sets the
    /// type of their records.
    pub fn context<C2>(self, context: impl Fn(&Parts) -> C2 + Send + Sync + 'static) -> Builder<C2, R>
    where
        C2: Send + Sync + 'static,
    {
        Builder {
            context: Arc::new(context),
            hooks_before_context: !self.hooks.is_empty() || self.on_dead_letter.is_some(),
            hooks: Vec::new(),
            capture: self.capture,
            flow: self.flow,
            on_chunk: self.on_chunk,
            on_dead_letter: None,
            dead_letters: self.dead_letters,
            retry: self.retry,
            hook_timeout: self.hook_timeout,
            workers: self.workers,
            max_in_flight: self.max_in_flight,
            when_full: self.when_full,
            request: PhantomData,
        }
    }
}

impl<C: Send + Sync + 'static, R> Builder<C, R> {
    /// How much of each stream is kept. Default `Capture::all` of 1 MiB: a whole LLM answer, with room.
    pub fn capture(mut self, capture: Capture) -> Self {
        self.capture = capture;
        self
    }

    /// The bound for the memory of this layer's streams: a number of bytes, or a [`MemoryBudget`] that other
    /// layers share. Default: none beyond each stream's own.
    pub fn memory_budget(mut self, budget: impl Into<MemoryBudget>) -> Self {
        self.flow.budget = budget.into();
        self
    }

    /// Moves the content of each stream that has more than so many bytes captured to a temporary file: memory
    /// then holds at most what the file is behind by. Default: content stays in memory.
    ///
    /// The file has no name, so that nothing is left of it whatever becomes of the process, and lies in
    /// [`spill_directory`](Self::spill_directory). A thread of the layer's writes it. It is waited for as a
    /// reader is, as the [`backpressure`](Self::backpressure) strategy says; under
    /// [`DropOldest`](BackpressureStrategy::DropOldest) a file that is too far behind is given up. A disk that
    /// is full or fails truncates the capture ([`Content::spill_error`](crate::Content::spill_error)) and
    /// leaves the client alone. Tails of captures are not spilled: they are bounded as they are.
    pub fn spill_after(mut self, bytes: usize) -> Self {
        self.flow.spill_after = Some(bytes as u64);
        self
    }

    /// Where spilled content goes. Default: [`std::env::temp_dir`], which on many systems is memory, too.
    pub fn spill_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.flow.spill_directory = Some(directory.into());
        self
    }

    /// Compresses captured content, by LZ4, once there are 32 KiB of it: event streams shrink to a tenth
    /// and less. A thread of the layer's does it, and nobody waits for that. Default: it does not.
    #[cfg(feature = "compression")]
    pub fn compress(mut self, compress: bool) -> Self {
        self.flow.compress = compress;
        self
    }

    /// What a stream does when a reader that asked to be waited for falls behind. Default
    /// [`BackpressureStrategy::default`].
    pub fn backpressure(mut self, strategy: BackpressureStrategy) -> Self {
        self.flow.strategy = strategy;
        self
    }

    /// How many chunks a reader that is waited for may be behind, and how many stay readable for the
    /// others. Default 1,024.
    pub fn buffer_limit(mut self, chunks: usize) -> Self {
        self.flow.buffer_limit = chunks;
        self
    }

    /// At how many per cent of [`buffer_limit`](Self::buffer_limit) throttling starts. Default 80.
    pub fn high_water_mark(mut self, percent: u8) -> Self {
        self.flow.high_water_mark = percent;
        self
    }

    /// How many bytes of each stream may be pulled in a second, on average; short bursts of 10 ms' worth
    /// aside. Default: no limit.
    pub fn max_bytes_per_second(mut self, bytes: u64) -> Self {
        self.flow.max_bytes_per_second = Some(bytes);
        self
    }

    /// How long after the request the first chunk may come. Later the stream fails with
    /// [`StreamError::FirstChunkTimeout`](crate::StreamError::FirstChunkTimeout). Default: no limit.
    ///
    /// One task watches over all time limits of a layer. It notices up to a sixteenth of the layer's
    /// shortest limit late, settles the stream though nobody polls it, and fires its token; the next
    /// poll of the body ends it.
    pub fn first_chunk_timeout(mut self, limit: Duration) -> Self {
        self.flow.limits.first_chunk = Some(limit);
        self
    }

    /// How long the inner service or body may take for the next frame, while it is asked for one. Later the
    /// stream fails with [`StreamError::IdleTimeout`](crate::StreamError::IdleTimeout). Default: no limit.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.flow.limits.idle = Some(limit);
        self
    }

    /// How long a stream may take in all. Later it fails with
    /// [`StreamError::Timeout`](crate::StreamError::Timeout). Default: no limit.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.flow.limits.total = Some(limit);
        self
    }

    /// For how long nobody may ask for the next frame: a client that keeps its connection and reads
    /// nothing. Later the stream fails with
    /// [`StreamError::StalledReader`](crate::StreamError::StalledReader). Default: no limit.
    pub fn stalled_reader_timeout(mut self, limit: Duration) -> Self {
        self.flow.limits.stalled_reader = Some(limit);
        self
    }

    /// Has meters read the responses as they go by: [`StreamRecord::usage`] and [`StreamRecord::llm`] say what they
    /// find, and [`Outcome`] heeds the protocol's own end and errors inside the stream. Default: nothing is
    /// metered.
    ///
    /// A meter reads each chunk inside the body's poll, unless the set is
    /// [for the worker](MeterSet::on_worker); the client gets every chunk as it is, whatever the meter makes of it.
    /// Responses that are no success and those without content are not metered. What meters hold is charged to the
    /// [budget](Self::memory_budget).
    pub fn meter(mut self, meters: MeterSet) -> Self {
        self.flow.meters = Some(meters);
        self
    }

    /// Has the JSON of requests read as it streams through: [`StreamRecord::llm`] then knows the model that was
    /// asked for, and an [`Estimator`](crate::Estimator) what a cut stream was given. At most `max` bytes of each
    /// request are kept. Default: requests are not touched.
    ///
    /// The inner service then gets requests with a [`RequestBody`](crate::RequestBody) around the client's body,
    /// frame by frame the same. Requests whose `content-type` is another than JSON, none, or `curl -d`'s own, and
    /// those with a `content-encoding` go by unread. What is read is charged to the [budget](Self::memory_budget); where that has no room, the prompt
    /// is let go and reading ends.
    pub fn capture_request(self, max: usize) -> Builder<C, CaptureRequest> {
        Builder {
            context: self.context,
            hooks: self.hooks,
            hooks_before_context: self.hooks_before_context,
            capture: self.capture,
            flow: Flow { capture_request: Some(max), ..self.flow },
            on_chunk: self.on_chunk,
            on_dead_letter: self.on_dead_letter,
            dead_letters: self.dead_letters,
            retry: self.retry,
            hook_timeout: self.hook_timeout,
            workers: self.workers,
            max_in_flight: self.max_in_flight,
            when_full: self.when_full,
            request: PhantomData,
        }
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
    pub fn build(self) -> Result<StreamingAccumulatorLayer<C, R>, ConfigError> {
        self.check()?;
        let config = Config {
            retry: self.retry,
            hook_timeout: self.hook_timeout,
            workers: self.workers,
            max_in_flight: self.max_in_flight,
            dead_letters: self.dead_letters,
            on_dead_letter: self.on_dead_letter,
            limits: self.flow.limits,
            budget: self.flow.budget.clone(),
        };
        let rules = Arc::new(self.flow.rules(self.capture, self.max_in_flight)?);
        let dispatcher = Dispatcher::new(config, self.hooks);
        dispatcher.start();
        Ok(StreamingAccumulatorLayer::new(Shared {
            dispatcher: Arc::new(dispatcher),
            context: self.context,
            rules,
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
        self.flow.check()?;
        self.retry.check()
    }
}

// === impl Flow ===

impl Flow {
    fn rules(&self, capture: Capture, max_in_flight: usize) -> Result<Rules, ConfigError> {
        let pressure = Pressure::new(self.strategy, self.buffer_limit, self.high_water_mark);
        let keeping = BufferConfig {
            capture,
            pool: Arc::new(Pool::new(self.budget.clone())),
            buffer_limit: pressure.buffer_limit,
            drops_oldest: pressure.drops_oldest(),
            spill: self.spill_worker(max_in_flight)?,
        };
        Ok(Rules {
            keeping: Arc::new(keeping),
            pressure,
            max_bytes_per_second: self.max_bytes_per_second,
            limits: self.limits,
            meters: self.meters(),
        })
    }

    fn meters(&self) -> Option<Meters> {
        let (set, request) = (self.meters.clone(), self.capture_request);
        let wanted = set.is_some() || request.is_some();
        wanted.then(|| Meters { set, request, budget: self.budget.clone() })
    }

    fn spill_worker(&self, max_in_flight: usize) -> Result<Option<Arc<SpillWorker>>, ConfigError> {
        #[cfg(feature = "compression")]
        let compress = self.compress;
        #[cfg(not(feature = "compression"))]
        let compress = false;
        let directory = self.spill_directory.clone().unwrap_or_else(env::temp_dir);
        if self.spill_after.is_none() && !compress {
            return Ok(None);
        }
        let spill = self.spill_after.map(|after| (after, directory.clone()));
        SpillWorker::start(spill, compress, max_in_flight)
            .map(Some)
            .map_err(|error| ConfigError::SpillDirectory { path: directory, error: error.to_string().into() })
    }

    fn check(&self) -> Result<(), ConfigError> {
        if let BackpressureStrategy::Adaptive { initial_delay, max_delay, multiplier } = self.strategy {
            if initial_delay > max_delay {
                return Err(ConfigError::BackpressureDelays { initial: initial_delay, max: max_delay });
            }
            if !(1.0..).contains(&multiplier) {
                return Err(ConfigError::Multiplier { value: multiplier.to_string().into() });
            }
        }
        if !(1..=100).contains(&self.high_water_mark) {
            return Err(ConfigError::HighWaterMark { percent: self.high_water_mark });
        }
        let TimeLimits { first_chunk, idle, total, stalled_reader } = self.limits;
        let settings = [
            ("buffer_limit", self.buffer_limit == 0),
            ("memory_budget", self.budget.limit() == Some(0)),
            ("capture_request", self.capture_request == Some(0)),
            ("max_bytes_per_second", self.max_bytes_per_second == Some(0)),
            ("first_chunk_timeout", first_chunk == Some(Duration::ZERO)),
            ("idle_timeout", idle == Some(Duration::ZERO)),
            ("timeout", total == Some(Duration::ZERO)),
            ("stalled_reader_timeout", stalled_reader == Some(Duration::ZERO)),
        ];
        match settings.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((setting, _)) => Err(ConfigError::Zero { setting }),
            None => Ok(()),
        }
    }
}

impl<C, R> fmt::Debug for Builder<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("capture", &self.capture)
            .field("flow", &self.flow)
            .field("hooks", &self.hooks.iter().map(|hook| hook.name()).collect::<Vec<_>>())
            .field("retry", &self.retry)
            .field("hook_timeout", &self.hook_timeout)
            .field("workers", &self.workers)
            .field("max_in_flight", &self.max_in_flight)
            .field("when_full", &self.when_full)
            .finish_non_exhaustive()
    }
}
