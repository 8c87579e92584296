//! What hooks are called with, and what happens when they fail.

use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use streaming_accumulator::{
    BoxError, ConfigError, EndedBy, Evidence, Outcome, Phase, RetryPolicy, StreamHandle, StreamHook,
    StreamRecord, StreamingAccumulatorLayer,
};

use crate::support::{Flow, Records, complete, next, open, settled};

fn three_attempts() -> RetryPolicy {
    RetryPolicy::default().max_attempts(3)
}

#[tokio::test(start_paused = true)]
async fn each_hook_gets_its_own_outcomes() {
    let [complete_seen, cancel_seen, failure_seen, end_seen, again_seen] =
        std::array::from_fn(|_| Records::default());
    let layer = StreamingAccumulatorLayer::builder()
        .on_complete(complete_seen.hook())
        .on_cancel(cancel_seen.hook())
        .on_failure(failure_seen.hook())
        .on_end(end_seen.hook())
        .on_end(again_seen.hook())
        .build()
        .unwrap();
    let handle = layer.handle();

    complete(&layer).await;
    let Flow { body, .. } = open(&layer).await;
    drop(body);
    let Flow { feed, mut body, .. } = open(&layer).await;
    feed.fail();
    assert!(next(&mut body).await.unwrap().is_err());
    settled(&handle).await;

    let record = complete_seen.only();
    assert_eq!(record.outcome(), &Outcome::Completed);
    assert_eq!(record.evidence(), Evidence::EndOfBody);
    assert_eq!(record.content().to_bytes().unwrap(), "hello");
    let record = cancel_seen.only();
    assert_eq!(
        (record.outcome(), record.phase(), record.ended_by()),
        (&Outcome::Cancelled, Phase::BeforeBody, EndedBy::Downstream)
    );
    let record = failure_seen.only();
    assert_eq!(record.outcome().error().unwrap().to_string(), "body failed: scripted error");
    assert_eq!(end_seen.all().len(), 3);
    assert_eq!(again_seen.all().len(), 3);

    let audit = handle.audit();
    let names: Vec<_> = audit.hooks().iter().map(|hook| (hook.name(), hook.delivered())).collect();
    let wanted = [("on_outcome", 3), ("on_end", 3), ("on_end#2", 3)];
    assert_eq!(names, wanted);
}

#[tokio::test(start_paused = true)]
async fn trait_hook_is_called_by_outcome() {
    struct Bill(Records);
    impl StreamHook<()> for Bill {
        fn name(&self) -> &str {
            "bill"
        }
        async fn on_complete(&self, record: Arc<StreamRecord>) -> Result<(), BoxError> {
            self.0.push(record);
            Ok(())
        }
    }
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder().hook(Bill(seen.clone())).build().unwrap();
    complete(&layer).await;
    drop(open(&layer).await);
    settled(&layer.handle()).await;
    assert_eq!(seen.only().outcome(), &Outcome::Completed);
    let audit = layer.handle().audit();
    assert_eq!((audit.hooks()[0].name(), audit.hooks()[0].delivered()), ("bill", 2));
}

