//! The framing of AWS event streams
//! ([`application/vnd.amazon.eventstream`](https://smithy.io/2.0/aws/amazon-eventstream.html)).
//!
//! ```text
//! u32 total length │ u32 headers length │ u32 CRC32 of these 8 bytes │ headers │ payload │ u32 CRC32 of all before
//! header: u8 name length │ name │ u8 type │ value            all integers big-endian
//! ```

use std::fmt;
use std::str;

use super::lines::append;

const PRELUDE: usize = 12;
const CHECKSUM: usize = 4;

/// Reads the messages of an AWS event stream from bytes that are cut anywhere, and verifies their checksums.
///
/// A message that lies within one chunk of input is borrowed from it.
///
/// # Errors
///
/// [`EventStreamError`], once. After it the next message cannot be found, and later bytes are ignored.
#[derive(Debug)]
pub struct EventStreamDecoder {
    max: usize,
    buffer: Vec<u8>,
    /// The message in the buffer was returned.
    is_over: bool,
    is_broken: bool,
}

/// One message of an event stream.
#[derive(Clone, Copy, Debug)]
pub struct EventStreamMessage<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
}

/// A header with its undecoded value.
struct RawHeader<'a> {
    name: &'a [u8],
    /// The type of the value.
    kind: u8,
    value: &'a [u8],
}

/// The value of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventStreamValue<'a> {
    /// Types 0 and 1.
    Bool(bool),
    /// Types 2 to 5: 8, 16, 32 or 64 bits.
    Integer(i64),
    /// Type 6.
    Bytes(&'a [u8]),
    /// Type 7.
    Text(&'a str),
    /// Type 8: milliseconds since the Unix epoch.
    Timestamp(i64),
    /// Type 9.
    Uuid([u8; 16]),
}

/// Why an event stream cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventStreamError {
    /// A checksum does not match.
    Checksum,
    /// A length contradicts the others.
    Length,
    /// The headers cannot be read, or a name appears twice.
    Headers,
    /// The message is longer than the decoder's limit.
    #[non_exhaustive]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
}

// === impl EventStreamDecoder ===

impl EventStreamDecoder {
    /// Makes a decoder for messages of at most 1 MiB. The format allows 24 MiB.
    pub fn new() -> Self {
        Self::with_max(1024 * 1024)
    }

    /// Makes a decoder for messages of at most `max` bytes.
    pub fn with_max(max: usize) -> Self {
        Self { max, buffer: Vec::new(), is_over: false, is_broken: false }
    }

    /// Returns the next whole message, and moves `input` on behind it. `None` if all of `input` is taken and more is
    /// needed, or the stream is broken.
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i [u8],
    ) -> Option<Result<EventStreamMessage<'a>, EventStreamError>> {
        if self.is_over {
            self.buffer.clear();
            self.is_over = false;
        }
        if self.is_broken {
            *input = &[];
            return None;
        }
        match self.take(input) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return Some(Err(self.broken(error, input))),
        }
        // The message is complete: in the buffer, or at the start of the input.
        let length = self.length(input);
        let message = if self.buffer.is_empty() {
            let (message, rest) = input.split_at(length);
            *input = rest;
            message
        } else {
            self.is_over = true;
            &*self.buffer
        };
        let read = read(message);
        // Not done by `broken`, which would borrow the buffer that `read` borrows.
        self.is_broken = read.is_err();
        Some(read)
    }

    /// Whether the bytes so far end inside a message.
    pub fn is_cut(&self) -> bool {
        !self.is_over && !self.buffer.is_empty()
    }

    /// The bytes of heap that the decoder holds.
    pub fn buffered(&self) -> usize {
        self.buffer.capacity()
    }

    /// Whether there is a whole message. If not, takes all of `input`.
    fn take(&mut self, input: &mut &[u8]) -> Result<bool, EventStreamError> {
        if !self.buffer.is_empty() || input.len() < PRELUDE {
            self.fill(input, PRELUDE);
            if self.buffer.len() < PRELUDE {
                return Ok(false);
            }
        }
        let prelude = if self.buffer.is_empty() { *input } else { &*self.buffer };
        check(prelude, self.max)?;
        let length = self.length(input);
        if self.buffer.is_empty() && input.len() >= length {
            return Ok(true);
        }
        self.fill(input, length);
        Ok(self.buffer.len() == length)
    }

    /// Moves bytes into the buffer until it holds `length`.
    fn fill(&mut self, input: &mut &[u8], length: usize) {
        let missing = length.saturating_sub(self.buffer.len()).min(input.len());
        let (part, rest) = input.split_at(missing);
        append(&mut self.buffer, part, length);
        *input = rest;
    }

    /// The message's length, as its prelude says.
    fn length(&self, input: &[u8]) -> usize {
        let message = if self.buffer.is_empty() { input } else { &*self.buffer };
        u32_at(message, 0) as usize
    }

    fn broken(&mut self, error: EventStreamError, input: &mut &[u8]) -> EventStreamError {
        self.is_broken = true;
        self.buffer = Vec::new();
        *input = &[];
        error
    }
}

