//! A tonic server with the health service, whose `Watch` streams: one line on stderr for every call.
//!
//! ```text
//! cargo run --example tonic
//! grpcurl -plaintext -d '{}' 127.0.0.1:3000 grpc.health.v1.Health/Watch    # Ctrl-C cancels it
//! # or with curl (one empty gRPC message), for a call that fails with grpc-status 5:
//! printf '\0\0\0\0\3\n\1x' | curl --http2-prior-knowledge -H 'content-type: application/grpc' \
//!   -H 'te: trailers' --data-binary @- http://127.0.0.1:3000/grpc.health.v1.Health/Check
//! ```

use std::time::Duration;

use streaming_accumulator::StreamingAccumulatorLayer;
use tokio::sync::oneshot;
use tonic::transport::Server;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(|record| async move {
            // A call whose grpc-status is not 0 is `failed`, though its HTTP status is 200.
            let (path, outcome) = (record.uri().path(), record.outcome());
            eprintln!("{} {path}: {outcome}, grpc-status {:?}", record.id(), record.grpc_status());
        })
        .build()?;
    let handle = layer.handle();
    let (_reporter, health) = tonic_health::server::health_reporter();

    eprintln!("grpcurl -plaintext -d '{{}}' 127.0.0.1:3000 grpc.health.v1.Health/Watch");
    let (stop, stopped) = oneshot::channel();
    let shutdown = tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        // The server closes its port at once. A watch never ends by itself: after 5 s the layer cuts it, and delivers
        // its record.
        let _ = stop.send(());
        eprintln!("shutdown: {}", handle.shutdown(Duration::from_secs(5)).await);
    });
    let stopped = async {
        let _ = stopped.await;
    };
    Server::builder()
        .layer(layer)
        .add_service(health)
        .serve_with_shutdown("127.0.0.1:3000".parse()?, stopped)
        .await?;
    shutdown.await?;
    Ok(())
}
