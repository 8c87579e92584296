//! What the layer allocates and retains: nothing per frame once a stream is on its way, little
//! more than the content that it captures, and nothing once record and layer are gone.
//!
//! The counts are the process's, so there is one `#[test]`. With `HEAP_TRACE=1` it shows where the frames
//! that allocate do so. `-- --nocapture` shows the figures.

use std::convert::Infallible;
use std::future;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Response};
use streaming_accumulator::CaptureRequestLayer;
use streaming_accumulator::http::RequestBody;
use streaming_accumulator::meter::{Meter, MeterSet, ReportBuilder, TextPolicy};
use streaming_accumulator::{Capture, StreamingAccumulatorLayer, Usage};
use tower::{Layer, ServiceExt};

use crate::body::{Ready, ready};
use crate::heap;
use crate::retained::{a_record_retains_little_more_than_its_content, memory_comes_back};
use crate::stage::{Allocated, MIB, Reader, START, Stage, allocated, poll, shared};

/// Chunks that stay readable for a tap: `buffer_limit`'s default.
const WINDOW: usize = 1024;

/// Frames of the streams that are counted, unless the pool has too few blocks for them.
const FRAMES: usize = 2048;

/// A meter that counts bytes, and allocates nothing for it.
#[derive(Default)]
struct Counts(u64);

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
    let layer = StreamingAccumulatorLayer::builder().capture(Capture::none()).build().unwrap();
    let mut chunks = vec![shared(256); FRAMES];
    chunks[0] = Bytes::from_static(b"{\"messages\":[{\"content\":\"");
    let echo = |request: Request<RequestBody<Ready>>| {
        future::ready(Ok::<_, Infallible>(Response::new(request.into_body())))
    };
    let request = Request::new(ready(chunks));
    let mut body = pin!(
        layer
            .layer(CaptureRequestLayer::new(1024).layer(tower::service_fn(echo)))
            .oneshot(request)
            .await
            .unwrap()
            .into_body()
    );
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

// === impl Counts ===

impl Meter for Counts {
    fn feed(&mut self, bytes: &[u8], reading: &mut ReportBuilder) {
        self.0 += bytes.len() as u64;
        let mut usage = Usage::default();
        usage.output_tokens = Some(self.0);
        reading.event(bytes.len());
        reading.usage(usage, "");
    }

    fn finish(&mut self, reading: &mut ReportBuilder) {
        reading.usage_is_final();
    }

    fn is_terminated(&self) -> Option<bool> {
        None
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
