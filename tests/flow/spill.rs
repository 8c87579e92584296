//! Content that moves out of memory: to a file, compressed, or both; and disks that fail.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use streaming_accumulator::{
    AccumulatorBody, BackpressureStrategy, Builder, Capture, ConfigError, Content, MemoryBudget, Outcome,
    StreamError, StreamRecord, StreamingAccumulatorLayer,
};
use tokio::io::AsyncReadExt;
use tower::ServiceExt;

use crate::support::{Recorder, until};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Chunks of a stream, each recognisable by its number.
fn chunks(count: usize, len: usize) -> impl Iterator<Item = Bytes> + Clone + Send + 'static {
    (0..count).map(move |n| {
        let mut bytes = vec![b'.'; len];
        let number = n.to_string();
        bytes[..number.len().min(len)].copy_from_slice(&number.as_bytes()[..number.len().min(len)]);
        bytes.into()
    })
}

/// An event as LLM services send it; its text comes from a small vocabulary.
fn event(n: usize) -> Bytes {
    let word = ["stream", "token", "frame", "the", "of", "a", "billed", "once"][n * 7 % 8];
    format!(
        "data: {{\"id\":\"chatcmpl-B3kqyXj8dQsl2Zx0pWm4t7u\",\"object\":\"chat.completion.chunk\",\"created\":1763890000,\
         \"model\":\"gpt-4o-mini-2024-07-18\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_51db84afab\",\
         \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" {word}{}\"}},\"logprobs\":null,\"finish_reason\":null}}]}}\n\n",
        n * 31 % 97
    )
    .into()
}

/// What one stream of these chunks left: its record, once the client has pulled everything.
async fn record_of(
    builder: Builder,
    chunks: impl Iterator<Item = Bytes> + Send + 'static,
) -> (Arc<StreamRecord>, Recorder) {
    let recorder = Recorder::of(builder);
    let mut body = stream(&recorder, chunks).await;
    while let Some(frame) = body.frame().await {
        frame.unwrap();
    }
    recorder.only().await;
    // Taken, so that the caller can drop it.
    let (_, record) = recorder.records().take().remove(0);
    (record, recorder)
}

/// A stream of these chunks, each made when it is pulled.
async fn stream<I>(
    recorder: &Recorder,
    chunks: I,
) -> AccumulatorBody<impl Body<Data = Bytes, Error = Infallible> + use<I>>
where
    I: Iterator<Item = Bytes> + Send + 'static,
{
    let body = StreamBody::new(futures_util::stream::iter(
        chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk))),
    ));
    let echo =
        |request: Request<_>| std::future::ready(Ok::<_, Infallible>(Response::new(request.into_body())));
    recorder.around(tower::service_fn(echo)).oneshot(Request::new(body)).await.unwrap().into_body()
}

async fn assert_holds(content: &Content, wanted: impl Iterator<Item = Bytes> + Clone) {
    assert_eq!(content.len(), wanted.clone().map(|chunk| chunk.len()).sum::<usize>());
    assert!(content.chunks().map(Result::unwrap).eq(wanted.clone()), "chunks() differ");
    let mut streamed = std::pin::pin!(content.stream());
    let mut last = Duration::ZERO;
    for chunk in wanted.clone() {
        let read = streamed.next().await.expect("a chunk").unwrap();
        assert_eq!(read.bytes, chunk);
        assert!(read.arrival >= last, "arrival times do not go back");
        last = read.arrival;
    }
    assert!(streamed.next().await.is_none());
    let all: Vec<u8> = wanted.flatten().collect();
    let mut read = Vec::new();
    Box::pin(content.reader()).read_to_end(&mut read).await.unwrap();
    assert!(read == all, "reader() differs");
    assert!(content.read(all.len()).await.unwrap() == all, "read() differs");
    assert!(content.to_bytes().unwrap() == all, "to_bytes() differs");
    assert!(content.read(all.len() - 1).await.is_err(), "a limit is a limit");
}

#[tokio::test]
async fn disk_keeps_a_response_beyond_the_budget() {
    let budget = MemoryBudget::new(4 * MIB);
    let builder = StreamingAccumulatorLayer::builder()
        .capture(Capture::all(usize::MAX))
        .memory_budget(&budget)
        .spill_after(MIB);
    let chunks = chunks(2_048, 64 * KIB);
    let (record, recorder) = record_of(builder, chunks.clone()).await;
    assert_eq!(*record.outcome(), Outcome::Completed);
    assert!(record.content().is_spilled());
    assert!(!record.content().is_truncated(), "{:?}", record.content().spill_error());
    assert_eq!(record.content().len(), 128 * MIB);
    assert!(record.content().chunks().map(Result::unwrap).eq(chunks));
    assert!(budget.peak() <= 3 * MIB as u64, "peak {}", budget.peak());
    until("the rest to be spilled", || budget.used() < 256 * KIB as u64).await;
    drop((record, recorder));
    until("memory to come back", || budget.used() == 0).await;
}

