//! The layer's builder.

use std::fmt;
use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::layer::StreamingAccumulatorLayer;
use super::shared::{Filter, LayerShared, MakeContext};
use crate::accumulator::{BufferConfig, Capture, MemoryBudget, Pool, SpillWorker};
use crate::delivery::dispatcher::{Dispatcher, DispatcherConfig};
use crate::delivery::hook::{ClosureHook, ClosureKind, ErasedHook, TraitHook};
use crate::delivery::{DeadLetter, IntoHookResult, OnDeadLetter, RetryPolicy, StreamHook, WhenFull};
use crate::error::ConfigError;
#[cfg(feature = "llm")]
use crate::meter::MeterSet;
use crate::stream::backpressure::{BackpressureConfig, BackpressureStrategy};
use crate::stream::check::OnChunk;
use crate::stream::handle::StreamHandle;
use crate::stream::limits::TimeLimits;
use crate::stream::metrics;
use crate::stream::record::StreamRecord;
use crate::stream::state::StreamConfig;
use crate::stream::stop_reason::StopReason;

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
///
/// `H` says whether a hook was added: before the first one it is [`NoHooks`], and [`context`](Builder::context) may be
/// called, which sets the type of their records.
#[must_use = "a builder does nothing until `build`"]
pub struct Builder<C = (), H = NoHooks> {
    context: MakeContext<C>,
    filter: Option<Filter>,
    hooks: Vec<Hook<C>>,
    on_dead_letter: Option<OnDeadLetter<C>>,
    settings: Settings,
    has_hooks: PhantomData<fn() -> H>,
}

/// A [`Builder`] to which no hook was added.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct NoHooks;

/// A [`Builder`] to which a hook was added: the context of its records is settled.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct WithHooks;

enum Hook<C> {
    Trait(Box<dyn ErasedHook<C>>),
    Closures(ClosureHook<C>),
}

/// What does not depend on the context.
struct Settings {
    capture: Capture,
    budget: MemoryBudget,
    strategy: BackpressureStrategy,
    buffer_limit: usize,
    high_water_mark: u8,
    max_bytes_per_second: Option<u64>,
    limits: TimeLimits,
    #[cfg(feature = "llm")]
    meters: Option<MeterSet>,
    /// Set only with feature `spill`, as is the directory.
    spill_after: Option<u64>,
    spill_directory: Option<PathBuf>,
    /// Set only with feature `compression`.
    compress: bool,
    on_chunk: Option<Arc<OnChunk>>,
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
            context: Box::new(|_| ()),
            filter: None,
            hooks: Vec::new(),
            on_dead_letter: None,
            settings: Settings::default(),
            has_hooks: PhantomData,
        }
    }
}

// === impl Builder ===

