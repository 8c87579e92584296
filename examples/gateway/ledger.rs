//! The ledger: one row per stream in a SQLite file. The stream's id is the primary key, so writing a
//! record a second time, after a retry or a redelivery, changes nothing.
//!
//! `bytes` counts what the server took to send to the client. `bytes_produced` and `chunks` are the upstream's:
//! they include usage that the gateway asked for and the client was not shown.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, TransactionBehavior, named_params};
use serde_json::{Map, Value};
use streaming_accumulator::meter::{LlmReport, Protocol};
use streaming_accumulator::{BoxError, StreamId, StreamRecord};

use crate::billing::Context;
use crate::errors::Fatal;
use crate::prices::Prices;

const SCHEMA: &str = "
    create table if not exists streams (
        id text primary key,
        tenant text,
        method text not null,
        path text not null,
        outcome text not null,
        phase text not null,
        evidence text not null,
        ended_by text not null,
        error text,
        status integer,
        bytes integer not null,
        bytes_produced integer not null,
        chunks integer not null,
        started_at text not null,
        first_chunk_ms real,
        duration_ms real not null,
        attempt integer not null
    ) strict, without rowid;
    create index if not exists streams_by_tenant on streams (tenant, id);";

/// What a ledger of the first version lacks; its old rows have nulls there.
const ADDED: [(&str, &str); 15] = [
    ("model", "text"),
    ("protocol", "text"),
    ("input_tokens", "integer"),
    ("output_tokens", "integer"),
    ("cached_input_tokens", "integer"),
    ("cache_write_input_tokens", "integer"),
    ("reasoning_tokens", "integer"),
    ("total_tokens", "integer"),
    ("usage_basis", "text"),
    ("finish_reason", "text"),
    ("terminated", "integer"),
    ("in_band_error", "text"),
    ("text_len", "integer"),
    ("first_text_ms", "real"),
    ("cost_micros", "integer"),
];

const INSERT: &str = "
    insert into streams (
        id, tenant, method, path, outcome, phase, evidence, ended_by, error, status,
        bytes, bytes_produced, chunks, started_at, first_chunk_ms, duration_ms, attempt,
        model, protocol, input_tokens, output_tokens, cached_input_tokens, cache_write_input_tokens,
        reasoning_tokens, total_tokens, usage_basis, finish_reason, terminated, in_band_error,
        text_len, first_text_ms, cost_micros
    ) values (
        :id, :tenant, :method, :path, :outcome, :phase, :evidence, :ended_by, :error, :status,
        :bytes, :bytes_produced, :chunks, :started_at, :first_chunk_ms, :duration_ms, :attempt,
        :model, :protocol, :input_tokens, :output_tokens, :cached_input_tokens, :cache_write_input_tokens,
        :reasoning_tokens, :total_tokens, :usage_basis, :finish_reason, :terminated, :in_band_error,
        :text_len, :first_text_ms, :cost_micros
    ) on conflict (id) do nothing";

// Ids are UUIDs of version 7: they sort by the time at which their streams opened.
const LIST: &str = "
    select * from streams where :tenant is null or tenant = :tenant order by id desc limit :limit";

/// The ledger's file. Clones share one connection.
#[derive(Clone)]
pub(crate) struct Ledger {
    connection: Arc<Mutex<Connection>>,
    prices: Arc<Prices>,
}

// === impl Ledger ===

impl Ledger {
    /// Opens `file`, and makes it if there is none. Its rows will cost what `prices` say.
    pub(crate) fn open(file: &Path, prices: Prices) -> Result<Self, Fatal> {
        let open = || {
            let mut connection = Connection::open(file)?;
            // Write-ahead logging lets other programs read while this one writes.
            connection.pragma_update(None, "journal_mode", "wal")?;
            upgrade(&mut connection)?;
            // A ledger of another version fails here rather than at its first row.
            connection.prepare(INSERT)?;
            Ok(connection)
        };
        let connection = open().map_err(|error: rusqlite::Error| Fatal::ledger(file, error))?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), prices: Arc::new(prices) })
    }

    /// Writes the record's row, unless it is there.
    pub(crate) async fn insert(&self, record: Arc<StreamRecord<Context>>) -> Result<(), BoxError> {
        let prices = Arc::clone(&self.prices);
        self.run(move |connection| insert(connection, &record, &prices)).await
    }

    /// The newest rows, of one tenant or of all.
    pub(crate) async fn list(&self, tenant: Option<String>, limit: u32) -> Result<Vec<Value>, BoxError> {
        self.run(move |connection| {
            let mut statement = connection.prepare_cached(LIST)?;
            let rows = statement.query_map(named_params! {":tenant": tenant, ":limit": limit}, json)?;
            rows.collect()
        })
        .await
    }

    /// One row.
    pub(crate) async fn get(&self, id: StreamId) -> Result<Option<Value>, BoxError> {
        self.run(move |connection| {
            let mut statement = connection.prepare_cached("select * from streams where id = ?")?;
            let mut rows = statement.query_map([id.to_string()], json)?;
            rows.next().transpose()
        })
        .await
    }

    /// Runs `work` on a thread that may block, as SQLite does on the disk.
    ///
    /// Dropped midway, as at the hook's time limit, `work` still runs to its end: harmless, because a
    /// second write of the same row does nothing.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BoxError> {
        let connection = Arc::clone(&self.connection);
        let work = move || {
            // SQLite rolled back whatever a panic interrupted.
            work(&connection.lock().unwrap_or_else(PoisonError::into_inner))
        };
        Ok(tokio::task::spawn_blocking(work).await??)
    }
}

