//! Between streams and hooks: admission, queues, workers, retries, dead letters, shutdown.
//!
//! A stream reserves a *slot* when it opens, and its record holds the slot until every hook has taken the record or
//! given up on it. Streams in flight and queued records together therefore never exceed `max_in_flight`, and the
//! hand-over from a body's drop is a push that always has room. The price: hooks that are slow for long use up the
//! slots, and then new calls wait or are rejected.
//!
//! No task is ever spawned from a drop: a runtime that is shutting down accepts the task and never runs it. Workers exist
//! before the first record, and a record that they do not get to stays counted as queued.

mod audit;
mod dead_letters;
pub(crate) mod dispatcher;
pub(crate) mod handle;
pub(crate) mod hook;
mod pipeline;
mod queue;
mod registry;
pub(crate) mod retry;
mod shutdown;
mod watchdog;

pub use self::audit::{Audit, HookAudit};
pub use self::dead_letters::DeadLetter;
pub use self::dispatcher::WhenFull;
pub use self::handle::Handle;
pub use self::hook::{IntoHookResult, StreamHook};
pub(crate) use self::queue::OnDeadLetter;
pub use self::retry::RetryPolicy;
pub use self::shutdown::ShutdownReport;
