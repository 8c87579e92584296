use axum::Router;
use axum::routing::get;
use streaming_accumulator::StreamingAccumulatorLayer;

fn main() {
    let layer = StreamingAccumulatorLayer::builder().build();
    let _: Router = Router::new().route("/", get(|| async { "hello" })).layer(layer);
}
