//! Server-sent events, by the rules of the
//! [WHATWG](https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation).

use std::str;

use memchr::memchr2;

use super::lines::{Line, LineEnding, LineSplitter, append};
use super::sse_event::{SseEvent, SseField};

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Reads server-sent events out of bytes that are cut anywhere.
///
/// It does no IO and has no clock: it is fed, and yields the events as they become complete. An event that lies
/// inside one piece of input is borrowed from it; only what straddles a cut is copied. Lines, and the data of
/// one event, are bounded.
///
/// All rules of the standard hold: lines end in LF, CR LF or CR, also when they are cut between the two; one BOM
/// at the very start is dropped; comments, unknown fields, and events without data are not dispatched; of the
/// value one leading space is dropped; data lines are joined by LF; the last event id stays until it is changed.
/// Bytes that are no UTF-8 are no error: [`data_str`](SseEvent::data_str) shows them as U+FFFD.
///
/// ```
/// use streaming_accumulator::SseDecoder;
///
/// let mut decoder = SseDecoder::new();
/// let mut seen = Vec::new();
/// for mut piece in [&b"event: greeting\ndata: hel"[..], b"lo\r", b"\n\r\n: a comment\n\ndata: [DONE]\n\n"] {
///     while let Some(event) = decoder.next(&mut piece) {
///         seen.push(format!("{}={}", event.name(), event.data_str()));
///     }
/// }
/// assert_eq!(seen, ["greeting=hello", "message=[DONE]"]);
/// assert!(!decoder.is_overflown());
/// ```
#[derive(Debug)]
pub struct SseDecoder {
    lines: LineSplitter,
    /// Bytes of a BOM that have come; 4 when the start is over.
    bom: usize,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The event in the buffers was dispatched.
    is_over: bool,
    id: Vec<u8>,
    /// It is not yet the last event's.
    has_new_id: bool,
    last_id: Vec<u8>,
    retry: Option<u64>,
}

/// What a decoder meets.
pub(crate) enum SseItem<'a> {
    Event(SseEvent<'a>),
    /// A line that is no field of the standard: readers skip it, and some servers put their errors there.
    Stray(&'a [u8]),
}

/// What of the current event lies in the input.
#[derive(Default)]
struct BorrowedFields<'a> {
    name: Option<&'a [u8]>,
    data: Option<&'a [u8]>,
}

/// What a line was.
#[derive(PartialEq)]
enum LineEffect {
    Next,
    /// The event is complete.
    Dispatch,
    Stray,
}

// === impl SseDecoder ===

impl SseDecoder {
    /// A decoder whose lines and events have at most 1 MiB.
    pub fn new() -> Self {
        Self::with_max(1024 * 1024)
    }

    /// A decoder whose lines, and whose events' data, have at most `max` bytes.
    pub fn with_max(max: usize) -> Self {
        Self {
            lines: LineSplitter::new(LineEnding::FeedOrReturn, max),
            bom: 0,
            name: Vec::new(),
            data: Vec::new(),
            has_data: false,
            is_over: false,
            id: Vec::new(),
            has_new_id: false,
            last_id: Vec::new(),
            retry: None,
        }
    }

