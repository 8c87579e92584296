//! Which public types may go to another thread, be shared between threads, and be moved while they are polled.

use std::collections::BTreeSet;
use std::fs;
use std::marker::{PhantomData, PhantomPinned};
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::Full;
use streaming_accumulator::capture::*;
use streaming_accumulator::delivery::*;
use streaming_accumulator::http::*;
use streaming_accumulator::meter::*;
use streaming_accumulator::stream::*;
use streaming_accumulator::{ConfigError, StreamId};

/// Says of a type whether it implements a trait: an inherent constant, where its bound holds, hides that of [`No`].
struct Is<T: ?Sized>(PhantomData<T>);

trait No {
    const SEND: bool = false;
    const SYNC: bool = false;
    const UNPIN: bool = false;
}

impl<T: ?Sized> No for Is<T> {}

impl<T: ?Sized + Send> Is<T> {
    const SEND: bool = true;
}

impl<T: ?Sized + Sync> Is<T> {
    const SYNC: bool = true;
}

impl<T: ?Sized + Unpin> Is<T> {
    const UNPIN: bool = true;
}

/// A type's name, and whether it is `Send`, `Sync` and `Unpin`.
type Row = (&'static str, [bool; 3]);

macro_rules! rows {
    ($($type:ty),+ $(,)?) => {
        [$((stringify!($type), [Is::<$type>::SEND, Is::<$type>::SYNC, Is::<$type>::UNPIN])),+]
    };
}

type Body = Full<Bytes>;
type Answer = std::future::Ready<Result<http::Response<Body>, std::io::Error>>;

/// Every public type that is not a trait, with ordinary parameters.
fn public_types() -> Vec<Row> {
    rows![
        // The layer and what it makes.
        StreamingAccumulatorLayer<String>,
        StreamingAccumulator<(), String>,
        Builder<String, NoHooks>,
        Builder<String, WithHooks>,
        NoHooks,
        WithHooks,
        ResponseFuture<Answer>,
        AccumulatorBody<Body>,
        BodyError,
        Rejected,
        CaptureRequestLayer,
        CaptureRequest<()>,
        RequestBody<Body>,
        ConfigError,
        // One stream.
        StreamId,
        StreamHandle,
        StreamRecord<String>,
        RecordWithContent<'static, String>,
        StreamMetrics,
        StreamPipeline,
        StreamPipelineBuilder,
        StreamError,
        PushError,
        ParseStreamIdError,
        ParseWordError,
        Outcome,
        Phase,
        Evidence,
        EndedBy,
        StopReason,
        BackpressureStrategy,
        Tap,
        ConsumerGroup,
        // What is kept.
        Capture,
        Content,
        ContentAccumulator,
        ContentReader,
        ContentWriter,
        MemoryBudget,
        StreamChunk,
        AppendError,
        // Delivery.
        Audit,
        HookAudit,
        DeadLetter<String>,
        Handle<String>,
        RetryPolicy,
        ShutdownReport,
        WhenFull,
        // Meters.
        CharsPerToken,
        TokenEstimator,
        EventStreamDecoder,
        EventStreamError,
        EventStreamMessage<'static>,
        EventStreamValue<'static>,
        GrpcDecoder,
        JsonDecoder,
        NdjsonDecoder,
        SseDecoder,
        SseEvent<'static>,
        ParseError,
        Protocol,
        InBandError,
        Incomplete,
        LlmChoice,
        LlmReport,
        ReportBuilder,
        TextPolicy,
        ResponseHead<'static>,
        MeterSet,
        StreamMeter,
        Usage,
        UsageBasis,
    ]
    .into()
}

/// Types that one thread owns at a time: whoever polls or writes.
const NOT_SYNC: &[&str] = &["StreamMeter"];

#[test]
fn public_types_go_to_any_thread() {
    for (name, [is_send, is_sync, is_unpin]) in public_types() {
        let expected = [true, !NOT_SYNC.contains(&name), true];
        assert_eq!([is_send, is_sync, is_unpin], expected, "{name} is [Send, Sync, Unpin]");
    }
}

#[test]
fn generic_types_are_as_their_parameters() {
    type Unsent = Rc<()>;
    let rows = rows![
        StreamingAccumulatorLayer<Unsent>,
        StreamingAccumulator<Unsent, ()>,
        StreamRecord<Unsent>,
        Handle<Unsent>,
        AccumulatorBody<Unsent>,
        RequestBody<Unsent>,
        CaptureRequest<Unsent>,
        ResponseFuture<Unsent>,
        DeadLetter<Unsent>,
    ];
    for (name, [is_send, is_sync, is_unpin]) in rows {
        assert_eq!([is_send, is_sync, is_unpin], [false, false, true], "{name}");
    }
    let rows =
        rows![AccumulatorBody<PhantomPinned>, RequestBody<PhantomPinned>, ResponseFuture<PhantomPinned>];
    for (name, is) in rows {
        assert_eq!(is, [true, true, false], "{name}");
    }
}

// --- whether the list is complete

/// The names that `text` exports with `pub use`, groups included.
fn exports(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for export in text.split("pub use ").skip(1) {
        let export = export.split(';').next().unwrap_or_default();
        let words = export.split(|char: char| !char.is_alphanumeric() && char != '_');
        names.extend(words.filter(|word| word.starts_with(char::is_uppercase)).map(str::to_owned));
    }
    names
}

/// The names of all types that are declared `pub`, except traits and aliases.
fn declared(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            declared(&path, names);
            continue;
        }
        let text = fs::read_to_string(&path).expect("source is readable");
        for line in text.lines().map(str::trim_start) {
            let name = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "));
            let name = name.map(|name| name.split(|char: char| !char.is_alphanumeric()).next());
            names.extend(name.flatten().map(str::to_owned));
        }
    }
}

#[test]
fn list_of_public_types_is_complete() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut public = BTreeSet::new();
    for face in ["lib.rs", "http/mod.rs", "delivery/mod.rs", "stream/mod.rs", "meter/mod.rs"] {
        public.extend(exports(&fs::read_to_string(src.join(face)).expect("source is readable")));
    }
    let mut types = BTreeSet::new();
    declared(&src, &mut types);
    let public: BTreeSet<&str> = public.intersection(&types).map(String::as_str).collect();
    assert!(public.len() > 50, "{public:?}");
    let rows = public_types();
    let listed = rows.iter().map(|(name, _)| name.split(['<', ' ']).next().unwrap_or_default()).collect();
    let missing: Vec<_> = public.difference(&listed).collect();
    assert!(missing.is_empty(), "not in the list: {missing:?}");
}