impl Builder {
    /// What a stream's record knows of its request: the tenant, the route, the API key's id.
    ///
    /// `context` runs once per stream, inside `call`, with the head of the request; its extensions hold what outer layers
    /// put there and the stream's [`StreamHandle`]. If it panics, the stream goes on and [`StreamRecord::context`] is
    /// `None`. It sets the type of the records, so it comes before the hooks: after one it does not compile.
    ///
    /// ```compile_fail,E0599
    /// use streaming_accumulator::StreamingAccumulatorLayer;
    ///
    /// let layer = StreamingAccumulatorLayer::builder()
    ///     .on_end(|record| async move { println!("{record:?}") })
    ///     .context(|_| "too late");
    /// ```
    pub fn context<C>(self, context: impl Fn(&Parts) -> C + Send + Sync + 'static) -> Builder<C>
    where
        C: Send + Sync + 'static,
    {
        Builder {
            context: Box::new(context),
            filter: self.filter,
            hooks: Vec::new(),
            on_dead_letter: None,
            settings: self.settings,
            has_hooks: PhantomData,
        }
    }
}

impl<C: Send + Sync + 'static, H> Builder<C, H> {
    /// Which streams are for the layer. Those for which `filter` is false pass by untouched: they have no record, no
    /// handle, and no place in the audit. Default: all.
    ///
    /// `filter` runs inside `call`, with the head of the request. If it panics, the stream is for the layer.
    ///
    /// ```
    /// use streaming_accumulator::StreamingAccumulatorLayer;
    ///
    /// let layer = StreamingAccumulatorLayer::builder()
    ///     .filter(|request| request.uri.path().starts_with("/v1/"))
    ///     .on_end(|record| async move { println!("{record:?}") })
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), streaming_accumulator::ConfigError>(())
    /// ```
    pub fn filter(mut self, filter: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Box::new(filter));
        self
    }

    /// How much of each stream is kept. Default `Capture::all` of 1 MiB: a whole LLM answer, with room.
    pub fn capture(mut self, capture: Capture) -> Self {
        self.settings.capture = capture;
        self
    }

    /// The bound for the memory of this layer's streams: a number of bytes, or a [`MemoryBudget`] that other
    /// layers share. Default: none beyond each stream's own.
    pub fn memory_budget(mut self, budget: impl Into<MemoryBudget>) -> Self {
        self.settings.budget = budget.into();
        self
    }

    /// Moves the content of each stream of which more than `bytes` are captured to a temporary file: memory then holds
    /// at most what the file is behind by. Default: content stays in memory.
    ///
    /// The file has no name, so that nothing is left of it whatever becomes of the process, and lies in
    /// [`spill_directory`](Self::spill_directory). A thread of the layer writes it. The body waits for it as for a
    /// lossless reader, as the [`backpressure`](Self::backpressure) strategy says; under
    /// [`DropOldest`](BackpressureStrategy::DropOldest) a file that is too far behind is given up. A disk that
    /// is full or fails truncates the capture ([`Content::spill_error`](crate::Content::spill_error)) and
    /// leaves the client alone. Tails of captures are not spilled: they are bounded as they are.
    #[cfg(feature = "spill")]
    pub fn spill_after(mut self, bytes: usize) -> Self {
        self.settings.spill_after = Some(bytes as u64);
        self
    }

    /// Where spilled content goes. Default: [`std::env::temp_dir`], which on many systems is memory, too.
    #[cfg(feature = "spill")]
    pub fn spill_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.settings.spill_directory = Some(directory.into());
        self
    }

    /// Compresses captured content by LZ4, once there are 32 KiB of it: event streams shrink to a tenth and less. A
    /// thread of the layer does it, and nobody waits for that. Default: false.
    #[cfg(feature = "compression")]
    pub fn compress(mut self, compress: bool) -> Self {
        self.settings.compress = compress;
        self
    }

    /// What a stream does when a lossless reader falls behind. Default [`BackpressureStrategy::default`].
    pub fn backpressure(mut self, strategy: BackpressureStrategy) -> Self {
        self.settings.strategy = strategy;
        self
    }

    /// How many chunks a lossless reader may be behind, and how many stay readable for the others. Default 1,024.
    pub fn buffer_limit(mut self, chunks: usize) -> Self {
        self.settings.buffer_limit = chunks;
        self
    }

    /// At how many per cent of [`buffer_limit`](Self::buffer_limit) throttling starts. Default 80.
    pub fn high_water_mark(mut self, percent: u8) -> Self {
        self.settings.high_water_mark = percent;
        self
    }

    /// How many bytes of each stream may be pulled in a second, on average; short bursts of 10 ms' worth
    /// aside. Default: no limit.
    pub fn max_bytes_per_second(mut self, bytes: u64) -> Self {
        self.settings.max_bytes_per_second = Some(bytes);
        self
    }

    /// How long after the request the first chunk may come. Later the stream fails with
    /// [`StreamError::FirstChunkTimeout`](crate::StreamError::FirstChunkTimeout). Default: no limit.
    ///
    /// Where a meter reads server-sent events, its first event counts, so that a comment which keeps the connection alive
    /// is not taken for an answer. Without a meter any chunk counts, such a comment included.
    ///
    /// One task watches over all time limits of a layer. It notices up to a sixteenth of the layer's shortest limit late,
    /// settles the stream though nobody polls it, and fires its token; the next
    /// poll of the body ends it.
    pub fn first_chunk_timeout(mut self, limit: Duration) -> Self {
        self.settings.limits.first_chunk = Some(limit);
        self
    }

    /// How long the inner service or body may take for the next frame, while it is asked for one. Later the stream fails
    /// with [`StreamError::IdleTimeout`](crate::StreamError::IdleTimeout). Default: no limit.
    ///
    /// Where a meter reads server-sent events, comments do not count as frames, as for
    /// [`first_chunk_timeout`](Self::first_chunk_timeout).
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.settings.limits.idle = Some(limit);
        self
    }

    /// How long a stream may take in all. Later it fails with
    /// [`StreamError::Timeout`](crate::StreamError::Timeout). Default: no limit.
    pub fn total_timeout(mut self, limit: Duration) -> Self {
        self.settings.limits.total = Some(limit);
        self
    }

    /// For how long nobody may ask for the next frame: a client that keeps its connection and reads
    /// nothing. Later the stream fails with
    /// [`StreamError::StalledReader`](crate::StreamError::StalledReader). Default: no limit.
    pub fn stalled_reader_timeout(mut self, limit: Duration) -> Self {
        self.settings.limits.stalled_reader = Some(limit);
        self
    }

    /// Meters the responses as they go by: [`StreamRecord::usage`] and [`StreamRecord::llm`] say what the meters find, and
    /// the outcome heeds the protocol's own end and errors inside the stream. Default: nothing is metered.
    ///
    /// A meter reads each chunk inside the body's poll, unless the set is
    /// [for the worker](MeterSet::on_worker); the client gets every chunk as it is, whatever the meter makes of it.
    /// Responses without success and those without content are not metered. What meters hold is charged to the
    /// [budget](Self::memory_budget).
    #[cfg(feature = "llm")]
    pub fn meter(mut self, meters: MeterSet) -> Self {
        self.settings.meters = Some(meters);
        self
    }

    /// Called with the record of each stream that completed.
    ///
    /// `Completed` means that the response is whole, and not that it is a success: a 404 completes, and so do a 422, a
    /// 504, and the answer to OPTIONS. See [`StreamRecord::is_success`]. See [`StreamHook`] for what hooks may do.
    ///
    /// `on_complete`, [`on_cancel`](Self::on_cancel) and [`on_failure`](Self::on_failure) are together one hook, with one
    /// queue. A second closure for the same outcome is a hook of its own.
    pub fn on_complete<F, R>(self, hook: F) -> Builder<C, WithHooks>
    where
        F: Fn(Arc<StreamRecord<C>>) -> R + Send + Sync + 'static,
        R: Future<Output: IntoHookResult> + Send + 'static,
    {
        self.add_closure(ClosureHook::new(ClosureKind::Complete, hook))
    }

    /// Called with the record of each stream that was cancelled, by the client or on purpose.
    pub fn on_cancel<F, R>(self, hook: F) -> Builder<C, WithHooks>
    where
        F: Fn(Arc<StreamRecord<C>>) -> R + Send + Sync + 'static,
        R: Future<Output: IntoHookResult> + Send + 'static,
    {
        self.add_closure(ClosureHook::new(ClosureKind::Cancel, hook))
    }

    /// Called with the record of each stream that failed.
    pub fn on_failure<F, R>(self, hook: F) -> Builder<C, WithHooks>
    where
        F: Fn(Arc<StreamRecord<C>>) -> R + Send + Sync + 'static,
        R: Future<Output: IntoHookResult> + Send + 'static,
    {
        self.add_closure(ClosureHook::new(ClosureKind::Failure, hook))
    }

    /// Called with the record of every stream, however it ended.
    pub fn on_end<F, R>(self, hook: F) -> Builder<C, WithHooks>
    where
        F: Fn(Arc<StreamRecord<C>>) -> R + Send + Sync + 'static,
        R: Future<Output: IntoHookResult> + Send + 'static,
    {
        self.with_hooks(|hooks| hooks.push(Hook::Closures(ClosureHook::new(ClosureKind::End, hook))))
    }

    /// Adds a hook. Each hook has its own queue, workers and retries: a slow one delays no other.
    pub fn hook(self, hook: impl StreamHook<C>) -> Builder<C, WithHooks> {
        self.with_hooks(|hooks| hooks.push(Hook::Trait(Box::new(TraitHook::new(hook)))))
    }

    fn add_closure(self, closure: ClosureHook<C>) -> Builder<C, WithHooks> {
        self.with_hooks(|hooks| {
            let mut closure = Some(closure);
            for hook in &mut *hooks {
                if let (Hook::Closures(hook), Some(new)) = (hook, closure.take()) {
                    closure = hook.merge(new);
                }
            }
            hooks.extend(closure.map(Hook::Closures));
        })
    }

    fn with_hooks(mut self, add: impl FnOnce(&mut Vec<Hook<C>>)) -> Builder<C, WithHooks> {
        add(&mut self.hooks);
        let Self { context, filter, hooks, on_dead_letter, settings, .. } = self;
        Builder { context, filter, hooks, on_dead_letter, settings, has_hooks: PhantomData }
    }

    /// Called, on a worker, with each record that a hook gave up on: to write it somewhere safe.
    pub fn on_dead_letter(
        mut self,
        callback: impl Fn(&DeadLetter<C>) + Send + Sync + 'static,
    ) -> Builder<C, WithHooks> {
        self.on_dead_letter = Some(Arc::new(callback));
        self.with_hooks(|_| ())
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
        self.settings.on_chunk = Some(Arc::new(on_chunk));
        self
    }

    /// When failed deliveries are tried again. Default [`RetryPolicy::default`].
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.settings.retry = retry;
        self
    }

    /// How long one call of a hook may take. Default 30 s: longer than most databases' own limits.
    pub fn hook_timeout(mut self, timeout: Duration) -> Self {
        self.settings.hook_timeout = timeout;
        self
    }

    /// How many records each hook may work on at once. Default 4.
    pub fn workers(mut self, workers: usize) -> Self {
        self.settings.workers = workers;
        self
    }

    /// How many streams and undelivered records there may be together. Default 65,536.
    ///
    /// A stream's slot is free again when every hook has taken its record or given up on it.
    pub fn max_in_flight(mut self, streams: usize) -> Self {
        self.settings.max_in_flight = streams;
        self
    }

    /// What a call does when there is no slot. Default [`WhenFull::Wait`].
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.settings.when_full = when_full;
        self
    }

    /// How many dead letters are kept for each hook. Default 1,024, each with its captured content.
    ///
    /// When they are full the oldest goes, with an error event that names it; it stays in the audit.
    pub fn dead_letters(mut self, letters: usize) -> Self {
        self.settings.dead_letters = letters;
        self
    }

    /// Builds the layer. Inside a tokio runtime its workers start there, otherwise on the runtime of the first call.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the setting that cannot work.
    pub fn build(self) -> Result<StreamingAccumulatorLayer<C>, ConfigError> {
        self.settings.check()?;
        metrics::calibrate();
        let Self { context, filter, hooks, on_dead_letter, settings, .. } = self;
        let stream = Arc::new(settings.stream_config()?);
        let config = DispatcherConfig {
            retry: settings.retry,
            hook_timeout: settings.hook_timeout,
            workers: settings.workers,
            max_in_flight: settings.max_in_flight,
            when_full: settings.when_full,
            dead_letters: settings.dead_letters,
            on_dead_letter,
            stream,
            on_chunk: settings.on_chunk,
        };
        let hooks = hooks.into_iter().map(|hook| match hook {
            Hook::Trait(hook) => hook,
            Hook::Closures(hook) => Box::new(hook),
        });
        let dispatcher = Dispatcher::new(config, hooks.collect());
        dispatcher.start();
        Ok(StreamingAccumulatorLayer::new(LayerShared { dispatcher: Arc::new(dispatcher), context, filter }))
    }
}

