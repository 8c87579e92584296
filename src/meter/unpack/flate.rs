//! gzip ([RFC 1952](https://www.rfc-editor.org/rfc/rfc1952)) and deflate, in both of its readings.

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::Decode;

/// What a [`Decompress`] holds: a window of 32 KiB and the tables of its codes.
const INFLATER: usize = 48 * 1024;

const NOT_DEFLATE: &str = "the compressed data is broken";

/// Members of gzip, one after the other.
pub(super) struct Gzip {
    part: Part,
    inflater: Decompress,
    crc: Crc,
    /// Whether a member has ended. What is none after it is no error.
    is_later: bool,
}

enum Part {
    Header(Header),
    Body,
    /// So many bytes of the checksum and the length.
    Trailer([u8; 8], usize),
    Over,
}

/// A member's header, read byte by byte.
#[derive(Default)]
struct Header {
    /// Of fields that are still to come.
    flags: u8,
    field: Field,
}

enum Field {
    /// The ten bytes of every header; so many came.
    Fixed(usize),
    /// The length of the extra field, and its first byte if that came.
    ExtraLen(Option<u8>),
    Extra(u16),
    /// A name or a comment, up to a zero.
    Text,
    /// The header's checksum; so many bytes are still to come.
    Checksum(usize),
}

/// `deflate` is zlib's format by the standard, and raw deflate from some servers.
pub(super) enum Deflate {
    /// Before the two bytes that tell which, with the first if that came.
    Start(Option<u8>),
    Body(Decompress),
    Over,
}

// === impl Gzip ===

impl Gzip {
    pub(super) fn new() -> Self {
        Self {
            part: Part::Header(Header::default()),
            inflater: Decompress::new(false),
            crc: Crc::new(),
            is_later: false,
        }
    }

    fn header(&mut self, byte: u8) -> Result<(), &'static str> {
        let Part::Header(header) = &mut self.part else {
            return Ok(());
        };
        match header.read(byte) {
            Ok(false) => {}
            Ok(true) => self.part = Part::Body,
            Err(_) if self.is_later && header.is_magic() => self.part = Part::Over,
            Err(what) => return Err(what),
        }
        Ok(())
    }

    fn trailer(&mut self, byte: u8) -> Result<(), &'static str> {
        let Part::Trailer(bytes, len) = &mut self.part else {
            return Ok(());
        };
        bytes[*len] = byte;
        *len += 1;
        if *len < bytes.len() {
            return Ok(());
        }
        let [a, b, c, d, sizes @ ..] = *bytes;
        if u32::from_le_bytes([a, b, c, d]) != self.crc.sum() {
            return Err("the checksum does not match");
        }
        if u32::from_le_bytes(sizes) != self.crc.amount() {
            return Err("the length does not match");
        }
        self.crc.reset();
        self.inflater.reset(false);
        self.is_later = true;
        self.part = Part::Header(Header::default());
        Ok(())
    }
}

impl Decode for Gzip {
    fn unpack(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, &'static str> {
        loop {
            if let Part::Body = self.part {
                let (len, is_end) = inflate(&mut self.inflater, input, output)?;
                self.crc.update(&output[..len]);
                if is_end {
                    self.part = Part::Trailer([0; 8], 0);
                }
                if len > 0 || !is_end {
                    return Ok(len);
                }
            }
            let Some((byte, rest)) = input.split_first() else {
                return Ok(0);
            };
            *input = rest;
            match self.part {
                Part::Header(_) => self.header(*byte)?,
                Part::Trailer(..) => self.trailer(*byte)?,
                Part::Body | Part::Over => return Ok(0),
            }
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.part, Part::Over)
    }

    fn held(&self) -> usize {
        INFLATER
    }
}

// === impl Header ===

