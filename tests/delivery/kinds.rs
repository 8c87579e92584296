//! What can be a hook, and which outcomes it is for.

use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use streaming_accumulator::{
    BoxError, Outcome, RetryPolicy, StreamHook, StreamRecord, StreamingAccumulatorLayer,
};

use crate::support::{Records, complete, next, open, settled};

/// One stream of each outcome.
async fn one_of_each<C: Send + Sync + 'static>(layer: &StreamingAccumulatorLayer<C>) {
    complete(layer).await;
    drop(open(layer).await);
    let mut flow = open(layer).await;
    flow.feed.fail();
    assert!(next(&mut flow.body).await.unwrap().is_err());
    drop(flow);
    settled(&layer.handle()).await;
}

#[tokio::test(start_paused = true)]
async fn closures_for_three_outcomes_are_one_hook() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder()
        .on_failure(seen.hook_named("failure"))
        .on_complete(seen.hook_named("complete"))
        .on_cancel(seen.hook_named("cancel"))
        .build()
        .unwrap();
    one_of_each(&layer).await;
    let mut got: Vec<_> =
        seen.take().iter().map(|(name, record)| (*name, record.outcome().as_str())).collect();
    got.sort_unstable();
    assert_eq!(got, [("cancel", "cancelled"), ("complete", "completed"), ("failure", "failed")]);
    let audit = layer.handle().audit();
    let [hook] = audit.hooks() else { panic!("{audit:?}") };
    assert_eq!((hook.expected(), hook.delivered(), hook.queued()), (3, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn hook_is_owed_only_its_outcomes() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder()
        .on_cancel(seen.hook_named("cancel"))
        .on_complete(seen.hook_named("complete"))
        .build()
        .unwrap();
    one_of_each(&layer).await;
    let audit = layer.handle().audit();
    let [hook] = audit.hooks() else { panic!("{audit:?}") };
    assert_eq!((hook.expected(), hook.delivered(), audit.settled()), (2, 2, 3));
}

#[tokio::test(start_paused = true)]
async fn second_closure_for_an_outcome_is_another_hook() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder()
        .on_complete(seen.hook_named("first"))
        .on_complete(seen.hook_named("second"))
        .on_cancel(seen.hook_named("cancel"))
        .on_end(seen.hook_named("end"))
        .build()
        .unwrap();
    one_of_each(&layer).await;
    let audit = layer.handle().audit();
    let delivered: Vec<_> = audit.hooks().iter().map(|hook| hook.delivered()).collect();
    assert_eq!(delivered, [2, 1, 3], "{audit:?}");
    assert_eq!(seen.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn value_of_a_hook_is_ignored() {
    fn writes(record: Arc<StreamRecord>) -> Ready<Result<u64, io::Error>> {
        ready(Ok(record.metrics().bytes()))
    }
    fn fails(_: Arc<StreamRecord>) -> Ready<Result<u64, io::Error>> {
        ready(Err(io::Error::other("disk full")))
    }
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(writes)
        .on_end(fails)
        .on_end(|_| async { anyhow::Ok("noted") })
        .on_end(|_| async { Err::<String, _>(anyhow::anyhow!("no ledger").context("cannot bill")) })
        .on_end(|_| async { Ok::<_, BoxError>(Some(1)) })
        .retry(RetryPolicy::none())
        .build()
        .unwrap();
    complete(&layer).await;
    settled(&layer.handle()).await;
    let audit = layer.handle().audit();
    let results: Vec<_> = audit.hooks().iter().map(|hook| (hook.delivered(), hook.dead_lettered())).collect();
    assert_eq!(results, [(1, 0), (0, 1), (1, 0), (0, 1), (1, 0)]);
    let errors: Vec<_> =
        layer.handle().dead_letters().iter().map(|letter| letter.error().to_owned()).collect();
    assert_eq!(errors, ["disk full", "cannot bill: no ledger"]);
}

/// A hook that can be down.
#[derive(Default)]
struct Ledger {
    is_up: AtomicBool,
    seen: Records<&'static str>,
}

impl StreamHook<&'static str> for Ledger {
    fn name(&self) -> &str {
        "ledger"
    }

    async fn on_end(&self, record: Arc<StreamRecord<&'static str>>) -> Result<(), BoxError> {
        if !self.is_up.load(SeqCst) {
            return Err("the ledger is down".into());
        }
        self.seen.push(record);
        Ok(())
    }
}

fn keeping(ledgers: &[Arc<Ledger>]) -> StreamingAccumulatorLayer<&'static str> {
    let builder = StreamingAccumulatorLayer::builder().context(|_| "acme").retry(RetryPolicy::none());
    let [first, rest @ ..] = ledgers else { panic!("a ledger") };
    let builder = builder.hook(Arc::clone(first));
    rest.iter().fold(builder, |builder, ledger| builder.hook(Arc::clone(ledger))).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn shared_hook_is_a_hook() {
    let ledger = Arc::new(Ledger::default());
    ledger.is_up.store(true, SeqCst);
    let layer = keeping(&[Arc::clone(&ledger)]);
    one_of_each(&layer).await;
    assert_eq!(ledger.seen.len(), 3);
    assert!(ledger.seen.all().iter().all(|record| record.context() == Some(&"acme")));
    assert_eq!(layer.handle().audit().hooks()[0].name(), "ledger");
}

#[tokio::test(start_paused = true)]
async fn all_dead_letters_are_redelivered() {
    let ledgers = [Arc::new(Ledger::default()), Arc::new(Ledger::default())];
    let layer = keeping(&ledgers);
    let handle = layer.handle();
    assert_eq!(handle.redeliver_all(), 0);
    one_of_each(&layer).await;
    assert_eq!(handle.dead_letters().len(), 6);
    ledgers[0].is_up.store(true, SeqCst);
    assert_eq!(handle.redeliver_all(), 3, "streams, not letters");
    settled(&handle).await;
    assert_eq!((ledgers[0].seen.len(), ledgers[1].seen.len()), (3, 0));
    let letters = handle.dead_letters();
    assert!(letters.len() == 3 && letters.iter().all(|letter| letter.attempts() == 2), "{letters:?}");
    ledgers[1].is_up.store(true, SeqCst);
    assert_eq!(handle.redeliver_all(), 3);
    settled(&handle).await;
    assert!(handle.dead_letters().is_empty());
    assert!(ledgers[1].seen.all().iter().all(|record| record.attempt() == 3));
    let outcomes = ledgers[1].seen.all();
    assert_eq!(outcomes.iter().filter(|record| *record.outcome() == Outcome::Completed).count(), 1);
    assert_eq!(handle.redeliver_all(), 0);
}
