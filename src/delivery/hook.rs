//! What users do with records.

use std::future::{Future, ready};
use std::sync::Arc;

use tokio_util::sync::ReusableBoxFuture;

use crate::error::BoxError;
use crate::stream::outcome::Outcome;
use crate::stream::record::StreamRecord;

/// Does something with the record of each ended stream: bills, audits, caches, alerts.
///
/// Hooks run on workers, never inside the response's body or its drop. A call that returns an error, panics, or
/// outlasts `hook_timeout` is a failed attempt; it is tried again as the retry policy says, and then becomes a dead
/// letter. A hook may therefore be called more than once for one record, and should use [`StreamRecord::id`] as its
/// idempotency key.
///
/// Implement [`on_end`](Self::on_end), or only the methods for the outcomes that matter. `Arc<H>` is a hook where `H`
/// is one, so that you can keep a hook that you give to a layer.
///
/// A hook must not block its thread: then `hook_timeout` cannot end the call, and the runtime's other tasks wait. Use
/// [`spawn_blocking`](tokio::task::spawn_blocking) for work that blocks.
///
/// # Cancel safety
///
/// A call is dropped at its next await point when it outlasts `hook_timeout`, or when the runtime goes down; the record
/// then stays queued, or is tried again.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use streaming_accumulator::delivery::StreamHook;
/// use streaming_accumulator::{BoxError, StreamRecord};
///
/// struct Ledger;
///
/// impl StreamHook<String> for Ledger {
///     fn name(&self) -> &str {
///         "ledger"
///     }
///
///     async fn on_end(&self, record: Arc<StreamRecord<String>>) -> Result<(), BoxError> {
///         println!("{:?} {} {}", record.context(), record.outcome(), record.metrics().bytes());
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a hook for records with the context `{C}`",
    label = "not a `StreamHook<{C}>`",
    note = "`{C}` is what the `context` closure returns: implement `StreamHook<{C}>` for `{Self}`",
    note = "a closure is given to `on_end`, `on_complete`, `on_cancel` or `on_failure` instead"
)]
pub trait StreamHook<C>: Send + Sync + 'static
where
    C: Send + Sync + 'static,
{
    /// The hook's name in the audit, in logs and in dead letters.
    fn name(&self) -> &str {
        std::any::type_name::<Self>()
    }

    /// Called with every record. By default calls the method for its outcome.
    fn on_end(&self, record: Arc<StreamRecord<C>>) -> impl Future<Output = Result<(), BoxError>> + Send {
        async move {
            match record.outcome() {
                Outcome::Completed => self.on_complete(record).await,
                Outcome::Cancelled => self.on_cancel(record).await,
                Outcome::Failed(_) | Outcome::Interrupted => self.on_failure(record).await,
            }
        }
    }

    /// The stream completed. A 404 completes, too: see [`StreamRecord::is_success`].
    fn on_complete(&self, record: Arc<StreamRecord<C>>) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = record;
        ready(Ok(()))
    }

    /// The stream was cancelled: by whoever polled it, or on purpose.
    fn on_cancel(&self, record: Arc<StreamRecord<C>>) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = record;
        ready(Ok(()))
    }

    /// The stream failed, or was interrupted by a crash.
    fn on_failure(&self, record: Arc<StreamRecord<C>>) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = record;
        ready(Ok(()))
    }
}

/// What the closures given to `on_complete`, `on_cancel`, `on_failure` and `on_end` may return: nothing, or a `Result`
/// whose error is a failed attempt and whose value is ignored.
#[diagnostic::on_unimplemented(
    message = "a hook's future cannot return `{Self}`",
    label = "neither `()` nor a `Result` whose error converts into a boxed error",
    note = "return `()` where nothing can fail, or `Result<T, E>` where `E: Into<Box<dyn Error + Send + Sync>>`",
    note = "an error that is not `Send` or not `Sync`, such as `Box<dyn Error>`, cannot leave the hook: box it as `Box<dyn Error + Send + Sync>`"
)]
pub trait IntoHookResult: Send {
    /// The result of the attempt.
    fn into_hook_result(self) -> Result<(), BoxError>;
}