impl Header {
    /// Reads a byte. True if it was the last one.
    fn read(&mut self, byte: u8) -> Result<bool, &'static str> {
        match &mut self.field {
            Field::Fixed(at) => {
                match (*at, byte) {
                    (0, 0x1f) | (1, 0x8b) | (2, 8) => {}
                    (0 | 1, _) => return Err("it does not begin as gzip"),
                    (2, _) => return Err("the method is not deflate"),
                    (3, 0x20..) => return Err("the header has reserved flags"),
                    (3, flags) => self.flags = flags,
                    _ => {}
                }
                *at += 1;
                Ok(*at == 10 && self.next_field())
            }
            Field::ExtraLen(low @ None) => {
                *low = Some(byte);
                Ok(false)
            }
            Field::ExtraLen(Some(low)) => match u16::from_le_bytes([*low, byte]) {
                0 => Ok(self.next_field()),
                len => {
                    self.field = Field::Extra(len);
                    Ok(false)
                }
            },
            Field::Extra(left) => {
                *left -= 1;
                Ok(*left == 0 && self.next_field())
            }
            Field::Text => Ok(byte == 0 && self.next_field()),
            Field::Checksum(left) => {
                *left -= 1;
                Ok(*left == 0 && self.next_field())
            }
        }
    }

    /// Goes on to the next field that the flags announce. True if there is none.
    fn next_field(&mut self) -> bool {
        const CHECKSUM: u8 = 1 << 1;
        const EXTRA: u8 = 1 << 2;
        const NAME: u8 = 1 << 3;
        const COMMENT: u8 = 1 << 4;
        let fields = [
            (EXTRA, Field::ExtraLen(None)),
            (NAME, Field::Text),
            (COMMENT, Field::Text),
            (CHECKSUM, Field::Checksum(2)),
        ];
        let Some((flag, field)) = fields.into_iter().find(|(flag, _)| self.flags & flag != 0) else {
            return true;
        };
        self.flags &= !flag;
        self.field = field;
        false
    }

    /// Whether it is still in the bytes that tell gzip from all else.
    fn is_magic(&self) -> bool {
        matches!(self.field, Field::Fixed(0..3))
    }
}

impl Default for Field {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

// === impl Deflate ===

impl Deflate {
    pub(super) fn new() -> Self {
        Self::Start(None)
    }
}

impl Decode for Deflate {
    fn unpack(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, &'static str> {
        let mut len = 0;
        if let Self::Start(first) = self {
            let Some((byte, rest)) = input.split_first() else {
                return Ok(0);
            };
            let Some(first) = *first else {
                *self = Self::Start(Some(*byte));
                *input = rest;
                return Ok(0);
            };
            let mut inflater = Decompress::new(is_zlib(first, *byte));
            (len, _) = inflate(&mut inflater, &mut &[first][..], output)?;
            *self = Self::Body(inflater);
        }
        if let Self::Body(inflater) = self {
            let (more, is_end) = inflate(inflater, input, &mut output[len..])?;
            len += more;
            if is_end {
                *self = Self::Over;
            }
        }
        Ok(len)
    }

    fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    fn held(&self) -> usize {
        if let Self::Body(_) = self { INFLATER } else { 0 }
    }
}

/// Whether two bytes begin zlib's format ([RFC 1950](https://www.rfc-editor.org/rfc/rfc1950), section 2.2).
///
/// Raw deflate that begins so would be a stored block with padding that is not zero, and nobody writes that.
fn is_zlib(first: u8, second: u8) -> bool {
    first & 0x0f == 8 && first >> 4 <= 7 && u16::from_be_bytes([first, second]).is_multiple_of(31)
}

/// Unpacks from the front of `input`. Returns how much came out, and whether that is the end. An error behind
/// something that came out is told by the next call.
fn inflate(
    inflater: &mut Decompress,
    input: &mut &[u8],
    output: &mut [u8],
) -> Result<(usize, bool), &'static str> {
    let (read, written) = (inflater.total_in(), inflater.total_out());
    let status = inflater.decompress(input, output, FlushDecompress::None);
    *input = &input[(inflater.total_in() - read) as usize..];
    let len = (inflater.total_out() - written) as usize;
    match status {
        Err(_) if len == 0 => Err(NOT_DEFLATE),
        status => Ok((len, status.is_ok_and(|status| status == Status::StreamEnd))),
    }
}
