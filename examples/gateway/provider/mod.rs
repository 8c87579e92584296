//! The embedded provider: speaks the protocols of OpenAI and Anthropic exactly, and says nothing of
//! interest. It needs no key, no network and no money, so clients and meters can be tried against it.

mod anthropic;
mod input;
mod openai_chat;
mod openai_completions;
mod openai_responses;
mod sse;
mod text;

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use serde_json::Value;
use streaming_accumulator::StreamId;

use self::input::Input;
use crate::errors::Problem;
use crate::pace::{self, Piece};

/// What a request's body may hold: long conversations with images are some tens of megabytes.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// What a protocol makes of a request.
enum Reply {
    /// One JSON object, when all words have been thought of.
    Whole { words: u64, body: Value },
    /// Events.
    Events(Events),
}

/// A stream of server-sent events.
struct Events {
    /// Sent with the head.
    opening: String,
    words: u64,
    /// Makes the event of the word with this number.
    word: Box<dyn FnMut(u64) -> String + Send>,
    /// Sent right after the last word.
    closing: String,
}

/// Answers by path; other paths are 404.
pub(crate) async fn answer(request: Request, interval: Duration) -> Result<Response, Problem> {
    let reply = match request.uri().path() {
        "/v1/chat/completions" => openai_chat::reply,
        "/v1/completions" => openai_completions::reply,
        "/v1/responses" => openai_responses::reply,
        "/v1/messages" => anthropic::reply,
        path => {
            return Err(Problem::NotFound(format!(
                "POST {path} is not served here; the embedded provider has /v1/chat/completions, \
                 /v1/completions, /v1/responses and /v1/messages"
            )));
        }
    };
    let body = to_bytes(request.into_body(), BODY_LIMIT).await.map_err(|error| {
        if error.source().is_some_and(|source| source.is::<LengthLimitError>()) {
            return Problem::TooLarge { limit: BODY_LIMIT };
        }
        Problem::Invalid { param: None, message: format!("The request's body did not arrive: {error}") }
    })?;
    Ok(send(reply(&Input::parse(&body)?)?, interval).await)
}

async fn send(reply: Reply, interval: Duration) -> Response {
    match reply {
        Reply::Whole { words, body } => {
            // A model that does not stream answers when it has finished.
            let time = interval.saturating_mul(u32::try_from(words).unwrap_or(u32::MAX));
            if !time.is_zero() {
                tokio::time::sleep(time).await;
            }
            Json(body).into_response()
        }
        Reply::Events(Events { opening, words, mut word, closing }) => {
            let opening = (!opening.is_empty()).then(|| Piece::Now(opening.into()));
            let words = (0..words).map(move |number| Piece::Tick(word(number).into()));
            let pieces = opening.into_iter().chain(words).chain([Piece::Now(closing.into())]);
            let headers = [
                (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
                (header::CACHE_CONTROL, "no-cache"),
            ];
            (headers, pace::body(interval, pieces)).into_response()
        }
    }
}

/// An id as providers make them: a prefix and something that is never the same.
fn new_id(prefix: &str) -> String {
    format!("{prefix}{}", StreamId::new().to_string().replace('-', ""))
}

/// The time in seconds, as OpenAI's objects carry it.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
