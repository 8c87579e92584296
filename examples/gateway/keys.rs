//! API keys and the tenants behind them. Outside the layer: a request without a key is nobody's stream,
//! so it makes no row.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use serde::Deserialize;

use crate::errors::{Fatal, Problem};

const DEMO: &str = "[keys]\n\"sk-demo-alice\" = \"alice\"\n\"sk-demo-bob\" = \"bob\"\n";

/// Who pays: what the ledger says in place of the key.
#[derive(Clone, Debug)]
pub(crate) struct Tenant(pub(crate) Arc<str>);

/// All keys. No `Debug`: it would show them.
#[derive(Clone)]
pub(crate) struct Keys(Arc<HashMap<String, Tenant>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    keys: HashMap<String, String>,
}

// === impl Keys ===

impl Keys {
    /// Reads `file`, or takes the demo keys.
    pub(crate) fn load(file: Option<&Path>) -> Result<Self, Fatal> {
        let name = file.unwrap_or(Path::new("(built in)"));
        let text = match file {
            Some(file) => std::fs::read_to_string(file).map_err(|error| Fatal::keys(file, error))?,
            None => DEMO.to_owned(),
        };
        let parsed: File = toml::from_str(&text).map_err(|error| {
            // The parser's own message quotes the line, and with it the key.
            let line = error
                .span()
                .and_then(|span| text.get(..span.start))
                .map_or(1, |before| before.split('\n').count());
            Fatal::keys(name, format!("line {line} is not valid"))
        })?;
        if parsed.keys.is_empty() {
            return Err(Fatal::keys(name, "it has no keys, so nobody could call"));
        }
        if parsed.keys.iter().any(|(key, tenant)| key.is_empty() || tenant.is_empty()) {
            return Err(Fatal::keys(name, "it has an empty key or tenant"));
        }
        let tenants = parsed.keys.into_iter().map(|(key, tenant)| (key, Tenant(tenant.into())));
        Ok(Self(Arc::new(tenants.collect())))
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The tenant of the first known key among `Authorization: Bearer` and `x-api-key`.
    ///
    /// Either may be the gateway's: behind `--upstream`, the other one can be the provider's.
    fn tenant(&self, headers: &HeaderMap) -> Result<Tenant, Problem> {
        let given = [bearer(headers), headers.get("x-api-key").and_then(|value| value.to_str().ok())];
        if given.iter().all(Option::is_none) {
            return Err(Problem::NoKey);
        }
        given.iter().flatten().find_map(|key| self.0.get(*key)).cloned().ok_or(Problem::WrongKey)
    }
}

/// The token of `Authorization: Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Lets requests with a known key in, with their [`Tenant`] in the extensions.
pub(crate) async fn authenticate(State(keys): State<Keys>, mut request: Request, next: Next) -> Response {
    match keys.tenant(request.headers()) {
        Ok(tenant) => {
            request.extensions_mut().insert(tenant);
            next.run(request).await
        }
        Err(problem) => problem.response(request.uri().path()),
    }
}
