//! JSON values out of a body that is one: whole documents, and the elements of an array.

use memchr::memchr2;

use super::lines::append;

/// Cuts JSON into its top-level values, out of bytes that are cut anywhere; of a top-level array, into its
/// elements, one by one, as they become complete.
///
/// That is how Gemini streams where it is not asked for events: one array, whose elements arrive over time.
/// Objects and arrays are found by their brackets and strings; what stands in them is not looked at, and a
/// value that is not well-formed is found out by whoever parses it. Numbers, strings and names are no values
/// here: no protocol streams them. A value that lies inside one piece of input is borrowed from it.
///
/// ```
/// use streaming_accumulator::JsonDecoder;
///
/// let mut decoder = JsonDecoder::new();
/// let mut seen = Vec::new();
/// for mut piece in [&b"[{\"a\": \"]\\\""[..], b"}\"}\n,\r\n{}", b"]"] {
///     while let Some(value) = decoder.next(&mut piece) {
///         seen.push(String::from_utf8_lossy(value).into_owned());
///     }
/// }
/// assert_eq!(seen, [r#"{"a": "]\"}"}"#, "{}"]);
/// assert!(decoder.is_closed());
/// ```
#[derive(Debug)]
pub struct JsonDecoder {
    max: usize,
    buffer: Vec<u8>,
    /// The value in the buffer was given out.
    is_over: bool,
    /// Brackets that are open inside the value.
    depth: usize,
    string: StringState,
    top: TopLevel,
    is_overflown: bool,
}

/// Where in a string the input was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StringState {
    Nothing,
    String,
    /// Right behind a backslash.
    Escape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TopLevel {
    /// Nothing has come, or values have.
    Values,
    Array,
    /// The array's closing bracket has come.
    Closed,
}

// === impl JsonDecoder ===

impl JsonDecoder {
    /// A decoder for values of at most 1 MiB.
    pub fn new() -> Self {
        Self::with_max(1024 * 1024)
    }

    /// A decoder for values of at most `max` bytes.
    pub fn with_max(max: usize) -> Self {
        Self {
            max,
            buffer: Vec::new(),
            is_over: false,
            depth: 0,
            string: StringState::Nothing,
            top: TopLevel::Values,
            is_overflown: false,
        }
    }

    /// The next whole value of `input`, which moves on behind it.
    ///
    /// `None`: all of `input` is taken, and more is needed; or the decoder [is overflown](Self::is_overflown).
    pub fn next<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Option<&'a [u8]> {
        if self.is_over {
            self.buffer.clear();
            self.is_over = false;
        }
        if self.is_overflown {
            *input = &[];
            return None;
        }
        if self.depth == 0 {
            self.skip(input);
        }
        let end = self.value_end(input);
        let part = &input[..end.unwrap_or(input.len())];
        if part.len() > self.max.saturating_sub(self.buffer.len()) {
            self.is_overflown = true;
            self.buffer = Vec::new();
            *input = &[];
            return None;
        }
        *input = &input[part.len()..];
        if end.is_some() && self.buffer.is_empty() {
            return Some(part);
        }
        append(&mut self.buffer, part, self.max);
        self.is_over = end.is_some();
        self.is_over.then_some(&*self.buffer)
    }

    /// Whether the body is a top-level array.
    pub fn is_array(&self) -> bool {
        self.top != TopLevel::Values
    }

    /// Whether a top-level array has come to its closing bracket.
    pub fn is_closed(&self) -> bool {
        self.top == TopLevel::Closed
    }

    /// Whether a value was too long. Nothing that comes later is read.
    pub fn is_overflown(&self) -> bool {
        self.is_overflown
    }

    /// Bytes of heap that are held.
    pub fn buffered(&self) -> usize {
        self.buffer.capacity()
    }

    /// Moves on to the start of the next value. Strings between values are passed over as such: a bracket in
    /// them opens nothing.
    fn skip(&mut self, input: &mut &[u8]) {
        while let Some((first, rest)) = input.split_first() {
            match (self.string, first) {
                (StringState::Escape, _) => self.string = StringState::String,
                (StringState::String, b'\\') => self.string = StringState::Escape,
                (StringState::String, b'"') => self.string = StringState::Nothing,
                (StringState::String, _) => {}
                (StringState::Nothing, b'"') => self.string = StringState::String,
                (StringState::Nothing, b'[') if self.top == TopLevel::Values => self.top = TopLevel::Array,
                (StringState::Nothing, b'{' | b'[') => return,
                (StringState::Nothing, b']') if self.top == TopLevel::Array => self.top = TopLevel::Closed,
                (StringState::Nothing, _) => {}
            }
            *input = rest;
        }
    }

    /// Where the value ends, if it does so in `input`.
    fn value_end(&mut self, input: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(byte) = input.get(at) {
            match self.string {
                StringState::Escape => self.string = StringState::String,
                StringState::String => {
                    at += memchr2(b'"', b'\\', &input[at..])?;
                    self.string = if input[at] == b'"' { StringState::Nothing } else { StringState::Escape };
                }
                StringState::Nothing => match byte {
                    b'"' => self.string = StringState::String,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => {
                        self.depth = self.depth.saturating_sub(1);
                        if self.depth == 0 {
                            return Some(at + 1);
                        }
                    }
                    _ => {}
                },
            }
            at += 1;
        }
        None
    }
}

impl Default for JsonDecoder {
    fn default() -> Self {
        Self::new()
    }
}