impl Default for EventStreamDecoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Checks a prelude.
fn check(prelude: &[u8], max: usize) -> Result<(), EventStreamError> {
    if crc32fast::hash(&prelude[..8]) != u32_at(prelude, 8) {
        return Err(EventStreamError::Checksum);
    }
    let (total, headers) = (u32_at(prelude, 0) as usize, u32_at(prelude, 4) as usize);
    if total < PRELUDE + CHECKSUM || headers > total - PRELUDE - CHECKSUM {
        return Err(EventStreamError::Length);
    }
    if total > max { Err(EventStreamError::TooLong { limit: max }) } else { Ok(()) }
}

/// Reads a whole message whose prelude was checked.
fn read(message: &[u8]) -> Result<EventStreamMessage<'_>, EventStreamError> {
    let (body, _) = message.split_at(message.len() - CHECKSUM);
    if crc32fast::hash(body) != u32_at(message, body.len()) {
        return Err(EventStreamError::Checksum);
    }
    let (headers, payload) = body[PRELUDE..].split_at(u32_at(message, 4) as usize);
    let message = EventStreamMessage { headers, payload };
    message.check_headers().ok_or(EventStreamError::Headers)?;
    Ok(message)
}

/// The number at `at`; 0 beyond the end, which callers never reach.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_be_bytes)
}

// === impl EventStreamMessage ===

impl<'a> EventStreamMessage<'a> {
    /// The payload.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The headers, in the order in which they were sent.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, EventStreamValue<'a>)> + use<'a> {
        // They were checked when the message was read.
        self.raw_headers().filter_map(|header| Some((str::from_utf8(header.name).ok()?, header.read()?)))
    }

    /// The header of this name, if it holds text.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        let header = self.raw_headers().find(|header| header.name == name.as_bytes())?;
        match header.read() {
            Some(EventStreamValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn raw_headers(&self) -> impl Iterator<Item = RawHeader<'a>> + use<'a> {
        let mut rest = self.headers;
        std::iter::from_fn(move || RawHeader::take(&mut rest))
    }

    /// Whether all headers can be read and no name appears twice.
    fn check_headers(&self) -> Option<()> {
        let mut rest = self.headers;
        let mut number = 0;
        while !rest.is_empty() {
            let header = RawHeader::take(&mut rest)?;
            str::from_utf8(header.name).ok().and(header.read())?;
            // There are only a few headers: searching the earlier ones is cheaper than a set.
            if self.raw_headers().take(number).any(|other| other.name == header.name) {
                return None;
            }
            number += 1;
        }
        Some(())
    }
}

// === impl RawHeader ===

impl<'a> RawHeader<'a> {
    fn take(rest: &mut &'a [u8]) -> Option<Self> {
        let length = take(rest, 1)?.first().copied()?;
        let name = take(rest, usize::from(length))?;
        let kind = take(rest, 1)?.first().copied()?;
        let value = match kind {
            0 | 1 => take(rest, 0)?,
            2 => take(rest, 1)?,
            3 => take(rest, 2)?,
            4 => take(rest, 4)?,
            5 | 8 => take(rest, 8)?,
            6 | 7 => {
                let length: [u8; 2] = take(rest, 2)?.try_into().ok()?;
                take(rest, usize::from(u16::from_be_bytes(length)))?
            }
            9 => take(rest, 16)?,
            _ => return None,
        };
        Some(Self { name, kind, value })
    }

    fn read(&self) -> Option<EventStreamValue<'a>> {
        Some(match self.kind {
            0 => EventStreamValue::Bool(true),
            1 => EventStreamValue::Bool(false),
            2..=5 => EventStreamValue::Integer(signed(self.value)),
            6 => EventStreamValue::Bytes(self.value),
            7 => EventStreamValue::Text(str::from_utf8(self.value).ok()?),
            8 => EventStreamValue::Timestamp(signed(self.value)),
            _ => EventStreamValue::Uuid(self.value.try_into().ok()?),
        })
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

/// A big-endian integer in two's complement, of up to 8 bytes.
fn signed(bytes: &[u8]) -> i64 {
    let sign = if bytes.first().is_some_and(|first| first & 0x80 != 0) { -1 } else { 0 };
    bytes.iter().fold(sign, |value, byte| (value << 8) | i64::from(*byte))
}

// === impl EventStreamError ===

impl fmt::Display for EventStreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checksum => f.write_str("a checksum of the event stream does not match"),
            Self::Length => f.write_str("the lengths in an event stream's message contradict each other"),
            Self::Headers => f.write_str("the headers of an event stream's message cannot be read"),
            Self::TooLong { limit } => {
                write!(f, "a message of the event stream is longer than {limit} bytes")
            }
        }
    }
}

impl std::error::Error for EventStreamError {}
