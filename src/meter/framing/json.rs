//! The JSON values of a body: whole documents, and the elements of an array.

use memchr::memchr2;

use super::lines::append;

/// Cuts JSON into its top-level values. Of a top-level array, it yields the elements one by one, as they become
/// complete. The bytes may be cut anywhere.
///
/// Gemini streams one array, whose elements arrive over time, unless it is asked for events. The decoder finds
/// objects and arrays by their brackets and strings, and does not check what stands in them: parsing a value shows
/// whether it is well-formed. Numbers, strings and names are not values here, because no protocol streams them. A
/// value that lies within one chunk of input is borrowed from it.
///
/// ```
/// use streaming_accumulator::meter::JsonDecoder;
///
/// let mut decoder = JsonDecoder::new();
/// let mut seen = Vec::new();
/// for mut chunk in [&b"[{\"a\": \"]\\\""[..], b"}\"}\n,\r\n{}", b"]"] {
///     while let Some(value) = decoder.next(&mut chunk) {
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
    /// The value in the buffer was returned.
    is_over: bool,
    /// Brackets that are open inside the value.
    depth: usize,
    string: StringState,
    top: TopLevel,
    has_overflowed: bool,
}

/// Where the input was cut, as far as strings matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StringState {
    Nothing,
    String,
    /// Right after a backslash.
    Escape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TopLevel {
    /// No array: nothing has come, or bare values have.
    Values,
    Array,
    /// The array's closing bracket has come.
    Closed,
}

// === impl JsonDecoder ===

impl JsonDecoder {
    /// Makes a decoder for values of at most 1 MiB.
    pub fn new() -> Self {
        Self::with_max(1024 * 1024)
    }

    /// Makes a decoder for values of at most `max` bytes.
    pub fn with_max(max: usize) -> Self {
        Self {
            max,
            buffer: Vec::new(),
            is_over: false,
            depth: 0,
            string: StringState::Nothing,
            top: TopLevel::Values,
            has_overflowed: false,
        }
    }

    /// Returns the next whole value, and moves `input` on behind it.
    ///
    /// `None` if all of `input` is taken and more is needed, or the decoder [has overflowed](Self::has_overflowed).
    pub fn next<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Option<&'a [u8]> {
        if self.is_over {
            self.buffer.clear();
            self.is_over = false;
        }
        if self.has_overflowed {
            *input = &[];
            return None;
        }
        if self.depth == 0 {
            self.skip(input);
        }
        let end = self.value_end(input);
        let part = &input[..end.unwrap_or(input.len())];
        if part.len() > self.max.saturating_sub(self.buffer.len()) {
            self.has_overflowed = true;
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

    /// Whether the closing bracket of a top-level array has come.
    pub fn is_closed(&self) -> bool {
        self.top == TopLevel::Closed
    }

    /// Whether a value was too long. Later bytes are ignored.
    pub fn has_overflowed(&self) -> bool {
        self.has_overflowed
    }

    /// The bytes of heap that the decoder holds.
    pub fn buffered(&self) -> usize {
        self.buffer.capacity()
    }

    /// Moves on to the start of the next value. A bracket inside a string between values opens nothing.
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

    /// The end of the value, if it lies in `input`.
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