impl IntoHookResult for () {
    fn into_hook_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<T: Send, E: Into<BoxError> + Send> IntoHookResult for Result<T, E> {
    fn into_hook_result(self) -> Result<(), BoxError> {
        self.map(drop).map_err(Into::into)
    }
}

impl<C, H> StreamHook<C> for Arc<H>
where
    C: Send + Sync + 'static,
    H: StreamHook<C>,
{
    fn name(&self) -> &str {
        (**self).name()
    }

    fn on_end(&self, record: Arc<StreamRecord<C>>) -> impl Future<Output = Result<(), BoxError>> + Send {
        (**self).on_end(record)
    }
}

/// A call of a hook. The memory of one call serves the next, so that a call allocates nothing.
pub(crate) type HookCall = ReusableBoxFuture<'static, Result<(), BoxError>>;

/// A hook behind a pointer, with the outcomes that it is for.
pub(crate) trait ErasedHook<C>: Send + Sync {
    fn name(&self) -> &str;
    fn wants(&self, outcome: &Outcome) -> bool;
    /// Puts the call with `record` into `call`.
    fn call(&self, record: Arc<StreamRecord<C>>, call: &mut HookCall);
}

/// A [`StreamHook`] is for every outcome.
pub(crate) struct TraitHook<H>(Arc<H>);

/// Closures for some outcomes, which together are one hook.
pub(crate) struct ClosureHook<C> {
    is_on_end: bool,
    complete: Option<Closure<C>>,
    cancel: Option<Closure<C>>,
    failure: Option<Closure<C>>,
}

type Closure<C> = Arc<dyn Fn(Arc<StreamRecord<C>>, &mut HookCall) + Send + Sync>;

/// Which outcomes a closure is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClosureKind {
    Complete,
    Cancel,
    Failure,
    End,
}

// === impl TraitHook ===

impl<H> TraitHook<H> {
    pub(crate) fn new(hook: H) -> Self {
        Self(Arc::new(hook))
    }
}

impl<C, H> ErasedHook<C> for TraitHook<H>
where
    C: Send + Sync + 'static,
    H: StreamHook<C>,
{
    fn name(&self) -> &str {
        self.0.name()
    }

    fn wants(&self, _: &Outcome) -> bool {
        true
    }

    fn call(&self, record: Arc<StreamRecord<C>>, call: &mut HookCall) {
        let hook = Arc::clone(&self.0);
        call.set(async move { hook.on_end(record).await });
    }
}

// === impl ClosureHook ===

impl<C: 'static> ClosureHook<C> {
    /// A hook of one closure.
    pub(crate) fn new<H, F>(kind: ClosureKind, hook: H) -> Self
    where
        H: Fn(Arc<StreamRecord<C>>) -> F + Send + Sync + 'static,
        F: Future<Output: IntoHookResult> + Send + 'static,
    {
        let mut this =
            Self { is_on_end: kind == ClosureKind::End, complete: None, cancel: None, failure: None };
        let closure: Closure<C> = Arc::new(move |record, call: &mut HookCall| {
            let future = hook(record);
            call.set(async move { future.await.into_hook_result() });
        });
        match kind {
            ClosureKind::Complete => this.complete = Some(closure),
            ClosureKind::Cancel => this.cancel = Some(closure),
            ClosureKind::Failure => this.failure = Some(closure),
            ClosureKind::End => {
                this.complete = Some(Arc::clone(&closure));
                this.cancel = Some(Arc::clone(&closure));
                this.failure = Some(closure);
            }
        }
        this
    }

    /// Adds the closures of `other`, unless one of them has an outcome in common with these: then it is returned.
    pub(crate) fn merge(&mut self, other: Self) -> Option<Self> {
        let clash = |a: &Option<Closure<C>>, b: &Option<Closure<C>>| a.is_some() && b.is_some();
        if clash(&self.complete, &other.complete)
            || clash(&self.cancel, &other.cancel)
            || clash(&self.failure, &other.failure)
        {
            return Some(other);
        }
        self.complete = self.complete.take().or(other.complete);
        self.cancel = self.cancel.take().or(other.cancel);
        self.failure = self.failure.take().or(other.failure);
        None
    }

    fn closure(&self, outcome: &Outcome) -> Option<&Closure<C>> {
        match outcome {
            Outcome::Completed => self.complete.as_ref(),
            Outcome::Cancelled => self.cancel.as_ref(),
            Outcome::Failed(_) | Outcome::Interrupted => self.failure.as_ref(),
        }
    }
}

impl<C: 'static> ErasedHook<C> for ClosureHook<C>
where
    C: Send + Sync,
{
    fn name(&self) -> &str {
        match (&self.complete, &self.cancel, &self.failure) {
            _ if self.is_on_end => "on_end",
            (Some(_), None, None) => "on_complete",
            (None, Some(_), None) => "on_cancel",
            (None, None, Some(_)) => "on_failure",
            _ => "on_outcome",
        }
    }

    fn wants(&self, outcome: &Outcome) -> bool {
        self.closure(outcome).is_some()
    }

    fn call(&self, record: Arc<StreamRecord<C>>, call: &mut HookCall) {
        let closure = self.closure(record.outcome()).cloned();
        match closure {
            Some(closure) => closure(record, call),
            None => call.set(ready(Ok(()))),
        }
    }
}