#[tokio::test]
async fn what_was_spilled_reads_as_what_was_not() {
    for (count, len) in [(20_000, 100), (3_000, 1_000), (500, 5_000), (3, 3 * MIB)] {
        let builder =
            StreamingAccumulatorLayer::builder().capture(Capture::all(usize::MAX)).spill_after(64 * KIB);
        let (record, _recorder) = record_of(builder, chunks(count, len)).await;
        assert!(record.content().is_spilled(), "{count} chunks of {len}");
        assert_holds(record.content(), chunks(count, len)).await;
    }
}

#[tokio::test]
async fn snapshot_is_unchanged_while_content_moves() {
    for compress in [false, true] {
        let snapshots = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&snapshots);
        let builder = StreamingAccumulatorLayer::builder()
            .capture(Capture::all(usize::MAX))
            .compress(compress)
            .spill_after(256 * KIB)
            .on_chunk(move |_, stream| {
                if stream.metrics().chunks().is_multiple_of(377) {
                    taken.lock().unwrap().push((stream.metrics().chunks() as usize, stream.snapshot()));
                }
                ControlFlow::Continue(())
            });
        let (record, _recorder) = record_of(builder, (0..5_000).map(event)).await;
        assert!(record.content().is_spilled());
        let snapshots = std::mem::take(&mut *snapshots.lock().unwrap());
        assert!(snapshots.len() > 10);
        for (chunks, snapshot) in snapshots.iter().skip(1) {
            assert_holds(snapshot, (0..*chunks).map(event)).await;
        }
    }
}

#[tokio::test]
async fn a_stream_below_the_mark_stays_in_memory() {
    let builder = StreamingAccumulatorLayer::builder().spill_after(64 * KIB);
    let (record, _recorder) = record_of(builder, chunks(100, 100)).await;
    assert!(!record.content().is_spilled());
    assert_holds(record.content(), chunks(100, 100)).await;
}

#[tokio::test]
async fn memory_that_is_short_spills_at_once() {
    let budget = MemoryBudget::new(MIB);
    let builder = StreamingAccumulatorLayer::builder()
        .capture(Capture::all(usize::MAX))
        .memory_budget(&budget)
        .spill_after(usize::MAX);
    let (record, _recorder) = record_of(builder, chunks(5_000, 700)).await;
    assert!(record.content().is_spilled());
    assert_holds(record.content(), chunks(5_000, 700)).await;
}

#[tokio::test]
async fn event_streams_shrink_eightfold_in_memory() {
    let budget = MemoryBudget::new(256 * MIB);
    let builder = StreamingAccumulatorLayer::builder()
        .capture(Capture::all(usize::MAX))
        .memory_budget(&budget)
        .compress(true);
    let events = (0..10_000).map(event);
    let (record, _recorder) = record_of(builder, events.clone()).await;
    let len = record.content().len() as u64;
    until("the rest to be compressed", || budget.used() * 8 < len).await;
    println!("{len} bytes of events take {}: 1/{}", budget.used(), len / budget.used());
    assert!(!record.content().is_spilled());
    assert_holds(record.content(), events).await;
}

#[tokio::test]
async fn what_does_not_shrink_stays_as_it_is() {
    let mut random = fastrand::Rng::with_seed(7);
    let chunks: Vec<Bytes> =
        (0..500).map(|_| (0..1_000).map(|_| random.u8(..)).collect::<Vec<u8>>().into()).collect();
    let builder = StreamingAccumulatorLayer::builder().compress(true);
    let (record, _recorder) = record_of(builder, chunks.clone().into_iter()).await;
    assert_holds(record.content(), chunks.into_iter()).await;
}

#[tokio::test]
async fn compressed_content_is_spilled_compressed() {
    let budget = MemoryBudget::new(256 * MIB);
    let builder = StreamingAccumulatorLayer::builder()
        .capture(Capture::all(usize::MAX))
        .memory_budget(&budget)
        .compress(true)
        .spill_after(MIB);
    let events = (0..10_000).map(event);
    let (record, _recorder) = record_of(builder, events.clone()).await;
    until("the rest to be spilled", || budget.used() < 128 * KIB as u64).await;
    assert!(record.content().is_spilled());
    assert_holds(record.content(), events).await;
}

#[tokio::test]
async fn limited_capture_spills_up_to_its_limit() {
    let builder = StreamingAccumulatorLayer::builder()
        .capture(Capture::head_tail(300_000, 10_000))
        .spill_after(64 * KIB);
    let (record, _recorder) = record_of(builder, chunks(1_000, 1_000)).await;
    let all: Vec<u8> = chunks(1_000, 1_000).flatten().collect();
    let mut wanted = all[..300_000].to_vec();
    wanted.extend_from_slice(&all[all.len() - 10_000..]);
    assert!(record.content().is_truncated());
    assert!(record.content().to_bytes().unwrap() == wanted);
}

