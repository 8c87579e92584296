//! What the decoders and meters answer, and what they should. The fuzz targets include this file by its path.

use std::fmt::Debug;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use streaming_accumulator::Usage;
use streaming_accumulator::meter::{
    EventStreamDecoder, EventStreamError, EventStreamMessage, EventStreamValue, GrpcDecoder, JsonDecoder,
    LlmReport, MeterSet, NdjsonDecoder, ResponseHead, SseDecoder, SseEvent,
};

/// What a buffer may hold beyond its limit: a vector begins with room for a few bytes.
const SLACK: usize = 64;

/// `bytes` in pieces of these lengths, over and over; in one piece where all are 0.
pub(crate) fn pieces<'a>(bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for length in lengths.iter().cycle().take_while(|_| lengths.iter().any(|length| *length > 0)) {
        if rest.is_empty() {
            return pieces;
        }
        let (piece, left) = rest.split_at((*length).min(rest.len()));
        pieces.push(piece);
        rest = left;
    }
    vec![bytes]
}

/// What `read` answers, which must be the same for the whole, byte by byte, and in pieces of these lengths.
pub(crate) fn same_however_cut<T: Debug + PartialEq>(
    bytes: &[u8],
    lengths: &[usize],
    read: impl Fn(&[&[u8]]) -> T,
) -> T {
    let whole = read(&[bytes]);
    assert_eq!(read(&bytes.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
    assert_eq!(read(&pieces(bytes, lengths)), whole, "in pieces of {lengths:?}");
    whole
}

// === Server-sent events ===

/// Name, data, last id.
pub(crate) type Event = [String; 3];

#[derive(Debug, Default, PartialEq)]
pub(crate) struct SseAnswer {
    pub(crate) events: Vec<Event>,
    /// The one that lacks its blank line.
    pub(crate) last: Option<Event>,
    pub(crate) retry: Option<u64>,
    pub(crate) has_overflowed: bool,
}

pub(crate) fn sse(max: usize, pieces: &[&[u8]]) -> SseAnswer {
    let mut decoder = SseDecoder::with_max(max);
    let mut events = Vec::new();
    for mut piece in pieces.iter().copied() {
        while let Some(event) = decoder.next(&mut piece) {
            events.push(owned(event));
        }
        assert!(piece.is_empty(), "all is taken");
        // A line, and of an event its data, its name, its id, and the id before it.
        assert!(decoder.buffered() <= 5 * max + SLACK, "{} bytes are held", decoder.buffered());
    }
    let last = decoder.finish().map(owned);
    SseAnswer { events, last, retry: decoder.retry(), has_overflowed: decoder.has_overflowed() }
}

fn owned(event: SseEvent<'_>) -> Event {
    [event.name().into(), event.data_str().into(), event.id().into()]
}

/// The algorithm of the standard, over the whole text.
pub(crate) fn sse_reference(bytes: &[u8]) -> SseAnswer {
    let text = String::from_utf8_lossy(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes));
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut answer = SseAnswer::default();
    let (mut name, mut data, mut id) = (String::new(), None::<String>, String::new());
    let mut lines = text.split('\n').peekable();
    while let Some(line) = lines.next() {
        let is_end = lines.peek().is_none();
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() && !is_end => {
                let name = std::mem::take(&mut name);
                let name = if name.is_empty() { "message".to_owned() } else { name };
                answer.events.extend(data.take().map(|data| [name, data, id.clone()]));
            }
            "event" => name = value.to_owned(),
            "data" => data = Some(data.map_or(value.to_owned(), |data| data + "\n" + value)),
            "id" if !value.contains('\0') => id = value.to_owned(),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                answer.retry = value.parse().ok().or(answer.retry);
            }
            _ => {}
        }
    }
    let name = if name.is_empty() { "message".to_owned() } else { name };
    SseAnswer { last: data.map(|data| [name, data, id]), ..answer }
}

// === Lines and values of JSON ===

#[derive(Debug, Default, PartialEq)]
pub(crate) struct LinesAnswer {
    pub(crate) lines: Vec<Vec<u8>>,
    pub(crate) has_overflowed: bool,
}