/// Makes the table, or adds the columns that it lacks.
fn upgrade(connection: &mut Connection) -> rusqlite::Result<()> {
    // At once, so that of two gateways that start on one file one waits for the other.
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    change.execute_batch(SCHEMA)?;
    for (name, kind) in ADDED {
        if !change.column_exists(None, "streams", name)? {
            change.execute_batch(&format!("alter table streams add column {name} {kind}"))?;
        }
    }
    change.commit()
}

fn insert(connection: &Connection, record: &StreamRecord<Context>, prices: &Prices) -> rusqlite::Result<()> {
    let metrics = record.metrics();
    let hidden = record.context().map_or(0, |context| context.hidden.bytes());
    // Estimates are made here, on a thread that may take its time.
    let (usage, llm) = (record.usage(), record.llm());
    let model = llm.and_then(LlmReport::model);
    let error = match record.outcome().error() {
        Some(error) => Some(error.to_string()),
        None => record.stop_reason().map(ToString::to_string),
    };
    connection.prepare_cached(INSERT)?.execute(named_params! {
        ":id": record.id().to_string(),
        ":tenant": record.context().and_then(|context| context.tenant.as_ref()).map(|tenant| &*tenant.0),
        ":method": record.method().as_str(),
        ":path": record.uri().path(),
        ":outcome": record.outcome().as_str(),
        ":phase": record.phase().as_str(),
        ":evidence": record.evidence().as_str(),
        ":ended_by": record.ended_by().as_str(),
        ":error": error,
        ":status": record.status().map(|status| status.as_u16()),
        ":bytes": integer(metrics.bytes().saturating_sub(hidden)),
        ":bytes_produced": integer(metrics.bytes_produced()),
        ":chunks": integer(metrics.chunks()),
        ":started_at": humantime::format_rfc3339_millis(metrics.started_at()).to_string(),
        ":first_chunk_ms": metrics.time_to_first_chunk().map(millis),
        ":duration_ms": millis(metrics.elapsed()),
        ":attempt": record.attempt(),
        ":model": model,
        ":protocol": llm.and_then(|llm| llm.protocol.as_ref()).map(Protocol::as_str),
        ":input_tokens": usage.input_tokens.map(integer),
        ":output_tokens": usage.output_tokens.map(integer),
        ":cached_input_tokens": usage.cached_input_tokens.map(integer),
        ":cache_write_input_tokens": usage.cache_write_input_tokens.map(integer),
        ":reasoning_tokens": usage.reasoning_tokens.map(integer),
        ":total_tokens": usage.total_tokens.map(integer),
        ":usage_basis": usage.basis.as_str(),
        ":finish_reason": llm.and_then(LlmReport::finish_reason),
        ":terminated": llm.and_then(|llm| llm.terminated),
        ":in_band_error": llm.and_then(|llm| llm.error.as_ref()).map(ToString::to_string),
        ":text_len": llm.and_then(|llm| llm.text_len).map(integer),
        ":first_text_ms": llm.and_then(|llm| llm.time_to_first_text).map(millis),
        ":cost_micros": prices.cost(model, usage).map(integer),
    })?;
    Ok(())
}

/// SQLite's integers are signed; no stream has 8 EiB.
fn integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// A row as a JSON object, its keys in the table's order.
fn json(row: &Row<'_>) -> rusqlite::Result<Value> {
    let mut object = Map::new();
    for (index, name) in row.as_ref().column_names().enumerate() {
        let value = match row.get_ref(index)? {
            ValueRef::Integer(value) => value.into(),
            ValueRef::Real(value) => value.into(),
            ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
            ValueRef::Null | ValueRef::Blob(_) => Value::Null,
        };
        object.insert(name.to_owned(), value);
    }
    Ok(Value::Object(object))
}
