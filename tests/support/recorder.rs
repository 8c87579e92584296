//! A layer whose hook keeps every record, and the checks of its books.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use streaming_accumulator::{
    AsIs, Builder, Handle, StreamRecord, StreamingAccumulator, StreamingAccumulatorLayer,
};
use tower::Layer;

use super::{Account, until, within};

type Records = Arc<Mutex<Vec<Arc<StreamRecord>>>>;

/// A layer whose hook keeps every record.
#[derive(Clone)]
pub struct Recorder<R = AsIs> {
    layer: StreamingAccumulatorLayer<(), R>,
    records: Records,
}

// === impl Recorder ===

impl Recorder {
    pub fn new() -> Self {
        Self::with(|builder| builder)
    }
}

impl<R> Recorder<R> {
    /// Of a layer that is configured so.
    pub fn with(configure: impl FnOnce(Builder) -> Builder<(), R>) -> Self {
        let records = Records::default();
        let kept = Arc::clone(&records);
        let layer = configure(StreamingAccumulatorLayer::builder())
            .on_end(move |record| {
                kept.lock().unwrap().push(record);
                std::future::ready(())
            })
            .build()
            .unwrap();
        Self { layer, records }
    }

    pub fn layer(&self) -> StreamingAccumulatorLayer<(), R> {
        self.layer.clone()
    }

    pub fn around<S>(&self, service: S) -> StreamingAccumulator<S, (), R> {
        self.layer.layer(service)
    }

    pub fn handle(&self) -> Handle {
        self.layer.handle()
    }

    /// Bytes pulled so far from the one stream in flight.
    pub fn live_bytes(&self) -> u64 {
        self.handle().streams().first().map_or(0, |stream| stream.metrics().bytes())
    }

    /// Waits until the one stream in flight was pulled so far.
    pub async fn pulled(&self, bytes: u64) {
        until(&format!("{bytes} bytes to be pulled"), || self.live_bytes() >= bytes).await;
    }

    /// Waits until the one stream in flight is pulled no further; how far it came.
    pub async fn stalled(&self) -> u64 {
        let stall = async {
            let (mut bytes, mut same) = (0, 0);
            while same < 5 {
                // Longer than any pause of a server that can go on.
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
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
    pub async fn all(&self, streams: u64) -> Vec<Arc<StreamRecord>> {
        let handle = self.handle();
        let delivered = || handle.audit().hooks().iter().all(|hook| hook.delivered() >= streams);
        until(&format!("{streams} records, not {:?}", handle.audit()), delivered).await;
        let audit = handle.audit();
        assert_eq!((audit.opened(), audit.in_flight(), audit.settled()), (streams, 0, streams), "{audit:?}");
        assert_eq!((audit.hooks()[0].owed(), audit.hooks()[0].delivered()), (streams, streams), "{audit:?}");
        assert!(audit.is_balanced(), "{audit:?}");
        let records = self.records.lock().unwrap().clone();
        let ids: BTreeSet<_> = records.iter().map(|record| record.id()).collect();
        assert_eq!((records.len() as u64, ids.len() as u64), (streams, streams), "one record for each");
        records
    }

    /// The one record of the one call.
    pub async fn only(&self) -> Arc<StreamRecord> {
        self.all(1).await.remove(0)
    }

    /// What the one record says.
    pub async fn account(&self) -> Account {
        let record = self.only().await;
        Account::of(&record)
    }

    /// Nothing was settled, and `in_flight` streams run.
    pub fn assert_open(&self, in_flight: u64) {
        let audit = self.handle().audit();
        assert_eq!((audit.opened(), audit.in_flight(), audit.settled()), (in_flight, in_flight, 0));
        assert!(audit.is_balanced(), "{audit:?}");
    }
}