    /// The next event that is complete, out of `input`, which moves on behind it.
    ///
    /// `None`: all of `input` is taken, and more is needed; or the decoder [is overflown](Self::is_overflown).
    pub fn next<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Option<SseEvent<'a>> {
        self.begin();
        if let Some((name, data)) = self.take_simple(input) {
            return Some(SseEvent { name, data, id: &self.last_id });
        }
        let mut borrowed = BorrowedFields::default();
        loop {
            if self.step(input, &mut borrowed)?.0 == LineEffect::Dispatch {
                return Some(self.dispatch(borrowed));
            }
        }
    }

    /// As [`next`](Self::next), with the lines that are no fields.
    #[inline]
    pub(crate) fn next_item<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Option<SseItem<'a>> {
        self.begin();
        if let Some((name, data)) = self.take_simple(input) {
            return Some(SseItem::Event(SseEvent { name, data, id: &self.last_id }));
        }
        let mut borrowed = BorrowedFields::default();
        loop {
            match self.step(input, &mut borrowed)? {
                (LineEffect::Next, _) => {}
                (LineEffect::Dispatch, _) => return Some(SseItem::Event(self.dispatch(borrowed))),
                (LineEffect::Stray, line) => {
                    self.keep(&mut borrowed);
                    return Some(SseItem::Stray(match line {
                        Line::Whole(line) => line,
                        Line::Joined => self.lines.joined(),
                    }));
                }
            }
        }
    }

    /// The event at the end of the stream that lacks its blank line. The standard discards it; whoever knows
    /// better, because its data is whole JSON, may take it. `None`, too, if the decoder
    /// [is overflown](Self::is_overflown): what came of the event is not all of it.
    pub fn finish(&mut self) -> Option<SseEvent<'_>> {
        self.begin();
        if self.is_overflown() {
            return None;
        }
        let rest = self.lines.rest().map(<[u8]>::to_vec);
        if let Some(rest) = rest {
            self.apply(SseField::of(&rest), &mut BorrowedFields::default());
            self.lines.clear();
        }
        set(&mut self.last_id, &self.id, self.lines.max());
        self.has_data.then(|| self.dispatch(BorrowedFields::default()))
    }

    /// Whether a line or an event was too long. Nothing that comes later is read.
    pub fn is_overflown(&self) -> bool {
        self.lines.is_overflown()
    }

    /// The reconnection time in milliseconds that the stream asked for last.
    pub fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// Bytes of heap that are held.
    pub fn buffered(&self) -> usize {
        let buffers = [&self.name, &self.data, &self.id, &self.last_id];
        self.lines.buffered() + buffers.iter().map(|buffer| buffer.capacity()).sum::<usize>()
    }

    /// Takes an event of the commonest form, if it stands whole at the start of `input`: one line of data, perhaps
    /// its name before it, and an empty line. It is what the lines would say, at a third of the price.
    #[inline]
    fn take_simple<'i>(&self, input: &mut &'i [u8]) -> Option<(&'i [u8], &'i [u8])> {
        let is_fresh =
            self.bom == BOM.len() && self.lines.is_idle() && self.name.is_empty() && !self.has_data;
        if !is_fresh || self.has_new_id {
            return None;
        }
        let (name, rest) = match input.strip_prefix(b"event: ") {
            Some(rest) => self.simple_line(rest)?,
            None => (&[][..], *input),
        };
        let (data, rest) = self.simple_line(rest.strip_prefix(b"data: ")?)?;
        *input = rest.strip_prefix(b"\n")?;
        Some((name, data))
    }

    /// A value up to its line feed, and what follows that.
    #[inline]
    fn simple_line<'i>(&self, bytes: &'i [u8]) -> Option<(&'i [u8], &'i [u8])> {
        // A field's name and its colon and space are part of the line.
        const FIELD: usize = b"event: ".len();
        let end = memchr2(b'\n', b'\r', bytes).filter(|end| end + FIELD <= self.lines.max())?;
        Some((&bytes[..end], bytes[end..].strip_prefix(b"\n")?))
    }

    /// Takes one line.
    #[inline]
    fn step<'a>(
        &mut self,
        input: &mut &'a [u8],
        borrowed: &mut BorrowedFields<'a>,
    ) -> Option<(LineEffect, Line<'a>)> {
        if self.bom < BOM.len() {
            self.skip_bom(input);
        }
        let Some(line) = self.lines.next(input) else {
            self.keep(borrowed);
            return None;
        };
        let step = match &line {
            Line::Whole(line) => self.borrow(SseField::of(line), borrowed),
            Line::Joined => {
                // Taken out, so that the event's buffers can be written; it costs nothing.
                let joined = self.lines.take_joined();
                let step = self.apply(SseField::of(&joined), borrowed);
                self.lines.put_joined(joined);
                step
            }
        };
        Some((step, line))
    }

    /// Forgets the event that was dispatched last.
    #[inline]
    fn begin(&mut self) {
        if self.is_over {
            self.is_over = false;
            self.reset();
        }
    }

    fn reset(&mut self) {
        self.name.clear();
        self.data.clear();
        self.has_data = false;
    }

    #[cold]
    fn skip_bom(&mut self, input: &mut &[u8]) {
        while let (Some(expected), Some((first, rest))) = (BOM.get(self.bom), input.split_first()) {
            if first != expected {
                // It was the start of a line after all.
                self.lines.begin_with(&BOM[..self.bom]);
                self.bom = BOM.len();
                return;
            }
            self.bom += 1;
            *input = rest;
        }
    }

    /// A field that lies in the input: what can stay there does.
    #[inline]
    fn borrow<'a>(&mut self, field: SseField<'a>, borrowed: &mut BorrowedFields<'a>) -> LineEffect {
        match field {
            SseField::Data(value) if borrowed.data.is_none() && !self.has_data => {
                borrowed.data = Some(value);
                LineEffect::Next
            }
            SseField::Event(value) => {
                borrowed.name = Some(value);
                LineEffect::Next
            }
            field => self.apply(field, borrowed),
        }
    }

    fn apply(&mut self, field: SseField<'_>, borrowed: &mut BorrowedFields<'_>) -> LineEffect {
        match field {
            SseField::End => return self.end(borrowed),
            SseField::Stray => return LineEffect::Stray,
            SseField::Comment => {}
            SseField::Data(value) => {
                self.keep(borrowed);
                self.add(value);
            }
            SseField::Event(value) => {
                borrowed.name = None;
                set(&mut self.name, value, self.lines.max());
            }
            SseField::Id(value) if !value.contains(&0) => {
                set(&mut self.id, value, self.lines.max());
                self.has_new_id = true;
            }
            SseField::Id(_) => {}
            SseField::Retry(value) => {
                let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                let text = str::from_utf8(value).ok().filter(|_| digits);
                self.retry = text.and_then(|text| text.parse().ok()).or(self.retry);
            }
        }
        LineEffect::Next
    }

    /// The input is at its end, or the event goes on beyond one line: what lies in it is copied.
    fn keep(&mut self, borrowed: &mut BorrowedFields<'_>) {
        if let Some(name) = borrowed.name.take() {
            set(&mut self.name, name, self.lines.max());
        }
        if let Some(data) = borrowed.data.take() {
            self.add(data);
        }
    }

    /// Adds a line of data.
    fn add(&mut self, value: &[u8]) {
        let separator = usize::from(self.has_data);
        if self.data.len() + separator + value.len() > self.lines.max() {
            self.lines.overflow();
            self.reset();
            return;
        }
        if self.has_data {
            append(&mut self.data, b"\n", self.lines.max());
        }
        append(&mut self.data, value, self.lines.max());
        self.has_data = true;
    }

    /// An empty line: the end of an event, if there is any data.
    #[inline]
    fn end(&mut self, borrowed: &mut BorrowedFields<'_>) -> LineEffect {
        if self.has_new_id {
            set(&mut self.last_id, &self.id, self.lines.max());
            self.has_new_id = false;
        }
        if self.has_data || borrowed.data.is_some() {
            return LineEffect::Dispatch;
        }
        borrowed.name = None;
        self.name.clear();
        LineEffect::Next
    }

    #[inline]
    fn dispatch<'a>(&'a mut self, borrowed: BorrowedFields<'a>) -> SseEvent<'a> {
        self.is_over = true;
        SseEvent {
            name: borrowed.name.unwrap_or(&self.name),
            data: borrowed.data.unwrap_or(&self.data),
            id: &self.last_id,
        }
    }
}

impl Default for SseDecoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Replaces what is in a buffer that is to hold at most `max` bytes.
fn set(buffer: &mut Vec<u8>, value: &[u8], max: usize) {
    buffer.clear();
    append(buffer, value, max);
}
