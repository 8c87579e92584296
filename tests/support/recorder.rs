//! A layer whose hooks keep every record, and the checks of its books.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use streaming_accumulator::{
    Audit, Builder, Handle, StreamRecord, StreamingAccumulator, StreamingAccumulatorLayer,
};
use tower::Layer;

use super::flow::{self, Flow};
use super::{Account, Records, until, within};

/// A layer whose hooks keep every record.
#[derive(Clone)]
pub(crate) struct Recorder<C = ()> {
    layer: StreamingAccumulatorLayer<C>,
    records: Records<C>,
}

// === impl Recorder ===

impl Recorder {
    pub(crate) fn new() -> Self {
        Self::with(|builder| builder)
    }

    /// Opens a stream that the test feeds.
    pub(crate) async fn open(&self) -> Flow {
        flow::open(&self.layer).await
    }

    /// The same, with a body that declares its length.
    pub(crate) async fn open_declaring(&self, length: u64) -> Flow {
        flow::open_declaring(&self.layer, length).await
    }
}

impl Recorder {
    /// Of a layer that is configured so.
    pub(crate) fn with(configure: impl FnOnce(Builder) -> Builder) -> Self {
        Self::of(configure(StreamingAccumulatorLayer::builder()))
    }

    pub(crate) fn of(builder: Builder) -> Self {
        let records = Records::default();
        Self { layer: builder.on_end(records.hook()).build().unwrap(), records }
    }

    /// What the one record says.
    pub(crate) async fn account(&self) -> Account {
        let record = self.only().await;
        Account::of(&record)
    }
}

impl Recorder<&'static str> {
    /// Of a layer with a hook for each outcome: `complete`, `cancel`, `failure`.
    pub(crate) fn routed(configure: impl FnOnce(Builder<&'static str>) -> Builder<&'static str>) -> Self {
        let records = Records::default();
        let builder = configure(StreamingAccumulatorLayer::builder().context(|_| "from a request"))
            .on_complete(records.hook_named("complete"))
            .on_cancel(records.hook_named("cancel"))
            .on_failure(records.hook_named("failure"));
        Self { layer: builder.build().unwrap(), records }
    }
}

impl<C: Send + Sync + 'static> Recorder<C> {
    pub(crate) fn layer(&self) -> StreamingAccumulatorLayer<C> {
        self.layer.clone()
    }

    pub(crate) fn around<S>(&self, service: S) -> StreamingAccumulator<S, C> {
        self.layer.layer(service)
    }

    pub(crate) fn handle(&self) -> Handle<C> {
        self.layer.handle()
    }

    pub(crate) fn audit(&self) -> Audit {
        self.layer.handle().audit()
    }

    /// What the hooks got so far.
    pub(crate) fn records(&self) -> &Records<C> {
        &self.records
    }

    /// Bytes pulled so far from the one stream in flight.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.handle().streams().first().map_or(0, |stream| stream.metrics().bytes())
    }

    /// Waits until the one stream in flight was pulled so far.
    pub(crate) async fn pulled(&self, bytes: u64) {
        until(&format!("{bytes} bytes to be pulled"), || self.live_bytes() >= bytes).await;
    }

    /// Waits until the one stream in flight is pulled no further; how far it came.
    pub(crate) async fn stalled(&self) -> u64 {
        let stall = async {
            let (mut bytes, mut same) = (0, 0);
            while same < 5 {
                // Longer than any pause of a server that can go on.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let now = self.live_bytes();
                same = if now > 0 && now == bytes { same + 1 } else { 0 };
                bytes = now;
            }
            bytes
        };
        within("a stall", stall).await
    }

    /// The records of `streams` calls, in the order of delivery, once the books are closed: each call
    /// opened a stream, none is in flight, each has one record, each record was delivered once.
    pub(crate) async fn all(&self, streams: u64) -> Vec<Arc<StreamRecord<C>>> {
        let handle = self.handle();
        let delivered = || handle.audit().hooks().iter().map(|hook| hook.delivered()).sum::<u64>();
        let closed = || delivered() >= streams && handle.audit().in_flight() == 0;
        until(&format!("{streams} records, not {:?}", handle.audit()), closed).await;
        let audit = handle.audit();
        assert_eq!((audit.opened(), audit.in_flight(), audit.settled()), (streams, 0, streams), "{audit:?}");
        let owed: u64 = audit.hooks().iter().map(|hook| hook.expected()).sum();
        assert_eq!((owed, delivered()), (streams, streams), "{audit:?}");
        assert!(audit.is_balanced(), "{audit:?}");
        let records = self.records.all();
        let ids: BTreeSet<_> = records.iter().map(|record| record.id()).collect();
        assert_eq!((records.len() as u64, ids.len() as u64), (streams, streams), "one record for each");
        records
    }

    /// The first `streams` records, while others may be in flight.
    pub(crate) async fn first(&self, streams: u64) -> Vec<Arc<StreamRecord<C>>> {
        let delivered = || self.audit().hooks()[0].delivered() >= streams;
        until(&format!("{streams} records"), delivered).await;
        let audit = self.audit();
        assert_eq!((audit.settled(), audit.is_balanced()), (streams, true), "{audit:?}");
        self.records.all()
    }

    /// The one record of the one call.
    pub(crate) async fn only(&self) -> Arc<StreamRecord<C>> {
        self.all(1).await.remove(0)
    }

    /// Nothing was settled, and `in_flight` streams run.
    pub(crate) fn assert_open(&self, in_flight: u64) {
        let audit = self.handle().audit();
        assert_eq!((audit.opened(), audit.in_flight(), audit.settled()), (in_flight, in_flight, 0));
        assert!(audit.is_balanced(), "{audit:?}");
    }
}
