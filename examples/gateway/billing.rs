//! The hook: called once with the record of every stream that has ended, and again if it failed.

use std::sync::Arc;

use axum::http::request::Parts;
use streaming_accumulator::{BoxError, StreamHook, StreamRecord};

use crate::hiding::Hidden;
use crate::keys::Tenant;
use crate::ledger::Ledger;
use crate::live::Live;

/// What the layer knows of a request.
pub(crate) struct Context {
    /// Absent only if the layer were installed without authentication around it.
    pub(crate) tenant: Option<Tenant>,
    /// What was kept from the client, while the stream runs.
    pub(crate) hidden: Hidden,
}

/// Writes each record into the ledger.
pub(crate) struct Billing {
    ledger: Ledger,
    live: Live,
}

// === impl Context ===

impl Context {
    /// Takes what the middleware around the layer put into the request's extensions.
    pub(crate) fn of(request: &Parts) -> Self {
        Self {
            tenant: request.extensions.get().cloned(),
            hidden: request.extensions.get().cloned().unwrap_or_default(),
        }
    }
}

// === impl Billing ===

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
