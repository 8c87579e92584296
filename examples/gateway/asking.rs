//! Where the gateway asks for usage in its clients' place: [`answer`] inside the layer, so that a request that
//! breaks off is a stream like any other, and [`hide`] outside of it, so that the record has the counts.

use std::future::Future;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::{StreamExt, stream};

use crate::errors::Problem;
use crate::hiding::{Hidden, Hiding};
use crate::include_usage;

/// A longer request passes as it is. Conversations with images are some tens of megabytes.
const LONGEST_REQUEST: usize = 64 * 1024 * 1024;

/// In a response's extensions: usage was asked for, and not by the client.
#[derive(Clone, Copy)]
struct Asked;

/// Lets `provider` answer, and asks it for usage where the protocol reports none unasked and the client did not ask.
pub(crate) async fn answer<F: Future<Output = Result<Response, Problem>>>(
    request: Request,
    provider: impl FnOnce(Request) -> F,
) -> Result<Response, Problem> {
    let (request, asked) = ask(request).await?;
    let mut response = provider(request).await?;
    if asked {
        response.extensions_mut().insert(Asked);
    }
    Ok(response)
}

/// The request, such that it asks; and whether it does so in the client's place.
async fn ask(request: Request) -> Result<(Request, bool), Problem> {
    let has_option = request.uri().path().ends_with("/completions");
    if request.method() != Method::POST || !has_option || is_longer(request.body().size_hint().lower()) {
        return Ok((request, false));
    }
    let (mut head, body) = request.into_parts();
    let whole = match read(body).await? {
        Ok(whole) => whole,
        Err(body) => return Ok((Request::from_parts(head, body), false)),
    };
    let Some(asking) = include_usage::ask(&whole) else {
        return Ok((Request::from_parts(head, whole.into()), false));
    };
    head.headers.insert(header::CONTENT_LENGTH, asking.len().into());
    // What is packed cannot be looked through for what is to be hidden.
    head.headers.remove(header::ACCEPT_ENCODING);
    Ok((Request::from_parts(head, asking.into()), true))
}

/// Takes out of a response what only the gateway asked for, and counts those bytes for the record's context.
pub(crate) async fn hide(mut request: Request, next: Next) -> Response {
    let hidden = Hidden::default();
    request.extensions_mut().insert(hidden.clone());
    let mut response = next.run(request).await;
    let asked = response.extensions_mut().remove::<Asked>().is_some();
    if !asked || !response.status().is_success() || !is_plain_events(response.headers()) {
        return response;
    }
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.map(|body| Body::new(Hiding::new(body, hidden)))
}

/// The body in one piece; or, if that is too long, all of it as it comes.
async fn read(body: Body) -> Result<Result<Bytes, Body>, Problem> {
    let mut whole = Vec::new();
    let mut rest = body.into_data_stream();
    while let Some(chunk) = rest.next().await {
        let chunk = chunk.map_err(|error| Problem::Invalid {
            param: None,
            message: format!("The request's body did not arrive: {error}"),
        })?;
        whole.extend_from_slice(&chunk);
        if is_longer(whole.len() as u64) {
            let begun = stream::iter([Ok(Bytes::from(whole))]);
            return Ok(Err(Body::from_stream(begun.chain(rest))));
        }
    }
    Ok(Ok(whole.into()))
}

fn is_longer(bytes: u64) -> bool {
    bytes > LONGEST_REQUEST as u64
}

/// Whether the body is server-sent events, and not packed.
fn is_plain_events(headers: &HeaderMap) -> bool {
    let of = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = of(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).unwrap_or_default();
    let is_packed =
        headers.contains_key(header::CONTENT_ENCODING) && of(header::CONTENT_ENCODING) != Some("identity");
    kind.trim().eq_ignore_ascii_case("text/event-stream") && !is_packed
}