pub(crate) fn ndjson(max: usize, pieces: &[&[u8]]) -> LinesAnswer {
    let mut decoder = NdjsonDecoder::with_max(max);
    let mut lines = Vec::new();
    for mut piece in pieces.iter().copied() {
        while let Some(line) = decoder.next(&mut piece) {
            lines.push(line.to_vec());
        }
        assert!(piece.is_empty(), "all is taken");
        assert!(decoder.buffered() <= max + SLACK, "{} bytes are held", decoder.buffered());
    }
    lines.extend(decoder.finish().map(<[u8]>::to_vec));
    LinesAnswer { lines, has_overflowed: decoder.has_overflowed() }
}

pub(crate) fn ndjson_reference(bytes: &[u8]) -> LinesAnswer {
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
    LinesAnswer { lines, has_overflowed: false }
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct JsonAnswer {
    pub(crate) values: Vec<Vec<u8>>,
    pub(crate) is_array: bool,
    pub(crate) is_closed: bool,
    pub(crate) has_overflowed: bool,
}

pub(crate) fn json(max: usize, pieces: &[&[u8]]) -> JsonAnswer {
    let mut decoder = JsonDecoder::with_max(max);
    let mut values = Vec::new();
    for mut piece in pieces.iter().copied() {
        while let Some(value) = decoder.next(&mut piece) {
            values.push(value.to_vec());
        }
        assert!(piece.is_empty(), "all is taken");
        assert!(decoder.buffered() <= max + SLACK, "{} bytes are held", decoder.buffered());
    }
    let (is_array, is_closed) = (decoder.is_array(), decoder.is_closed());
    JsonAnswer { values, is_array, is_closed, has_overflowed: decoder.has_overflowed() }
}

/// The answer for a body that is one JSON value; `None` if it is none.
pub(crate) fn json_reference(bytes: &[u8]) -> Option<Vec<serde_json::Value>> {
    Some(match serde_json::from_slice(bytes).ok()? {
        serde_json::Value::Array(values) => {
            values.into_iter().filter(|value| value.is_object() || value.is_array()).collect()
        }
        value @ serde_json::Value::Object(_) => vec![value],
        _ => Vec::new(),
    })
}

// === Event streams of AWS ===

/// Headers and payload.
pub(crate) type Message = (Vec<(String, String)>, Vec<u8>);

#[derive(Debug, Default, PartialEq)]
pub(crate) struct EventStreamAnswer {
    pub(crate) messages: Vec<Message>,
    /// The messages as they are written.
    pub(crate) written: Vec<u8>,
    pub(crate) error: Option<EventStreamError>,
    pub(crate) is_cut: bool,
}

/// Reads `pieces` of `bytes`.
pub(crate) fn event_stream(max: usize, bytes: &[u8], pieces: &[&[u8]]) -> EventStreamAnswer {
    let mut decoder = EventStreamDecoder::with_max(max);
    let mut answer = EventStreamAnswer::default();
    for mut piece in pieces.iter().copied() {
        while let Some(message) = decoder.next(&mut piece) {
            assert_eq!(answer.error, None, "nothing is read after an error");
            match message {
                Ok(message) => answer.add(&message, bytes),
                Err(error) => answer.error = Some(error),
            }
        }
        assert!(piece.is_empty(), "all is taken");
        assert!(decoder.buffered() <= max + SLACK, "{} bytes are held", decoder.buffered());
    }
    answer.is_cut = decoder.is_cut();
    answer
}

impl EventStreamAnswer {
    fn add(&mut self, message: &EventStreamMessage<'_>, bytes: &[u8]) {
        // The widths of integers are not told: they are those of the original.
        let mut kinds = &bytes[self.written.len() + 12..];
        let mut headers = Vec::new();
        for (name, value) in message.headers() {
            let kind = kinds[1 + name.len()];
            let header = written_header(name, kind, value);
            kinds = &kinds[header.len()..];
            headers.extend(header);
        }
        self.written.extend(sealed(&headers, message.payload()));
        let shown = message.headers().map(|(name, value)| (name.to_owned(), format!("{value:?}")));
        self.messages.push((shown.collect(), message.payload().to_vec()));
    }
}

/// A header as it is written, of this type.
pub(crate) fn written_header(name: &str, kind: u8, value: EventStreamValue<'_>) -> Vec<u8> {
    let mut header = vec![name.len() as u8];
    header.extend(name.bytes());
    header.push(kind);
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    match value {
        EventStreamValue::Bool(_) => {}
        EventStreamValue::Integer(value) | EventStreamValue::Timestamp(value) => {
            let width = [1, 2, 4, 8].get(usize::from(kind) - 2).copied().unwrap_or(8);
            header.extend(&value.to_be_bytes()[8 - width..]);
        }
        EventStreamValue::Bytes(bytes) => header.extend(sized(bytes)),
        EventStreamValue::Text(text) => header.extend(sized(text.as_bytes())),
        EventStreamValue::Uuid(bytes) => header.extend(bytes),
        other => panic!("{other:?} is new"),
    }
    header
}

/// A message of these headers and this payload, with its checksums.
pub(crate) fn sealed(headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut message = ((headers.len() + payload.len() + 16) as u32).to_be_bytes().to_vec();
    message.extend((headers.len() as u32).to_be_bytes());
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message.extend(headers);
    message.extend(payload);
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message
}

// === gRPC ===

#[derive(Debug, Default, PartialEq)]
pub(crate) struct GrpcAnswer {
    pub(crate) messages: u64,
    pub(crate) compressed: u64,
    pub(crate) bytes: u64,
    pub(crate) longest: u64,
    pub(crate) trailers: Option<Vec<u8>>,
    pub(crate) is_cut: bool,
}

pub(crate) fn grpc(pieces: &[&[u8]]) -> GrpcAnswer {
    let mut decoder = GrpcDecoder::new();
    pieces.iter().for_each(|piece| decoder.feed(piece));
    GrpcAnswer {
        messages: decoder.messages(),
        compressed: decoder.compressed(),
        bytes: decoder.bytes(),
        longest: decoder.longest(),
        trailers: decoder.trailers().map(<[u8]>::to_vec),
        is_cut: decoder.is_cut(),
    }
}

pub(crate) fn grpc_reference(mut bytes: &[u8]) -> GrpcAnswer {
    let mut answer = GrpcAnswer::default();
    while let Some((head, rest)) = bytes.split_first_chunk::<5>() {
        let length = u64::from(u32::from_be_bytes([head[1], head[2], head[3], head[4]]));
        let came = rest.len().min(length as usize);
        answer.is_cut = (came as u64) < length;
        if head[0] & 0x80 != 0 {
            let trailers = answer.trailers.get_or_insert_default();
            trailers.extend_from_slice(&rest[..came]);
            trailers.truncate(8 * 1024);
        } else {
            answer.messages += u64::from(!answer.is_cut);
            answer.compressed += u64::from(head[0] & 1);
            answer.bytes += came as u64;
            answer.longest = answer.longest.max(length);
        }
        bytes = &rest[came..];
    }
    answer.is_cut |= !bytes.is_empty();
    answer
}

// === Meters ===

/// What a meter is told of an answer before its body.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
}

impl Head {
    pub(crate) fn new(path: &str, content_type: &str, coding: &str) -> Self {
        let header = |value: &str| HeaderValue::from_str(value).expect("a header");
        let headers = [("content-type", header(content_type)), ("content-encoding", header(coding))];
        Self {
            uri: path.parse().expect("a path"),
            headers: headers
                .map(|(name, value)| (HeaderName::from_static(name), value))
                .into_iter()
                .collect(),
        }
    }
}

/// What is found in a body, all but the times.
pub(crate) fn metered(meters: &MeterSet, head: &Head, pieces: &[&[u8]]) -> (LlmReport, Usage) {
    let head = ResponseHead::new(&Method::POST, &head.uri, StatusCode::OK, &head.headers);
    let mut metering = meters.open(&head).expect("a meter");
    for (number, piece) in pieces.iter().enumerate() {
        metering.feed(piece, Duration::from_millis(number as u64));
    }
    let (mut report, usage) = metering.end(true);
    report.time_to_first_event = None;
    report.time_to_first_text = None;
    report.time_to_first_reasoning = None;
    report.time_to_first_tool_call = None;
    report.longest_text_gap = None;
    (report, usage)
}
