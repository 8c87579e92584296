//! The layer around a plain hyper service, with HTTP/1.1 and HTTP/2: one line on stderr for every stream.
//!
//! ```text
//! cargo run --example hyper
//! curl -N http://127.0.0.1:3000/    # or: curl -N --http2-prior-knowledge ...
//! ```

use std::convert::Infallible;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use streaming_accumulator::StreamingAccumulatorLayer;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, service_fn};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(|record| async move {
            eprintln!("{}: {} after {} bytes", record.id(), record.outcome(), record.metrics().bytes());
        })
        .build()?;
    let handle = layer.handle();
    let service = TowerToHyperService::new(ServiceBuilder::new().layer(layer).service(service_fn(count)));

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    eprintln!("curl -N http://{}/", listener.local_addr()?);
    let connections = GracefulShutdown::new();
    loop {
        let (tcp, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = tokio::signal::ctrl_c() => break,
        };
        let builder = auto::Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection(TokioIo::new(tcp), service.clone()).into_owned();
        tokio::spawn(connections.watch(connection));
    }
    // New connections are refused from here on. Streams may go on for 5 s, then the layer cuts them, so that their
    // connections close.
    drop(listener);
    let (report, ()) = tokio::join!(handle.shutdown(Duration::from_secs(5)), connections.shutdown());
    eprintln!("shutdown: {report}");
    Ok(())
}

async fn count(
    _: Request<Incoming>,
) -> Result<Response<impl Body<Data = Bytes, Error = Infallible>>, Infallible> {
    Ok(Response::new(StreamBody::new(stream::iter(1..=20).then(async |number| {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(Frame::data(Bytes::from(format!("{number}\n"))))
    }))))
}
