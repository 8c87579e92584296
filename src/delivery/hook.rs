//! What users do with records.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

use crate::error::BoxError;
use crate::stream::outcome::Outcome;
use crate::stream::record::StreamRecord;

/// Does something with the record of each ended stream: bills, audits, caches, alerts.
///
/// Hooks run on workers, never inside the response's body or its drop. A call that returns an error,
/// panics, or outlasts `hook_timeout` is a failed attempt; it is tried again as the retry policy says,
/// and then becomes a dead letter. So a hook may be called more than once for one record, and should use
/// [`StreamRecord::id`] as its idempotency key.
///
/// Implement [`on_end`](Self::on_end), or only the methods for the outcomes that matter.
///
/// # Cancel safety
///
/// A call is dropped at its next await point when it outlasts `hook_timeout`, or when the runtime goes
/// down; the record then stays queued, or is tried again.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use streaming_accumulator::{BoxError, StreamHook, StreamRecord};
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

    /// The stream completed.
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

/// What the closures given to `on_complete`, `on_cancel`, `on_failure` and `on_end` may return: nothing,
/// or a `Result` whose error is a failed attempt.
pub trait IntoHookResult: Send {
    /// The result of the attempt.
    fn into_hook_result(self) -> Result<(), BoxError>;
}

impl IntoHookResult for () {
    fn into_hook_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError> + Send> IntoHookResult for Result<(), E> {
    fn into_hook_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

type HookFuture<'a> = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + 'a>>;

/// A hook behind a pointer, with the outcomes that it is for.
pub(crate) trait ErasedHook<C>: Send + Sync {
    fn name(&self) -> &str;
    fn wants(&self, outcome: &Outcome) -> bool;
    fn call(&self, record: Arc<StreamRecord<C>>) -> HookFuture<'_>;
}

/// A [`StreamHook`] is for every outcome.
pub(crate) struct ForAll<H>(pub(crate) H);

/// A closure, for the outcomes that `wants` picks.
pub(crate) struct ForSome<H> {
    pub(crate) name: &'static str,
    pub(crate) wants: fn(&Outcome) -> bool,
    pub(crate) hook: H,
}

impl<C, H> ErasedHook<C> for ForAll<H>
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

    fn call(&self, record: Arc<StreamRecord<C>>) -> HookFuture<'_> {
        Box::pin(self.0.on_end(record))
    }
}

impl<C, H, F> ErasedHook<C> for ForSome<H>
where
    C: Send + Sync + 'static,
    H: Fn(Arc<StreamRecord<C>>) -> F + Send + Sync + 'static,
    F: Future<Output: IntoHookResult> + Send + 'static,
{
    fn name(&self) -> &str {
        self.name
    }

    fn wants(&self, outcome: &Outcome) -> bool {
        (self.wants)(outcome)
    }

    fn call(&self, record: Arc<StreamRecord<C>>) -> HookFuture<'_> {
        let future = (self.hook)(record);
        Box::pin(async move { future.await.into_hook_result() })
    }
}
