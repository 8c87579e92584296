//! Who answers the requests: a real provider, recordings, or the embedded provider.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::response::Response;

use crate::args::Args;
use crate::asking;
use crate::errors::{Fatal, Problem};
use crate::provider;
use crate::replay::Replay;
use crate::upstream::Upstream;

/// The one that was chosen on the command line.
pub(crate) enum Backend {
    Upstream(Box<Upstream>),
    Replay(Replay),
    Embedded { interval: Duration },
}

impl Backend {
    pub(crate) fn new(args: &Args) -> Result<Self, Fatal> {
        match (&args.upstream, &args.replay) {
            (Some(base), _) => Ok(Self::Upstream(Box::new(Upstream::new(base.clone())?))),
            (None, Some(dir)) => Ok(Self::Replay(Replay::open(dir, args.chunk_bytes, args.token_interval)?)),
            (None, None) => Ok(Self::Embedded { interval: args.token_interval }),
        }
    }

    async fn serve(&self, request: Request) -> Result<Response, Problem> {
        match self {
            Self::Upstream(upstream) => asking::answer(request, |request| upstream.answer(request)).await,
            _ if request.method() != Method::POST => Err(Problem::PostOnly),
            // Recordings arrive as they are.
            Self::Replay(replay) => replay.answer(request).await,
            Self::Embedded { interval } => {
                asking::answer(request, |request| provider::answer(request, *interval)).await
            }
        }
    }
}

/// Answers a request whose key is known.
pub(crate) async fn answer(State(backend): State<Arc<Backend>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    backend.serve(request).await.unwrap_or_else(|problem| problem.response(&path))
}
