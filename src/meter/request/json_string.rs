//! JSON strings, read chunk by chunk.

use memchr::memchr2;

/// The input is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads one JSON string after its opening quote, from bytes that are cut anywhere.
///
/// It keeps nothing of the string but the few bytes of an escape or a character that was cut.
#[derive(Debug, Default)]
pub(super) struct JsonString {
    state: EscapeState,
    /// The first half of a surrogate pair, which waits for the other.
    high: Option<u16>,
    /// A character that has not come whole.
    partial: [u8; 4],
    partial_len: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum EscapeState {
    #[default]
    Plain,
    Escape,
    Hex {
        digits: u8,
        unit: u16,
    },
}

// === impl JsonString ===

impl JsonString {
    /// Passes the text to `sink` in parts, as they come. Returns how many bytes the string took, closing quote
    /// included, or `None` if it goes on.
    ///
    /// Half a surrogate pair becomes a replacement character, as in servers that do not refuse it.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        sink: &mut impl FnMut(&str),
    ) -> Result<Option<usize>, Malformed> {
        let mut at = 0;
        while at < bytes.len() {
            match self.state {
                EscapeState::Plain => {
                    let rest = &bytes[at..];
                    let plain = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                    self.plain(&rest[..plain], sink)?;
                    at += plain + 1;
                    match rest.get(plain) {
                        None => return Ok(None),
                        Some(_) if self.partial_len > 0 => return Err(Malformed),
                        Some(b'"') => {
                            self.lone(sink);
                            return Ok(Some(at));
                        }
                        Some(_) => self.state = EscapeState::Escape,
                    }
                }
                EscapeState::Escape => {
                    self.escape(bytes[at], sink)?;
                    at += 1;
                }
                EscapeState::Hex { digits, unit } => {
                    self.hex(digits, unit, bytes[at], sink)?;
                    at += 1;
                }
            }
        }
        Ok(None)
    }

    /// Skips the string, whatever it holds. Returns what [`read`](Self::read) does.
    pub(super) fn skip(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.state == EscapeState::Escape {
                self.state = EscapeState::Plain;
                at += 1;
                continue;
            }
            at += memchr2(b'"', b'\\', &bytes[at..])? + 1;
            if bytes[at - 1] == b'"' {
                return Some(at);
            }
            self.state = EscapeState::Escape;
        }
        None
    }

    fn plain(&mut self, mut bytes: &[u8], sink: &mut impl FnMut(&str)) -> Result<(), Malformed> {
        if !bytes.is_empty() {
            self.lone(sink);
        }
        while self.partial_len > 0 && !bytes.is_empty() {
            self.partial[self.partial_len] = bytes[0];
            self.partial_len += 1;
            bytes = &bytes[1..];
            match str::from_utf8(&self.partial[..self.partial_len]) {
                Ok(char) => {
                    sink(char);
                    self.partial_len = 0;
                }
                Err(error) if error.error_len().is_some() => return Err(Malformed),
                Err(_) => {}
            }
        }
        let (text, rest, is_valid_so_far) = match str::from_utf8(bytes) {
            Ok(text) => (text, &[][..], true),
            Err(error) => {
                let (text, rest) = bytes.split_at(error.valid_up_to());
                (str::from_utf8(text).map_err(|_| Malformed)?, rest, error.error_len().is_none())
            }
        };
        if !text.is_empty() {
            sink(text);
        }
        if !is_valid_so_far {
            return Err(Malformed);
        }
        if !rest.is_empty() {
            self.partial[..rest.len()].copy_from_slice(rest);
            self.partial_len = rest.len();
        }
        Ok(())
    }

    fn escape(&mut self, byte: u8, sink: &mut impl FnMut(&str)) -> Result<(), Malformed> {
        let text = match byte {
            b'"' => "\"",
            b'\\' => "\\",
            b'/' => "/",
            b'b' => "\u{8}",
            b'f' => "\u{c}",
            b'n' => "\n",
            b'r' => "\r",
            b't' => "\t",
            b'u' => {
                self.state = EscapeState::Hex { digits: 0, unit: 0 };
                return Ok(());
            }
            _ => return Err(Malformed),
        };
        self.lone(sink);
        sink(text);
        self.state = EscapeState::Plain;
        Ok(())
    }

    fn hex(&mut self, digits: u8, unit: u16, byte: u8, sink: &mut impl FnMut(&str)) -> Result<(), Malformed> {
        let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
        let unit = unit << 4 | digit as u16;
        if digits < 3 {
            self.state = EscapeState::Hex { digits: digits + 1, unit };
            return Ok(());
        }
        self.state = EscapeState::Plain;
        let pair = self.high.and_then(|high| char::decode_utf16([high, unit]).next()?.ok());
        if let Some(char) = pair {
            self.high = None;
            sink(char.encode_utf8(&mut [0; 4]));
            return Ok(());
        }
        self.lone(sink);
        match unit {
            0xd800..0xdc00 => self.high = Some(unit),
            _ => {
                let char = char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER);
                sink(char.encode_utf8(&mut [0; 4]));
            }
        }
        Ok(())
    }

    /// Replaces a half pair whose other half did not come.
    fn lone(&mut self, sink: &mut impl FnMut(&str)) {
        if self.high.take().is_some() {
            sink("\u{fffd}");
        }
    }
}
