//! A proxy to a real provider: everything passes through, except what is meant for one hop only.

use std::error::Error;

use axum::body::Body;
use axum::extract::Request;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, Uri, Version, header};
use axum::response::Response;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::TokioExecutor;

use crate::errors::{Fatal, Problem};

/// The headers of [RFC 9110, section 7.6.1], and two that speak to the next proxy only.
///
/// [RFC 9110, section 7.6.1]: https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "proxy-authorization",
];

/// The provider behind the gateway.
pub(crate) struct Upstream {
    base: Uri,
    client: HttpClient,
}

/// Apart, so that a plain upstream needs no root certificates on this machine.
enum HttpClient {
    Plain(Client<HttpConnector, Body>),
    Tls(Client<HttpsConnector<HttpConnector>, Body>),
}

// === impl Upstream ===

impl Upstream {
    pub(crate) fn new(base: Uri) -> Result<Self, Fatal> {
        let builder = Client::builder(TokioExecutor::new());
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = if base.scheme_str() == Some("https") {
            connector.enforce_http(false);
            let tls = HttpsConnectorBuilder::new().with_native_roots().map_err(|error| {
                Fatal::other(format!(
                    "--upstream {base}: no root certificates ({error}); install your system's CA certificates"
                ))
            })?;
            HttpClient::Tls(builder.build(tls.https_only().enable_all_versions().wrap_connector(connector)))
        } else {
            HttpClient::Plain(builder.build(connector))
        };
        Ok(Self { base, client })
    }

    /// Where requests go.
    pub(crate) fn base(&self) -> &Uri {
        &self.base
    }

    /// Dropped, because the client left, it drops the upstream's request with it.
    pub(crate) async fn answer(&self, mut request: Request) -> Result<Response, Problem> {
        *request.uri_mut() = self.target(request.uri())?;
        *request.version_mut() = Version::HTTP_11;
        strip(request.headers_mut());
        // The client sets it to the upstream's name.
        request.headers_mut().remove(header::HOST);
        // They belong to this server's side of the exchange.
        request.extensions_mut().clear();
        let answer = match &self.client {
            HttpClient::Plain(client) => client.request(request).await,
            HttpClient::Tls(client) => client.request(request).await,
        };
        let mut response = answer.map_err(|error| self.down(&error))?.map(Body::new);
        strip(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        response.extensions_mut().clear();
        Ok(response)
    }

    /// The same path and query, behind the base URL's own path.
    fn target(&self, uri: &Uri) -> Result<Uri, Problem> {
        let prefix = self.base.path().trim_end_matches('/');
        let rest = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let mut parts = self.base.clone().into_parts();
        let joined = format!("{prefix}{rest}");
        let invalid = |message: String| Problem::Invalid { param: None, message };
        parts.path_and_query = Some(joined.parse().map_err(|error| invalid(format!("{joined}: {error}")))?);
        Uri::from_parts(parts).map_err(|error| invalid(format!("{joined}: {error}")))
    }

    fn down(&self, error: &ClientError) -> Problem {
        let mut message = format!("The upstream {} did not answer: {error}", self.base);
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(&format!(": {error}"));
            cause = error.source();
        }
        Problem::Upstream(message)
    }
}

/// Removes the hop-by-hop headers, those that `Connection` names included.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}