impl<C, H> fmt::Debug for Builder<C, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { capture, budget, strategy, limits, retry, hook_timeout, .. } = &self.settings;
        let Settings { workers, max_in_flight, when_full, .. } = &self.settings;
        f.debug_struct("Builder")
            .field("hooks", &self.hooks.len())
            .field("capture", capture)
            .field("memory_budget", budget)
            .field("backpressure", strategy)
            .field("limits", limits)
            .field("retry", retry)
            .field("hook_timeout", hook_timeout)
            .field("workers", workers)
            .field("max_in_flight", max_in_flight)
            .field("when_full", when_full)
            .finish_non_exhaustive()
    }
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            capture: Capture::all(1024 * 1024),
            budget: MemoryBudget::unlimited(),
            strategy: BackpressureStrategy::default(),
            buffer_limit: 1024,
            high_water_mark: 80,
            max_bytes_per_second: None,
            limits: TimeLimits::default(),
            #[cfg(feature = "llm")]
            meters: None,
            spill_after: None,
            spill_directory: None,
            compress: false,
            on_chunk: None,
            dead_letters: 1024,
            retry: RetryPolicy::default(),
            hook_timeout: Duration::from_secs(30),
            workers: 4,
            max_in_flight: 65_536,
            when_full: WhenFull::default(),
        }
    }
}

