//! An axum server that streams a count, and one line on stderr for every stream, however it ends.
//!
//! ```text
//! cargo run --example axum
//! curl -N http://127.0.0.1:3000/count    # let it end, or press Ctrl-C midway
//! ```

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures_util::{StreamExt, stream};
use streaming_accumulator::StreamingAccumulatorLayer;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(|record| async move {
            let (path, bytes) = (record.uri().path(), record.metrics().bytes());
            eprintln!("{} {path}: {} after {bytes} bytes", record.id(), record.outcome());
        })
        .build()?;
    let handle = layer.handle();
    let app = Router::new().route("/count", get(count)).layer(layer);

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    eprintln!("curl -N http://{}/count", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel();
    let shutdown = tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        // The server closes its port at once. Streams may go on for 5 s, then the layer cuts them, so that the server
        // has nothing left to wait for.
        let _ = stop.send(());
        eprintln!("shutdown: {}", handle.shutdown(Duration::from_secs(5)).await);
    });
    let server = axum::serve(listener, app).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    server.await?;
    shutdown.await?;
    Ok(())
}

async fn count() -> Body {
    Body::from_stream(stream::iter(1..=20).then(async |number| {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok::<_, Infallible>(format!("{number}\n"))
    }))
}
