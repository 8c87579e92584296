//! The operator's endpoints: the ledger, the streams in flight and how to stop one, the audit.

use std::time::Duration;

use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use streaming_accumulator::delivery::HookAudit;
use streaming_accumulator::{BoxError, Handle, StreamId};

use crate::billing::Context;
use crate::keys::bearer;
use crate::ledger::Ledger;
use crate::live::Live;

const LIMIT: u32 = 100;

/// What the endpoints look at.
#[derive(Clone)]
pub(crate) struct Admin {
    key: Option<String>,
    handle: Handle<Context>,
    ledger: Ledger,
    live: Live,
}

#[derive(Deserialize)]
struct Filter {
    tenant: Option<String>,
    limit: Option<String>,
}

// === impl Admin ===

impl Admin {
    pub(crate) fn new(key: Option<String>, handle: Handle<Context>, ledger: Ledger, live: Live) -> Self {
        Self { key, handle, ledger, live }
    }

    /// The routes, behind the admin key if there is one.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/ledger", get(list))
            .route("/ledger/{id}", get(row))
            .route("/streams", get(streams))
            .route("/streams/{id}", delete(stop))
            .route("/audit", get(audit))
            .route("/healthz", get(async || "ok\n"))
            .route_layer(middleware::from_fn_with_state(self.clone(), guard))
            .with_state(self)
    }
}

async fn list(State(admin): State<Admin>, Query(filter): Query<Filter>) -> Response {
    let limit = match filter.limit.as_deref().filter(|text| !text.is_empty()).map(str::parse) {
        None => LIMIT,
        Some(Ok(limit)) => limit,
        Some(Err(_)) => {
            return refuse(StatusCode::BAD_REQUEST, "limit: expected a number of rows, such as 100");
        }
    };
    let tenant = filter.tenant.filter(|tenant| !tenant.is_empty());
    respond(admin.ledger.list(tenant, limit).await.map(|rows| Some(Value::from(rows))))
}

async fn row(State(admin): State<Admin>, Path(id): Path<String>) -> Response {
    match id.parse::<StreamId>() {
        Ok(id) => respond(admin.ledger.get(id).await),
        Err(error) => refuse(StatusCode::NOT_FOUND, &error.to_string()),
    }
}

async fn streams(State(admin): State<Admin>) -> Json<Value> {
    let streams = admin.handle.streams().into_iter().map(|stream| {
        let caller = admin.live.get(stream.id());
        // As in the ledger: what the client gets.
        let hidden = caller.as_ref().map_or(0, |caller| caller.hidden.bytes());
        json!({
            "id": stream.id().to_string(),
            "tenant": caller.as_ref().and_then(|caller| caller.tenant.as_ref()).map(|tenant| &*tenant.0),
            "path": caller.as_ref().map(|caller| &caller.path),
            "bytes": stream.metrics().bytes().saturating_sub(hidden),
            "chunks": stream.metrics().chunks(),
            "age_ms": millis(stream.metrics().elapsed()),
        })
    });
    Json(streams.collect())
}

async fn stop(State(admin): State<Admin>, Path(id): Path<String>) -> Response {
    match id.parse::<StreamId>() {
        Ok(id) if admin.handle.cancel(id) => StatusCode::NO_CONTENT.into_response(),
        Ok(id) => refuse(StatusCode::NOT_FOUND, &format!("stream {id} is not live: see GET /streams")),
        Err(error) => refuse(StatusCode::NOT_FOUND, &error.to_string()),
    }
}

async fn audit(State(admin): State<Admin>) -> Json<Value> {
    let audit = admin.handle.audit();
    let hook = |hook: &HookAudit| {
        json!({
            "name": hook.name(),
            "queued": hook.queued(),
            "delivered": hook.delivered(),
            "retried": hook.retried(),
            "dead_lettered": hook.dead_lettered(),
        })
    };
    Json(json!({
        "opened": audit.opened(),
        "in_flight": audit.in_flight(),
        "settled": {
            "completed": audit.completed(),
            "cancelled": audit.cancelled(),
            "failed": audit.failed(),
            "interrupted": audit.interrupted(),
        },
        "hooks": audit.hooks().iter().map(hook).collect::<Value>(),
    }))
}

/// Asks for the admin key, if one was set.
async fn guard(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    match &admin.key {
        Some(key) if !bearer(request.headers()).is_some_and(|given| same(key, given)) => {
            let mut response = refuse(
                StatusCode::UNAUTHORIZED,
                "send the key that --admin-key set, as `Authorization: Bearer KEY`",
            );
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
        _ => next.run(request).await,
    }
}

/// Compares without stopping at the first difference, so that the time taken does not tell where it is.
fn same(left: &str, right: &str) -> bool {
    let differences = left.bytes().zip(right.bytes()).fold(0, |sum, (left, right)| sum | (left ^ right));
    left.len() == right.len() && differences == 0
}

fn respond(found: Result<Option<Value>, BoxError>) -> Response {
    match found {
        Ok(Some(value)) => Json(value).into_response(),
        Ok(None) => {
            refuse(StatusCode::NOT_FOUND, "no such row: rows are written when their streams have ended")
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("cannot read the ledger: {error}")),
    }
}

fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": message}))).into_response()
}

fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