#[tokio::test(start_paused = true)]
async fn retries_keep_the_id_and_count_attempts() {
    let seen = Records::default();
    let hook_seen = seen.clone();
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(move |record: Arc<StreamRecord>| {
            hook_seen.push(Arc::clone(&record));
            ready(if record.attempt() < 3 { Err("not yet") } else { Ok(()) })
        })
        .retry(three_attempts())
        .build()
        .unwrap();
    complete(&layer).await;
    settled(&layer.handle()).await;

    let attempts: Vec<_> = seen.all().iter().map(|record| record.attempt()).collect();
    assert_eq!(attempts, [1, 2, 3]);
    assert!(seen.all().iter().all(|record| record.id() == seen.all()[0].id()));
    let audit = layer.handle().audit();
    let hook = &audit.hooks()[0];
    assert_eq!((hook.delivered(), hook.retried(), hook.dead_lettered()), (1, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn errors_panics_and_timeouts_become_dead_letters() {
    fn panics(record: Arc<StreamRecord>) -> std::future::Ready<()> {
        assert_eq!(record.attempt(), 0, "before the future");
        ready(())
    }
    async fn panics_inside(record: Arc<StreamRecord>) {
        assert_eq!(record.attempt(), 0, "inside the future");
    }
    let told = Arc::new(AtomicU32::new(0));
    let callback_told = Arc::clone(&told);
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(|_| ready(Err::<(), _>("no database")))
        .on_end(panics_inside)
        .on_end(panics)
        .on_end(|_| pending::<()>())
        .on_dead_letter(move |_| {
            callback_told.fetch_add(1, SeqCst);
            panic!("a callback that panics hurts nobody");
        })
        .retry(three_attempts())
        .hook_timeout(Duration::from_secs(7))
        .build()
        .unwrap();
    complete(&layer).await;
    settled(&layer.handle()).await;

    let letters = layer.handle().dead_letters();
    let wanted = [
        ("on_end", "no database"),
        ("on_end#2", "inside the future"),
        ("on_end#3", "before the future"),
        ("on_end#4", "no answer within 7s"),
    ];
    for (letter, (hook, error)) in letters.iter().zip(wanted) {
        assert_eq!(letter.hook(), hook);
        assert!(letter.error().contains(error), "{letter:?}");
    }
    assert_eq!(letters.len(), wanted.len());
    assert!(letters.iter().all(|letter| letter.attempts() == 3));
    assert_eq!(letters[0].record().content().to_bytes().unwrap(), "hello");
    assert_eq!(told.load(SeqCst), 4);
    let audit = layer.handle().audit();
    assert!(audit.hooks().iter().all(|hook| hook.dead_lettered() == 1 && hook.retried() == 2));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_can_be_redelivered_once() {
    let seen = Records::default();
    let hook_seen = seen.clone();
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(move |record: Arc<StreamRecord>| {
            hook_seen.push(Arc::clone(&record));
            ready(if record.attempt() == 1 { Err("down") } else { Ok(()) })
        })
        .retry(RetryPolicy::none())
        .build()
        .unwrap();
    let handle = layer.handle();
    complete(&layer).await;
    settled(&handle).await;
    let id = handle.dead_letters()[0].id();
    assert_eq!(handle.audit().hooks()[0].dead_lettered(), 1);

    assert!(handle.redeliver(id));
    assert!(!handle.redeliver(id), "it is no dead letter any more");
    settled(&handle).await;
    assert!(handle.dead_letters().is_empty());
    let audit = handle.audit();
    assert_eq!((audit.hooks()[0].delivered(), audit.hooks()[0].dead_lettered()), (1, 0));
    assert_eq!(seen.all().last().unwrap().attempt(), 2, "attempts go on counting");
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_bounded_and_evictions_counted() {
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(|_| ready(Err::<(), _>("down")))
        .retry(RetryPolicy::none())
        .dead_letters(2)
        .workers(1)
        .build()
        .unwrap();
    for _ in 0..5 {
        complete(&layer).await;
    }
    settled(&layer.handle()).await;
    assert_eq!(layer.handle().dead_letters().len(), 2);
    assert_eq!(layer.handle().audit().hooks()[0].dead_lettered(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_slow_hook_delays_no_other() {
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder()
        .on_end(|_| pending::<()>())
        .on_end(seen.hook())
        .hook_timeout(Duration::from_secs(600))
        .build()
        .unwrap();
    for _ in 0..20 {
        complete(&layer).await;
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(seen.all().len(), 20);
    assert_eq!(layer.handle().audit().hooks()[0].queued(), 20);
}

#[tokio::test(start_paused = true)]
async fn the_context_is_made_once_of_the_head() {
    let made = Arc::new(AtomicU32::new(0));
    let context_made = Arc::clone(&made);
    let seen = Records::default();
    let layer = StreamingAccumulatorLayer::builder()
        .context(move |parts| {
            context_made.fetch_add(1, SeqCst);
            parts.extensions.get::<StreamHandle>().map(|stream| (stream.id(), parts.method.to_string()))
        })
        .on_end(seen.hook())
        .build()
        .unwrap();
    complete(&layer).await;
    settled(&layer.handle()).await;
    let record = seen.only();
    let wanted = Some((record.id(), "GET".to_owned()));
    assert_eq!(record.context(), Some(&wanted));
    assert_eq!(made.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_context_that_panics_costs_the_context_only() {
    let seen = Records::<u8>::default();
    let layer = StreamingAccumulatorLayer::builder()
        .context(|_| -> u8 { panic!("no tenant") })
        .on_end(seen.hook())
        .build()
        .unwrap();
    complete(&layer).await;
    settled(&layer.handle()).await;
    let record = seen.only();
    assert_eq!(record.context(), None);
    assert_eq!(record.outcome(), &Outcome::Completed);
}

#[test]
fn settings_that_cannot_work_are_named() {
    let builder = StreamingAccumulatorLayer::builder;
    let error = builder().workers(0).build().unwrap_err();
    assert_eq!(error.to_string(), "`workers` is 0: it must be at least 1");
    let error = builder().max_in_flight(usize::MAX).build().unwrap_err();
    assert!(matches!(error, ConfigError::MaxInFlight { .. }));
    let error = builder().hook_timeout(Duration::ZERO).build().unwrap_err();
    assert!(error.to_string().contains("hook_timeout"));
    let error = builder().max_in_flight(0).build().unwrap_err();
    assert!(error.to_string().contains("max_in_flight"));
    let error = builder().dead_letters(0).build().unwrap_err();
    assert!(error.to_string().contains("dead_letters"));
    let error = builder().retry(RetryPolicy::default().max_attempts(0)).build().unwrap_err();
    assert!(error.to_string().contains("max_attempts"));
}
