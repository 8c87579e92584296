//! The application: where the layer goes, and what stays outside it.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use streaming_accumulator::{CaptureRequestLayer, StreamingAccumulatorLayer};
use tower::ServiceExt;

use crate::admin::Admin;
use crate::asking;
use crate::backend::{self, Backend};
use crate::billing::Context;
use crate::keys::{Keys, authenticate};
use crate::live::{Live, stamp};

/// Bytes of each request that are kept: the prompt, for an estimate where a stream is cut before it reports its usage.
const MAX_REQUEST: usize = 64 * 1024;

/// Every authenticated `POST` goes through the layer, whatever its path; nothing else does.
///
/// `Router::layer` wraps what stands above it, so a request meets these lines from the bottom up.
pub(crate) fn app(
    layer: StreamingAccumulatorLayer<Context>,
    keys: Keys,
    live: Live,
    backend: Arc<Backend>,
    admin: Admin,
) -> Router {
    let provider = Router::new().fallback(backend::answer).with_state(backend);
    let metered = provider
        .clone()
        .layer(from_fn_with_state(live, stamp))
        .layer(CaptureRequestLayer::new(MAX_REQUEST))
        .layer(layer) // <- this line accounts for every stream
        .layer(from_fn(asking::hide))
        .layer(from_fn_with_state(keys.clone(), authenticate));
    let unmetered = provider.layer(from_fn_with_state(keys, authenticate));
    let rest = admin.router().fallback_service(unmetered);
    Router::new().fallback(by_method).with_state(Split { metered, rest })
}

/// What `POST` gets, and what all other methods get.
#[derive(Clone)]
struct Split {
    metered: Router,
    rest: Router,
}

/// Decides before any routing, so that a `POST` to `/ledger` is metered as well.
async fn by_method(State(split): State<Split>, request: Request) -> Response {
    let service = if request.method() == Method::POST { split.metered } else { split.rest };
    match service.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
