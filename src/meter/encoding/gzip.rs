//! gzip ([RFC 1952](https://www.rfc-editor.org/rfc/rfc1952)).

use flate2::{Crc, Decompress};

use super::decoder::Decoder;
use super::inflate::{INFLATER, inflate};

/// Decompresses members of gzip, one after the other.
pub(super) struct Gzip {
    part: GzipPart,
    inflater: Decompress,
    crc: Crc,
    /// Whether a member has ended. After it, bytes that do not start a member are ignored.
    is_later: bool,
}

enum GzipPart {
    GzipHeader(GzipHeader),
    Body,
    /// The checksum and the length, and how many of their bytes have come.
    Trailer([u8; 8], usize),
    Over,
}

/// A member's header, read byte by byte.
#[derive(Default)]
struct GzipHeader {
    /// The flags of the fields that are still to come.
    flags: u8,
    field: GzipField,
}

enum GzipField {
    /// The ten bytes of every header; how many have come.
    Fixed(usize),
    /// The length of the extra field; its first byte, if that has come.
    ExtraLen(Option<u8>),
    Extra(u16),
    /// A name or a comment, which ends with a zero.
    Text,
    /// The header's checksum; how many bytes are still to come.
    Checksum(usize),
}

// === impl Gzip ===

impl Gzip {
    pub(super) fn new() -> Self {
        Self {
            part: GzipPart::GzipHeader(GzipHeader::default()),
            inflater: Decompress::new(false),
            crc: Crc::new(),
            is_later: false,
        }
    }

    fn header(&mut self, byte: u8) -> Result<(), &'static str> {
        let GzipPart::GzipHeader(header) = &mut self.part else {
            return Ok(());
        };
        match header.read(byte) {
            Ok(false) => {}
            Ok(true) => self.part = GzipPart::Body,
            Err(_) if self.is_later && header.is_magic() => self.part = GzipPart::Over,
            Err(what) => return Err(what),
        }
        Ok(())
    }

    fn trailer(&mut self, byte: u8) -> Result<(), &'static str> {
        let GzipPart::Trailer(bytes, len) = &mut self.part else {
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
        self.part = GzipPart::GzipHeader(GzipHeader::default());
        Ok(())
    }
}

impl Decoder for Gzip {
    fn decompress(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, &'static str> {
        loop {
            if let GzipPart::Body = self.part {
                let (len, is_end) = inflate(&mut self.inflater, input, output)?;
                self.crc.update(&output[..len]);
                if is_end {
                    self.part = GzipPart::Trailer([0; 8], 0);
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
                GzipPart::GzipHeader(_) => self.header(*byte)?,
                GzipPart::Trailer(..) => self.trailer(*byte)?,
                GzipPart::Body | GzipPart::Over => return Ok(0),
            }
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.part, GzipPart::Over)
    }

    fn held(&self) -> usize {
        INFLATER
    }
}

// === impl GzipHeader ===

impl GzipHeader {
    /// Reads a byte; true if it was the header's last one.
    fn read(&mut self, byte: u8) -> Result<bool, &'static str> {
        match &mut self.field {
            GzipField::Fixed(at) => {
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
            GzipField::ExtraLen(low @ None) => {
                *low = Some(byte);
                Ok(false)
            }
            GzipField::ExtraLen(Some(low)) => match u16::from_le_bytes([*low, byte]) {
                0 => Ok(self.next_field()),
                len => {
                    self.field = GzipField::Extra(len);
                    Ok(false)
                }
            },
            GzipField::Extra(left) => {
                *left -= 1;
                Ok(*left == 0 && self.next_field())
            }
            GzipField::Text => Ok(byte == 0 && self.next_field()),
            GzipField::Checksum(left) => {
                *left -= 1;
                Ok(*left == 0 && self.next_field())
            }
        }
    }

    /// Moves on to the next field that the flags announce; true if there is none.
    fn next_field(&mut self) -> bool {
        const CHECKSUM: u8 = 1 << 1;
        const EXTRA: u8 = 1 << 2;
        const NAME: u8 = 1 << 3;
        const COMMENT: u8 = 1 << 4;
        let fields = [
            (EXTRA, GzipField::ExtraLen(None)),
            (NAME, GzipField::Text),
            (COMMENT, GzipField::Text),
            (CHECKSUM, GzipField::Checksum(2)),
        ];
        let Some((flag, field)) = fields.into_iter().find(|(flag, _)| self.flags & flag != 0) else {
            return true;
        };
        self.flags &= !flag;
        self.field = field;
        false
    }

    /// Whether the header is still in the bytes that identify gzip.
    fn is_magic(&self) -> bool {
        matches!(self.field, GzipField::Fixed(0..3))
    }
}

impl Default for GzipField {
    fn default() -> Self {
        Self::Fixed(0)
    }
}