impl Settings {
    fn stream_config(&self) -> Result<StreamConfig, ConfigError> {
        let backpressure = BackpressureConfig::new(self.strategy, self.buffer_limit, self.high_water_mark);
        let buffer = BufferConfig {
            capture: self.capture,
            pool: Arc::new(Pool::new(self.budget.clone())),
            buffer_limit: backpressure.buffer_limit,
            drops_oldest: backpressure.drops_oldest(),
            spill: self.spill_worker()?,
        };
        Ok(StreamConfig {
            buffer: Arc::new(buffer),
            backpressure,
            max_bytes_per_second: self.max_bytes_per_second,
            limits: self.limits,
            budget: self.budget.clone(),
            #[cfg(feature = "llm")]
            meters: self.meters.clone().map(Arc::new),
            token: CancellationToken::new(),
        })
    }

    fn spill_worker(&self) -> Result<Option<Arc<SpillWorker>>, ConfigError> {
        let directory = self.spill_directory.clone().unwrap_or_else(std::env::temp_dir);
        if self.spill_after.is_none() && !self.compress {
            return Ok(None);
        }
        let spill = self.spill_after.map(|after| (after, directory.clone()));
        SpillWorker::start(spill, self.compress, self.max_in_flight)
            .map(Some)
            .map_err(|error| ConfigError::SpillDirectory { path: directory, error: error.to_string().into() })
    }

    fn check(&self) -> Result<(), ConfigError> {
        let zero = |setting| ConfigError::Zero { setting };
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
        self.check_flow()?;
        self.retry.check()
    }

    fn check_flow(&self) -> Result<(), ConfigError> {
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
            ("max_bytes_per_second", self.max_bytes_per_second == Some(0)),
            ("first_chunk_timeout", first_chunk == Some(Duration::ZERO)),
            ("idle_timeout", idle == Some(Duration::ZERO)),
            ("total_timeout", total == Some(Duration::ZERO)),
            ("stalled_reader_timeout", stalled_reader == Some(Duration::ZERO)),
        ];
        match settings.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((setting, _)) => Err(ConfigError::Zero { setting }),
            None => Ok(()),
        }
    }
}
