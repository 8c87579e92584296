use std::sync::{Arc, Mutex};
use std::time::Duration;
use axum::{Router, routing::get};
use streaming_accumulator::*;

#[tokio::test]
async fn smoke() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen2 = seen.clone();
    let layer = StreamingAccumulatorLayer::builder()
        .context(|p| p.uri.path().to_owned())
        .on_end(move |r| { let s = seen2.clone(); async move { s.lock().unwrap().push(format!("{r:?}")); } })
        .build().unwrap();
    let h = layer.handle();
    let app = Router::new().route("/", get(|| async { "hello" })).layer(layer);
    let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = l.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(l, app).await.unwrap() });
    let out = tokio::process::Command::new("curl").args(["-s", &format!("http://{addr}/")]).output().await.unwrap();
    assert_eq!(out.stdout, b"hello");
    let r = h.shutdown(Duration::from_secs(1)).await;
    println!("{r} {:?} {:?}", h.audit(), seen.lock().unwrap());
    assert!(r.is_clean() && h.audit().is_balanced());
}