#[tokio::test]
async fn missing_directory_only_truncates_the_capture() {
    let directory = tempfile::tempdir().unwrap();
    let builder = StreamingAccumulatorLayer::builder()
        .capture(Capture::all(usize::MAX))
        .spill_after(64 * KIB)
        .spill_directory(directory.path());
    let gone = directory.path().to_owned();
    let mut first = true;
    // Gone after the check in `build`.
    let chunks_of = chunks(10_000, 1_000).inspect(move |_| {
        if std::mem::take(&mut first) {
            std::fs::remove_dir(&gone).unwrap();
        }
    });
    let (record, _recorder) = record_of(builder, chunks_of).await;
    assert_truncated(&record, 10_000_000);
}

/// Every byte went to the client, and the capture is a prefix that says why it ends.
fn assert_truncated(record: &StreamRecord, bytes: u64) {
    assert_eq!(*record.outcome(), Outcome::Completed);
    assert_eq!(record.metrics().bytes(), bytes);
    let content = record.content();
    println!("{} of {bytes} bytes kept: {:?}", content.len(), content.spill_error());
    assert!(content.is_truncated() && content.spill_error().is_some());
    let kept = content.to_bytes().unwrap();
    assert_eq!(kept.len(), content.len());
    let all: Vec<u8> = chunks(bytes as usize / 1_000, 1_000).take(kept.len() / 1_000 + 1).flatten().collect();
    assert!(all.starts_with(&kept), "a prefix");
}

/// Run by the test below, in a process that may write no file of more than 1 MiB.
#[tokio::test]
#[ignore = "needs a limit on the size of files: run by `full_disk_only_truncates_the_capture`"]
async fn capture_on_a_full_disk() {
    let builder =
        StreamingAccumulatorLayer::builder().capture(Capture::all(usize::MAX)).spill_after(64 * KIB);
    let (record, _recorder) = record_of(builder, chunks(10_000, 1_000)).await;
    assert_truncated(&record, 10_000_000);
    assert!(record.content().len() >= 512 * KIB, "what was written before counts");
    assert!(record.content().is_spilled());
}

#[test]
fn full_disk_only_truncates_the_capture() {
    if !Path::new("/bin/sh").exists() {
        println!("skipped: there is no /bin/sh to set a limit with");
        return;
    }
    // A write beyond the limit fails as one to a full disk does, where its signal is ignored.
    let script = r#"ulimit -f 2048; trap "" XFSZ; exec "$0" --exact "$1" --ignored --nocapture"#;
    let output = Command::new("/bin/sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg("spill::capture_on_a_full_disk")
        .output()
        .expect("sh runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
    assert!(text.contains("File too large") || text.contains("No space"), "{text}");
}

#[tokio::test]
async fn slow_disk_is_given_up_under_drop_oldest() {
    let builder = StreamingAccumulatorLayer::builder()
        .capture(Capture::all(usize::MAX))
        .backpressure(BackpressureStrategy::DropOldest)
        .buffer_limit(1)
        .spill_after(64 * KIB);
    let (record, _recorder) = record_of(builder, chunks(10_000, 1_000)).await;
    assert_truncated(&record, 10_000_000);
}

#[tokio::test]
async fn slow_disk_ends_the_stream_under_reject() {
    let recorder = Recorder::with(|builder| {
        builder
            .capture(Capture::all(usize::MAX))
            .backpressure(BackpressureStrategy::Reject)
            .buffer_limit(1)
            .spill_after(KIB)
    });
    let mut body = stream(&recorder, chunks(10_000, 1_000)).await;
    let error = loop {
        match body.frame().await.expect("an error before the end") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let error = error.downcast_ref::<StreamError>().unwrap();
    assert!(matches!(*error, StreamError::Backpressure { limit: 1, .. }), "{error:?}");
    assert_eq!(*recorder.only().await.outcome(), Outcome::Failed(error.clone()));
}

#[test]
fn build_refuses_an_unwritable_directory() {
    let result = StreamingAccumulatorLayer::builder()
        .spill_after(MIB)
        .spill_directory("/nonexistent/spill")
        .on_end(|_| async {})
        .build();
    let error = result.expect_err("there is no such directory");
    assert!(
        matches!(&error, ConfigError::SpillDirectory { path, .. } if path == Path::new("/nonexistent/spill"))
    );
    assert!(error.to_string().contains("/nonexistent/spill"), "{error}");
    assert!(error.to_string().contains("spill_directory"), "{error}");
}
