use axum::Router;
use axum::routing::get;
use streaming_accumulator::StreamingAccumulatorLayer;

fn main() {
    let layer = StreamingAccumulatorLayer::builder().on_end(|record| async move { println!("{record:?}") });
    let _: Router = Router::new().route("/", get(|| async { "hello" })).layer(layer);
}
