//! Hooks that keep what they get.

use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};

use streaming_accumulator::StreamRecord;

/// Records in the order of their delivery, each with the name of the hook that got it.
pub(crate) struct Records<C = ()>(Arc<Mutex<Vec<Delivered<C>>>>);

/// The name of a hook, and a record that it got.
pub(crate) type Delivered<C = ()> = (&'static str, Arc<StreamRecord<C>>);

// === impl Records ===

impl<C> Clone for Records<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> Default for Records<C> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<C> Records<C> {
    /// A hook that keeps what it gets.
    pub(crate) fn hook(&self) -> impl Fn(Arc<StreamRecord<C>>) -> Ready<()> + Send + Sync + 'static + use<C>
    where
        C: Send + Sync + 'static,
    {
        self.hook_named("hook")
    }

    /// One of several hooks that keep what they get.
    pub(crate) fn hook_named(
        &self,
        name: &'static str,
    ) -> impl Fn(Arc<StreamRecord<C>>) -> Ready<()> + Send + Sync + 'static + use<C>
    where
        C: Send + Sync + 'static,
    {
        let records = self.clone();
        move |record| {
            records.0.lock().unwrap().push((name, record));
            ready(())
        }
    }

    /// For hooks of the test's own.
    pub(crate) fn push(&self, record: Arc<StreamRecord<C>>) {
        self.0.lock().unwrap().push(("hook", record));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<StreamRecord<C>>> {
        self.0.lock().unwrap().iter().map(|(_, record)| Arc::clone(record)).collect()
    }

    pub(crate) fn only(&self) -> Arc<StreamRecord<C>> {
        let all = self.all();
        assert_eq!(all.len(), 1, "{} records", all.len());
        Arc::clone(&all[0])
    }

    /// Takes all of them: what they hold is free once the caller drops them.
    pub(crate) fn take(&self) -> Vec<Delivered<C>> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}
