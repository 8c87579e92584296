//! The tenant and path of every stream in flight, for `GET /streams`: a `StreamHandle` knows the
//! stream's id and numbers, what they belong to is the application's to say.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;
use streaming_accumulator::{StreamHandle, StreamId};

use crate::hiding::Hidden;
use crate::keys::Tenant;

/// The streams that are known by name.
#[derive(Clone, Default)]
pub(crate) struct Live(Arc<Mutex<HashMap<StreamId, Caller>>>);

/// Whose stream it is, and what was asked for.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) tenant: Option<Tenant>,
    pub(crate) path: String,
    pub(crate) hidden: Hidden,
}

// === impl Live ===

impl Live {
    fn lock(&self) -> MutexGuard<'_, HashMap<StreamId, Caller>> {
        // Each use is one call of the map, so a panic leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, id: StreamId) -> Option<Caller> {
        self.lock().get(&id).cloned()
    }

    pub(crate) fn remove(&self, id: StreamId) {
        self.lock().remove(&id);
    }
}

/// Runs inside the layer: notes whose stream it is, and tells the client its id.
pub(crate) async fn stamp(State(live): State<Live>, request: Request, next: Next) -> Response {
    let Some(stream) = request.extensions().get::<StreamHandle>().map(StreamHandle::id) else {
        // Not metered, because the layer is not around.
        return next.run(request).await;
    };
    let caller = Caller {
        tenant: request.extensions().get().cloned(),
        path: request.uri().path().to_owned(),
        hidden: request.extensions().get().cloned().unwrap_or_default(),
    };
    live.lock().insert(stream, caller);
    let mut response = next.run(request).await;
    if let Ok(id) = HeaderValue::from_str(&stream.to_string()) {
        response.headers_mut().insert("x-stream-id", id);
    }
    response
}
