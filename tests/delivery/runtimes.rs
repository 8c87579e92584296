//! Runtimes come and go; records do not.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streaming_accumulator::{Handle, StreamHook, StreamingAccumulatorLayer};
use tokio::runtime::{Builder, Runtime};

use crate::support::{Records, complete, open, settled};

/// Everything that is logged in this test binary.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// How many lines of the log hold all of `words`.
fn logged(words: &[&str]) -> usize {
    let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
    log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A hook with a name that no other test logs.
struct Bill;

impl StreamHook<()> for Bill {
    fn name(&self) -> &str {
        "bill"
    }
}

/// Keeps a stream open in a task of `runtime`.
fn hold_open(runtime: &Runtime, layer: &StreamingAccumulatorLayer) {
    let layer = layer.clone();
    let (ready, is_ready) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let _held = open(&layer).await;
        ready.send(()).unwrap();
        std::future::pending::<()>().await;
    });
    is_ready.recv().unwrap();
}

fn assert_left(handle: &Handle, left: u64) {
    let audit = handle.audit();
    assert!(audit.is_balanced(), "{audit:?}");
    assert_eq!((audit.in_flight(), audit.hooks()[0].queued()), (0, left));
}

#[test]
fn record_is_delivered_after_the_servers_runtime_dies() {
    let (hooks, server) = (runtime(), runtime());
    let seen = Records::default();
    let layer = {
        let _inside = hooks.enter();
        StreamingAccumulatorLayer::builder().on_end(seen.hook()).build().unwrap()
    };
    hold_open(&server, &layer);
    server.shutdown_timeout(Duration::from_secs(1));
    hooks.block_on(settled(&layer.handle()));
    assert_eq!(seen.only().outcome().as_str(), "cancelled");
}

#[test]
fn layer_built_outside_a_runtime_works() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder().on_end(seen.hook()).build().unwrap();
    let runtime = runtime();
    runtime.block_on(async {
        complete(&layer).await;
        settled(&layer.handle()).await;
    });
    assert_eq!(seen.all().len(), 1);
}

#[test]
fn record_settled_outside_a_runtime_waits() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder().on_end(seen.hook()).build().unwrap();
    tokio_test::task::spawn(complete(&layer)).enter(|cx, task| {
        assert!(task.poll(cx).is_ready());
    });
    assert_left(&layer.handle(), 1);
    let report = runtime().block_on(layer.handle().shutdown(Duration::from_secs(5)));
    assert!(report.is_clean(), "{report}");
    assert_eq!(seen.all().len(), 1);
}

#[test]
fn records_are_left_when_the_hooks_runtime_dies() {
    let ways: [fn(Runtime); 3] =
        [drop, Runtime::shutdown_background, |runtime| runtime.shutdown_timeout(Duration::from_secs(1))];
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(|| Log).finish();
    // The only test here that installs one.
    tracing::subscriber::set_global_default(log).unwrap();
    for (n, shut_down) in ways.into_iter().enumerate() {
        let runtime = runtime();
        let layer = {
            let _inside = runtime.enter();
            StreamingAccumulatorLayer::builder().hook(Bill).build().unwrap()
        };
        hold_open(&runtime, &layer);
        shut_down(runtime);
        // `shutdown_background` does not wait for the task to be dropped.
        let handle = layer.handle();
        self::runtime().block_on(async {
            let gone = async {
                while handle.audit().in_flight() > 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap();
        });
        assert_left(&handle, 1);
        let errors = logged(&["ERROR", "hook=\"bill\"", "left=1", "records are left undelivered"]);
        assert_eq!(errors, n + 1, "each time it is said once how many are left");
    }
}

#[test]
fn record_in_a_hook_survives_its_runtime() {
    let started = Arc::new(AtomicU64::new(0));
    let hook_started = Arc::clone(&started);
    let dying = runtime();
    let layer = {
        let _inside = dying.enter();
        StreamingAccumulatorLayer::builder()
            .on_end(move |_| {
                let first = hook_started.fetch_add(1, SeqCst) == 0;
                async move {
                    if first {
                        std::future::pending().await
                    }
                }
            })
            .build()
            .unwrap()
    };
    dying.block_on(async {
        complete(&layer).await;
        while started.load(SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    });
    drop(dying);
    assert_left(&layer.handle(), 1);

    // The next runtime that calls the layer takes over.
    runtime().block_on(async {
        complete(&layer).await;
        settled(&layer.handle()).await;
    });
    assert_eq!(layer.handle().audit().hooks()[0].delivered(), 2);
}

#[test]
fn workers_empty_the_queue_and_end() {
    let seen = Records::default();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let layer = StreamingAccumulatorLayer::builder().on_end(seen.hook()).build().unwrap();
        complete(&layer).await;
        let metrics = tokio::runtime::Handle::current().metrics();
        assert_eq!(metrics.num_alive_tasks(), 4);
        drop(layer);
        let ended = async {
            while metrics.num_alive_tasks() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), ended).await.unwrap();
    });
    assert_eq!(seen.all().len(), 1);
}
