//! Everything that can go wrong, said so that people and scripts can act on it: [`Fatal`] ends the
//! process with an exit code, [`Problem`] answers one request in the shape that its client parses.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why the process ends. The codes are listed in `main.rs`.
pub(crate) struct Fatal {
    pub(crate) code: u8,
    pub(crate) message: String,
}

/// Why a request gets no answer from a provider.
pub(crate) enum Problem {
    NoKey,
    WrongKey,
    /// The request's fault; `param` names the field.
    Invalid {
        param: Option<&'static str>,
        message: String,
    },
    TooLarge {
        limit: usize,
    },
    NotFound(String),
    PostOnly,
    /// The provider behind the gateway could not be reached.
    Upstream(String),
    /// The gateway's own fault.
    Internal(String),
}

/// Who parses an error.
enum Dialect {
    OpenAi,
    Anthropic,
}

// === impl Fatal ===

impl Fatal {
    pub(crate) fn other(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    pub(crate) fn listen(address: SocketAddr, error: &io::Error) -> Self {
        let way_out = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "stop the program that uses it, or give another port, or port 0 for a free one"
            }
            _ => "give --listen an address of this machine and a port that you may use",
        };
        Self { code: 3, message: format!("cannot listen on {address}: {error}; {way_out}") }
    }

    pub(crate) fn keys(file: &Path, what: impl Display) -> Self {
        let message = format!(
            "key file {}: {what}; expected a TOML table [keys] with lines \"KEY\" = \"TENANT\"",
            file.display()
        );
        Self { code: 4, message }
    }

    pub(crate) fn ledger(file: &Path, error: impl Display) -> Self {
        let message =
            format!("ledger {}: {error}; give --ledger a new file, or one of this program", file.display());
        Self { code: 5, message }
    }

    pub(crate) fn replay(path: &Path, error: impl Display) -> Self {
        let message = format!(
            "--replay {}: {error}; expected a folder with files PROTOCOL/NAME.stream \
             and PROTOCOL/NAME.expected.json, which names the content_type",
            path.display()
        );
        Self { code: 6, message }
    }

    pub(crate) fn prices(file: &Path, what: impl Display) -> Self {
        let message = format!(
            "price file {}: {what}; expected TOML as in examples/gateway/prices.toml: a table [models.\"NAME\"] \
             each, with input and output, and perhaps cached_input and cache_write, per million tokens",
            file.display()
        );
        Self { code: 7, message }
    }
}

// === impl Problem ===

impl Problem {
    /// The answer, in the error shape of the provider that `path` belongs to.
    pub(crate) fn response(self, path: &str) -> Response {
        let status = self.status();
        let code = match self {
            Self::NoKey | Self::WrongKey => Some("invalid_api_key"),
            _ => None,
        };
        let param = match &self {
            Self::Invalid { param, .. } => *param,
            _ => None,
        };
        let message = self.message();
        let body = match Dialect::of(path) {
            Dialect::OpenAi => json!({"error": {
                "message": message,
                "type": if status.is_server_error() { "server_error" } else { "invalid_request_error" },
                "param": param,
                "code": code,
            }}),
            Dialect::Anthropic => json!({
                "type": "error",
                "error": {"type": anthropic_type(status), "message": message},
            }),
        };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
            }
            _ => {}
        }
        response
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NoKey | Self::WrongKey => StatusCode::UNAUTHORIZED,
            Self::Invalid { .. } => StatusCode::BAD_REQUEST,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::PostOnly => StatusCode::METHOD_NOT_ALLOWED,
            Self::Upstream(_) => StatusCode::BAD_GATEWAY,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn message(self) -> String {
        match self {
            Self::NoKey => "No API key: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`.".into(),
            // The key itself is not repeated: error messages end up in logs.
            Self::WrongKey => "Incorrect API key: this gateway does not know it.".into(),
            Self::TooLarge { limit } => format!("The request's body is larger than {limit} bytes."),
            Self::PostOnly => "Only POST is served here.".into(),
            Self::Invalid { message, .. }
            | Self::NotFound(message)
            | Self::Upstream(message)
            | Self::Internal(message) => message,
        }
    }
}

// === impl Dialect ===

impl Dialect {
    fn of(path: &str) -> Self {
        match path.strip_prefix("/v1/messages") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Self::Anthropic,
            _ => Self::OpenAi,
        }
    }
}

fn anthropic_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        _ if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    }
}
