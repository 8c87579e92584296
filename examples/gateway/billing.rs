//! The hook: called once with the record of every stream that has ended, and again if it failed.

use std::sync::Arc;

use streaming_accumulator::{BoxError, StreamHook, StreamRecord};

use crate::keys::Tenant;
use crate::ledger::Ledger;
use crate::live::Live;

/// What the layer knows of a request: the tenant, absent only if the layer were installed without
/// authentication around it.
pub(crate) type Context = Option<Tenant>;

/// Writes each record into the ledger.
pub(crate) struct Billing {
    ledger: Ledger,
    live: Live,
}

impl Billing {
    pub(crate) fn new(ledger: Ledger, live: Live) -> Self {
        Self { ledger, live }
    }
}

impl StreamHook<Context> for Billing {
    fn name(&self) -> &str {
        "ledger"
    }

    async fn on_end(&self, record: Arc<StreamRecord<Context>>) -> Result<(), BoxError> {
        self.live.remove(record.id());
        // An error is a failed attempt: the layer tries again, and then keeps a dead letter.
        self.ledger.insert(record).await
    }
}
