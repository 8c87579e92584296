//! What the layer allocates and retains: nothing per frame once a stream is on its way, little
//! more than the content that it captures, and nothing once record and layer are gone.
//!
//! The counts are the process's, so there is one `#[test]`. With `HEAP_TRACE=1` it shows where the frames
//! that allocate do so. `-- --nocapture` shows the figures.

use std::convert::Infallible;
use std::future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::Stream;
use http::{Request, Response};
use http_body::{Body, Frame};
use streaming_accumulator::{
    AccumulatorBody, BackpressureStrategy, Builder, Capture, CaptureRequest, Meter, MeterSet, Reading,
    RequestBody, StreamHandle, StreamRecord, StreamingAccumulatorLayer, Tap, TextPolicy, Usage,
};
use tower::{Layer, ServiceExt};

use crate::body::{Ready, cut, ready};
use crate::heap;
use crate::support::Recorder;

const MIB: usize = 1024 * 1024;

/// Frames before a stream counts as being on its way.
const START: usize = 64;

/// Chunks that stay readable for a tap: `buffer_limit`'s default.
const WINDOW: usize = 1024;

/// Frames of the streams that are counted, unless the pool has too few blocks for them.
const FRAMES: usize = 4096;

/// What reads the stream beside the client.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reader {
    Nobody,
    /// A tap that reads each chunk as it comes.
    Tap,
    /// The same, and the stream waits for it.
    Waited,
    /// A tap that reads when 48 chunks are there.
    Late,
    /// A tap that never reads.
    Idle,
}

/// What polling one stream allocated.
struct Allocated {
    /// For each frame that was not free: its number, and the calls that its poll made.
    frames: Vec<(usize, u64)>,
    /// Calls of the tap, and the chunks that it read.
    tap: (u64, u64),
}

/// A layer with its records, and how many streams it has had.
struct Stage {
    recorder: Recorder,
    streams: u64,
}

/// A meter that counts bytes, and allocates nothing for it.
#[derive(Default)]
struct Counts(u64);

type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

fn shared(len: usize) -> Bytes {
    // Shared already: the first clone of a `Bytes` that is not allocates.
    let bytes = Bytes::from(vec![b'x'; len]);
    let _shared = bytes.clone();
    bytes
}

