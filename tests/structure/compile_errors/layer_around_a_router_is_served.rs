use axum::Router;
use axum::routing::get;
use streaming_accumulator::StreamingAccumulatorLayer;
use tower::Layer;

async fn serve(listener: tokio::net::TcpListener) {
    let layer = StreamingAccumulatorLayer::builder().build().unwrap();
    let app = layer.layer(Router::new().route("/", get(|| async { "hello" })));
    axum::serve(listener, axum::ServiceExt::<axum::extract::Request>::into_make_service(app)).await.unwrap();
}

fn main() {
    drop(serve);
}
