//! Server-sent events, by the rules of the
//! [WHATWG](https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation).

use std::str;

use memchr::memchr2;

use super::lines::{Line, LineEnding, LineSplitter, append};
use super::sse_event::{SseEvent, SseField};

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Reads server-sent events from bytes that are cut anywhere.
///
/// It does no IO and has no clock: it is fed, and yields events as they become complete. An event that lies within
/// one chunk of input is borrowed from it; only what crosses a cut is copied. Lines, and the data of one event, are
/// bounded.
///
/// It follows all rules of the standard. Lines end in LF, CR LF or CR, even if cut between the two. One BOM at the
/// very start is dropped. Comments, unknown fields and events without data are not dispatched. One leading space of a
/// value is dropped. Data lines are joined by LF. The last event id stays until it changes. Invalid UTF-8 is not an
/// error: [`data_str`](SseEvent::data_str) shows it as U+FFFD.
///
/// ```
/// use streaming_accumulator::meter::SseDecoder;
///
/// let mut decoder = SseDecoder::new();
/// let mut seen = Vec::new();
/// for mut chunk in [&b"event: greeting\ndata: hel"[..], b"lo\r", b"\n\r\n: a comment\n\ndata: [DONE]\n\n"] {
///     while let Some(event) = decoder.next(&mut chunk) {
///         seen.push(format!("{}={}", event.name(), event.data_str()));
///     }
/// }
/// assert_eq!(seen, ["greeting=hello", "message=[DONE]"]);
/// assert!(!decoder.has_overflowed());
/// ```
#[derive(Debug)]
pub struct SseDecoder {
    lines: LineSplitter,
    /// How many bytes of a BOM have come; 4 once the start is over.
    bom: usize,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The event in the buffers was dispatched.
    is_over: bool,
    id: Vec<u8>,
    /// The id is not yet the last event's.
    has_new_id: bool,
    last_id: Vec<u8>,
    retry: Option<u64>,
}

/// An event, or a line beside events.
pub(crate) enum SseItem<'a> {
    Event(SseEvent<'a>),
    /// A line that is not a field of the standard. Readers skip it, and some servers put errors there.
    Stray(&'a [u8]),
}

/// The parts of the current event that lie in the input.
#[derive(Default)]
struct BorrowedFields<'a> {
    name: Option<&'a [u8]>,
    data: Option<&'a [u8]>,
}

/// What follows from a line.
#[derive(PartialEq)]
enum LineEffect {
    Next,
    /// The event is complete.
    Dispatch,
    Stray,
}

// === impl SseDecoder ===

impl SseDecoder {
    /// Makes a decoder whose lines and events have at most 1 MiB.
    pub fn new() -> Self {
        Self::with_max(1024 * 1024)
    }

    /// Makes a decoder whose lines, and whose events' data, have at most `max` bytes.
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

    /// Returns the next complete event, and moves `input` on behind it.
    ///
    /// `None` if all of `input` is taken and more is needed, or the decoder [has overflowed](Self::has_overflowed).
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

    /// As [`next`](Self::next), but also returns lines that are not fields.
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

    /// Returns the event at the end of the stream, if it lacks its blank line. The standard discards it; a caller may
    /// take it, for example because its data is whole JSON. `None` also if the decoder [has
    /// overflowed](Self::has_overflowed), because the event is not complete.
    pub fn finish(&mut self) -> Option<SseEvent<'_>> {
        self.begin();
        if self.has_overflowed() {
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

    /// Whether a line or an event was too long. Later bytes are ignored.
    pub fn has_overflowed(&self) -> bool {
        self.lines.has_overflowed()
    }

    /// The last reconnection time that the stream asked for, in milliseconds.
    pub fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// The bytes of heap that the decoder holds.
    pub fn buffered(&self) -> usize {
        let buffers = [&self.name, &self.data, &self.id, &self.last_id];
        self.lines.buffered() + buffers.iter().map(|buffer| buffer.capacity()).sum::<usize>()
    }

    /// Takes an event of the commonest form, if all of it stands at the start of `input`: perhaps a name, one line of
    /// data, and an empty line. The result is that of reading line by line, at a third of the cost.
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

    /// Returns a value up to its line feed, and what follows.
    #[inline]
    fn simple_line<'i>(&self, bytes: &'i [u8]) -> Option<(&'i [u8], &'i [u8])> {
        // A line includes its field's name, colon and space.
        const FIELD: usize = b"event: ".len();
        let end = memchr2(b'\n', b'\r', bytes).filter(|end| end + FIELD <= self.lines.max())?;
        Some((&bytes[..end], bytes[end..].strip_prefix(b"\n")?))
    }

    /// Reads one line.
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
                // Taken out so that the event's buffers can be written. This costs nothing.
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
                // These bytes are the start of a line and not a BOM.
                self.lines.begin_with(&BOM[..self.bom]);
                self.bom = BOM.len();
                return;
            }
            self.bom += 1;
            *input = rest;
        }
    }

    /// Reads a field that lies in the input, without copying it where possible.
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

    /// Copies what lies in the input: the input ends, or the event has more than one line.
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

    /// Ends an event, if there is any data.
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

/// Replaces the content of a buffer that holds at most `max` bytes.
fn set(buffer: &mut Vec<u8>, value: &[u8], max: usize) {
    buffer.clear();
    append(buffer, value, max);
}
