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

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(|record| async move {
            let bytes = record.metrics().bytes();
            eprintln!("{} {}: {} after {bytes} bytes", record.id(), record.uri(), record.outcome());
        })
        .build()?;
    let handle = layer.handle();
    let app = Router::new().route("/count", get(count)).layer(layer);

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    eprintln!("curl -N http://{}/count", listener.local_addr()?);
    let stopped = async move {
        let _ = tokio::signal::ctrl_c().await;
        // Streams may go on for 5 s; the server then has nothing left to wait for.
        eprintln!("shutdown: {}", handle.shutdown(Duration::from_secs(5)).await);
    };
    axum::serve(listener, app).with_graceful_shutdown(stopped).await?;
    Ok(())
}

async fn count() -> Body {
    Body::from_stream(stream::iter(1..=20).then(async |number| {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok::<_, Infallible>(format!("{number}\n"))
    }))
}