fn poll<B: Body>(body: Pin<&mut B>) -> Polled<B> {
    body.poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// Reads all that is there; how many chunks.
fn drain(tap: &mut Tap) -> u64 {
    let mut chunks = 0;
    while let Poll::Ready(Some(chunk)) =
        Pin::new(&mut *tap).poll_next(&mut Context::from_waker(Waker::noop()))
    {
        drop(std::hint::black_box(chunk));
        chunks += 1;
    }
    chunks
}

/// Polls a stream of `frames` chunks of `size` bytes to its end, by hand, with a reader beside. The first
/// frames and the last one are not counted.
async fn allocated(stage: &mut Stage, size: usize, frames: usize, reader: Reader) -> Allocated {
    let chunks = vec![shared(size); frames];
    let mut body = pin!(stage.open(ready(chunks)).await);
    let stream = stage.stream();
    let mut tap = match reader {
        Reader::Nobody => None,
        Reader::Waited => Some(stream.tap().waited()),
        Reader::Tap | Reader::Late | Reader::Idle => Some(stream.tap()),
    };
    // Room for the report: it is not to count.
    let mut allocated = Allocated { frames: Vec::with_capacity(frames), tap: (0, 0) };
    for n in 0..frames {
        let (calls, frame) = heap::calls_of(|| poll(body.as_mut()));
        assert!(matches!(frame, Poll::Ready(Some(Ok(_)))), "{frame:?}");
        let counts = n >= START && n < frames - 1;
        if counts && calls > 0 {
            allocated.frames.push((n, calls));
        }
        let reads = match reader {
            Reader::Nobody | Reader::Idle => false,
            Reader::Tap | Reader::Waited => true,
            Reader::Late => n % 48 == 47,
        };
        if let Some(tap) = tap.as_mut().filter(|_| reads) {
            let before = heap::calls();
            let chunks = drain(tap);
            if counts {
                allocated.tap = (allocated.tap.0 + heap::calls() - before, allocated.tap.1 + chunks);
            }
        }
    }
    assert!(matches!(poll(body.as_mut()), Poll::Ready(None)));
    allocated
}

/// A frame costs no allocation, whatever is captured and read beside, once the pool has blocks: here
/// from one stream before.
async fn a_frame_allocates_nothing() {
    let captures =
        [("all", Capture::all(64 * MIB)), ("tail", Capture::tail(16 * 1024)), ("none", Capture::none())];
    for (name, capture) in captures {
        for reader in [Reader::Nobody, Reader::Tap, Reader::Waited, Reader::Late, Reader::Idle] {
            for size in [64, 256, 1000, 4096] {
                // What is captured of smaller chunks must fit into the blocks that the pool keeps.
                let frames = if name == "all" && size == 1000 { MIB / 1024 } else { FRAMES };
                let mut stage = Stage::new(capture);
                allocated(&mut stage, size, frames, reader).await;
                drop(stage.record().await);
                let Allocated { frames: costly, tap } = allocated(&mut stage, size, frames, reader).await;
                drop(stage.record().await);

                let case = format!("{name}, {size} B, {reader:?}");
                // Where a tap has the last chunks kept for it, their blocks come first: of large chunks these
                // are more than the pool keeps.
                let filling = if reader == Reader::Nobody || name == "all" { 0 } else { WINDOW + START };
                let (first, rest) = costly.split_at(costly.partition_point(|(n, _)| *n < filling));
                assert!(rest.is_empty(), "{case}: {} of {frames} frames, {:?}", rest.len(), &rest[..1]);
                if !first.is_empty() {
                    println!("{case}: {} of the first {WINDOW} frames take a new block", first.len());
                    assert!(size >= 1000, "{case}");
                }
                assert!(
                    first.iter().all(|(_, calls)| *calls == 2),
                    "{case}: a block and its words, {first:?}"
                );
                // A small chunk is copied out for the tap, a large one shared.
                let copies = if size < 1024 { tap.1 } else { 0 };
                assert_eq!(tap.0, copies, "{case}: calls of the tap for {} chunks", tap.1);
            }
        }
    }
}

/// Nor does a frame that a meter reads, if the meter itself allocates nothing.
async fn a_metered_frame_allocates_nothing() {
    let set = MeterSet::none().with(|_| Some(Box::new(Counts::default())));
    let mut stage = Stage::with(|builder| builder.capture(Capture::none()).meter(set));
    for reader in [Reader::Nobody, Reader::Tap] {
        allocated(&mut stage, 256, FRAMES, reader).await;
        drop(stage.record().await);
        let Allocated { frames, .. } = allocated(&mut stage, 256, FRAMES, reader).await;
        let record = stage.record().await;
        assert_eq!(record.usage().output_tokens, Some(256 * FRAMES as u64));
        assert!(frames.iter().all(|(n, _)| *n < WINDOW + START), "{reader:?}: {frames:?}");
        assert!(reader != Reader::Nobody || frames.is_empty(), "{frames:?}");
    }
    stage.end().await;
}

/// Nor does one that a built-in meter reads without looking at texts, whatever the protocol: also where every
/// event reports usage, and where some texts have escapes.
async fn a_frame_of_a_protocol_allocates_nothing() {
    let chat = |n: usize, rest: &str| {
        format!(
            "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":{n},\"model\":\"m\",\"choices\":\
             [{{\"index\":0,\"delta\":{{\"content\":\" word{}{n}\"}},\"finish_reason\":null}}]{rest}}}\n\n",
            if n.is_multiple_of(2) { "--" } else { "\\n" }
        )
    };
    let protocols: [(&str, &dyn Fn(usize) -> String); 6] = [
        ("chat", &|n| chat(n, ",\"usage\":null")),
        ("chat with usage in every chunk", &|n| {
            chat(
                n,
                &format!(",\"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":{n},\"total_tokens\":{n}}}"),
            )
        }),
        ("anthropic", &|n| {
            match n {
            0 => "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":\
                  {\"input_tokens\":3,\"output_tokens\":1}}}\n\n"
                .into(),
            n => format!(
                "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":\
                 {{\"type\":\"text_delta\",\"text\":\"\\\"{n}\\\"\"}}}}\n\n"
            ),
        }
        }),
        ("gemini", &|n| {
            format!(
                "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"{n}\"}}]}}}}],\"usageMetadata\":\
                 {{\"promptTokenCount\":3,\"totalTokenCount\":{n}}},\"modelVersion\":\"m\"}}\r\n\r\n"
            )
        }),
        ("ollama", &|n| {
            format!(
                "{{\"model\":\"m\",\"message\":{{\"role\":\"assistant\",\"content\":\"{n}\"}},\"done\":false}}\n"
            )
        }),
        ("responses", &|n| match n {
            0 => "data: {\"type\":\"response.created\",\"response\":{\"model\":\"m\"}}\n\n".into(),
            n => format!(
                "data: {{\"type\":\"response.output_text.delta\",\"sequence_number\":{n},\"delta\":\"{n}\"}}\n\n"
            ),
        }),
    ];
    for (name, event) in protocols {
        let meters = MeterSet::detect().text(TextPolicy::Skip);
        let mut stage = Stage::with(|builder| builder.capture(Capture::none()).meter(meters));
        // Numbers of one length: buffers that hold an event then need not grow.
        let chunks: Vec<Bytes> =
            (0..FRAMES).map(|n| event(if n == 0 { 0 } else { 10_000 + n }).into()).collect();
        let mut body = pin!(stage.open(ready(chunks)).await);
        let mut costly = Vec::new();
        for n in 0..FRAMES {
            let (calls, frame) = heap::calls_of(|| poll(body.as_mut()));
            assert!(matches!(frame, Poll::Ready(Some(Ok(_)))), "{frame:?}");
            if n >= START && calls > 0 {
                costly.push((n, calls));
            }
        }
        assert!(matches!(poll(body.as_mut()), Poll::Ready(None)));
        let record = stage.record().await;
        let report = record.llm().expect("it was metered");
        assert_eq!((report.model(), report.events), (Some("m"), FRAMES as u64), "{name}");
        assert!(report.time_to_first_text.is_some(), "{name}");
        assert!(costly.is_empty(), "{name}: {} frames, {:?}", costly.len(), &costly[..1]);
    }
}

/// Nor does a frame of a request that is read, beyond what is kept of it.
async fn a_frame_of_a_request_allocates_nothing() {
    let layer: StreamingAccumulatorLayer<(), CaptureRequest> =
        StreamingAccumulatorLayer::builder().capture(Capture::none()).capture_request(1024).build().unwrap();
    let mut chunks = vec![shared(256); FRAMES];
    chunks[0] = Bytes::from_static(b"{\"messages\":[{\"content\":\"");
    let echo = |request: Request<RequestBody<Ready>>| {
        future::ready(Ok::<_, Infallible>(Response::new(request.into_body())))
    };
    let request = Request::new(ready(chunks));
    let mut body = pin!(layer.layer(tower::service_fn(echo)).oneshot(request).await.unwrap().into_body());
    let mut costly = 0;
    for n in 0..FRAMES {
        let (calls, frame) = heap::calls_of(|| poll(body.as_mut()));
        assert!(matches!(frame, Poll::Ready(Some(Ok(_)))), "{frame:?}");
        costly += if n >= START { calls } else { 0 };
    }
    assert!(layer.handle().audit().memory_used() > 0, "it is read");
    assert_eq!(costly, 0);
}

/// A stream that is longer than what the pool keeps takes new blocks: two allocations for each 64 KiB.
async fn a_long_stream_allocates_whole_blocks() {
    let mut stage = Stage::new(Capture::all(64 * MIB));
    let (size, frames) = (1000, 16 * MIB / 1000);
    for _ in 0..2 {
        let Allocated { frames: costly, .. } = allocated(&mut stage, size, frames, Reader::Nobody).await;
        drop(stage.record().await);
        assert!(costly.iter().all(|(_, calls)| *calls == 2), "{costly:?}");
        assert!(costly.len() <= 16 * MIB / (64 * 1024) + 8, "{}", costly.len());
        println!("all, {size} B, 16 MiB: {} of {frames} frames take a new block", costly.len());
    }
}

/// What is on the heap while a record is held, and what is charged to the budget.
struct Retained {
    bytes: i64,
    charged: u64,
}

/// A record of 1 MiB in chunks of `size`, held; each chunk has its own read buffer if they are `sparse`.
async fn retained(capture: Capture, size: usize, sparse: bool) -> Retained {
    let body = cut(size, MIB, sparse);
    let mut stage = Stage::new(capture);
    let before = heap::live();
    let mut body = Box::pin(stage.open(body).await);
    while let Poll::Ready(Some(frame)) = poll(body.as_mut()) {
        drop(frame.unwrap());
    }
    drop(body);
    let record = stage.record().await;
    let bytes = heap::live() - before;
    assert_eq!(record.content().len(), MIB);
    let charged = stage.recorder.handle().audit().memory_used();
    drop(record);
    assert_eq!(stage.recorder.handle().audit().memory_used(), 0);
    stage.end().await;
    Retained { bytes, charged }
}

async fn a_record_retains_little_more_than_its_content() {
    let of_content = |bytes: f64| bytes / MIB as f64;
    for (limit, name) in [(MIB, "all(1 MiB)"), (64 * MIB, "all(64 MiB)")] {
        for size in [16, 100, 256, 1000, 1024, 4096] {
            let Retained { bytes, charged } = retained(Capture::all(limit), size, false).await;
            let (heap, budget) = (of_content(bytes as f64), of_content(charged as f64));
            println!("{name}, 1 MiB in chunks of {size} B: {heap:.3} MiB on the heap, {budget:.3} charged");
            if size == 100 && limit == MIB {
                assert!(heap <= 1.15, "{heap}");
            }
            // The stream itself, and what the shared read buffers take beside their bytes.
            assert!((heap - budget).abs() < 0.01, "the budget must know: {heap}, {budget}");
        }
    }
    // Not bounded: a chunk that is kept by reference keeps all of the buffer that it was cut from.
    let Retained { bytes, charged } = retained(Capture::all(MIB), 1024, true).await;
    let (heap, budget) = (of_content(bytes as f64), of_content(charged as f64));
    println!(
        "1 MiB in chunks of 1024 B, each of its own 64 KiB: {heap:.3} MiB on the heap, {budget:.3} charged"
    );
}

/// Once a record and its layer are gone, so is all that they held.
async fn memory_comes_back() {
    let turn = async |streams: usize| {
        let mut stage = Stage::new(Capture::head_tail(64 * 1024, 64 * 1024));
        for n in 0..streams {
            // Copied ones, then references.
            let size = if n % 2 == 0 { 100 } else { 2000 };
            allocated(&mut stage, size, 1500, Reader::Tap).await;
            drop(stage.record().await);
        }
        stage.end().await;
    };
    turn(2).await;
    let start = heap::live();
    turn(2).await;
    let few = heap::live() - start;
    turn(300).await;
    let many = heap::live() - start;
    println!("left after 2 streams: {few} bytes, after 300: {many}");
    // The list of streams frees its nodes, of some 100 bytes, when some hundred have gathered.
    assert!((0..1024).contains(&few), "{few}");
    assert!(many < 32 * 1024, "{many}");
}

// === impl Counts ===

impl Meter for Counts {
    fn feed(&mut self, bytes: &[u8], reading: &mut Reading) {
        self.0 += bytes.len() as u64;
        let mut usage = Usage::default();
        usage.output_tokens = Some(self.0);
        reading.event(bytes.len());
        reading.usage(usage, "");
    }

    fn finish(&mut self, reading: &mut Reading) {
        reading.usage_is_final();
    }

    fn is_terminated(&self) -> Option<bool> {
        None
    }
}

// === impl Stage ===

impl Stage {
    fn new(capture: Capture) -> Self {
        Self::with(|builder| builder.capture(capture))
    }

    fn with(configure: impl FnOnce(Builder) -> Builder) -> Self {
        let strict = BackpressureStrategy::Block(std::time::Duration::from_secs(1));
        Self { recorder: Recorder::with(|builder| configure(builder).backpressure(strict)), streams: 0 }
    }

    /// The body of a new stream.
    async fn open<B: Body<Data = Bytes, Error = Infallible>>(&mut self, body: B) -> AccumulatorBody<B> {
        self.streams += 1;
        let echo =
            |request: Request<B>| future::ready(Ok::<_, Infallible>(Response::new(request.into_body())));
        let response = self.recorder.around(tower::service_fn(echo)).oneshot(Request::new(body)).await;
        response.unwrap().into_body()
    }

    fn stream(&self) -> StreamHandle {
        self.recorder.handle().streams().remove(0)
    }

    /// The record of the stream that has ended.
    async fn record(&self) -> Arc<StreamRecord> {
        let handle = self.recorder.handle();
        while handle.audit().hooks()[0].delivered() < self.streams {
            tokio::task::yield_now().await;
        }
        // Taken, so that the record's memory is the caller's to free.
        let [(_, record)] = self.recorder.records().take().try_into().expect("one record");
        record
    }

    /// Drops the layer, and lets its workers end: they do when they see that nobody will send them anything.
    async fn end(self) {
        drop(self);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

pub(crate) fn measure() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(tokio::task::unconstrained(async {
        memory_comes_back().await;
        a_record_retains_little_more_than_its_content().await;
        a_frame_allocates_nothing().await;
        a_metered_frame_allocates_nothing().await;
        a_frame_of_a_protocol_allocates_nothing().await;
        a_frame_of_a_request_allocates_nothing().await;
        a_long_stream_allocates_whole_blocks().await;
    }));
}
