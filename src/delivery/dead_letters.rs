//! Records that every attempt gave up on.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::id::StreamId;
use crate::stream::record::StreamRecord;

/// A record that a hook did not take in any of its attempts.
pub struct DeadLetter<C = ()> {
    pub(super) record: Arc<StreamRecord<C>>,
    pub(super) hook: Arc<str>,
    pub(super) error: Box<str>,
    pub(super) attempts: u32,
    pub(super) at: SystemTime,
}

/// The bounded store of one hook's dead letters. Off every hot path, so a lock is good enough.
pub(super) struct DeadLetters<C> {
    letters: Mutex<VecDeque<DeadLetter<C>>>,
    capacity: usize,
}

// === impl DeadLetter ===

impl<C> DeadLetter<C> {
    /// The id of the stream.
    pub fn id(&self) -> StreamId {
        self.record.id()
    }

    /// The record, as the last attempt had it.
    pub fn record(&self) -> &Arc<StreamRecord<C>> {
        &self.record
    }

    /// The name of the hook.
    pub fn hook(&self) -> &str {
        &self.hook
    }

    /// What the last attempt failed with.
    pub fn error(&self) -> &str {
        &self.error
    }

    /// Attempts made.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// When the last attempt failed.
    pub fn at(&self) -> SystemTime {
        self.at
    }
}

impl<C> Clone for DeadLetter<C> {
    fn clone(&self) -> Self {
        Self {
            record: Arc::clone(&self.record),
            hook: Arc::clone(&self.hook),
            error: self.error.clone(),
            attempts: self.attempts,
            at: self.at,
        }
    }
}

impl<C> fmt::Debug for DeadLetter<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("id", &self.id())
            .field("hook", &self.hook)
            .field("error", &self.error)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

// === impl DeadLetters ===

impl<C> DeadLetters<C> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { letters: Mutex::default(), capacity }
    }

    /// Keeps `letter`; returns the oldest one if it had to make room.
    pub(super) fn push(&self, letter: DeadLetter<C>) -> Option<DeadLetter<C>> {
        let mut letters = self.lock();
        let evicted = if letters.len() == self.capacity { letters.pop_front() } else { None };
        letters.push_back(letter);
        evicted
    }

    pub(super) fn list(&self) -> Vec<DeadLetter<C>> {
        self.lock().iter().cloned().collect()
    }

    pub(super) fn take(&self, id: StreamId) -> Option<DeadLetter<C>> {
        let mut letters = self.lock();
        let index = letters.iter().position(|letter| letter.id() == id)?;
        letters.remove(index)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<DeadLetter<C>>> {
        // No user code runs under the lock, so what a panic left behind is whole.
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
