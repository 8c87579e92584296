//! zstd ([RFC 8878](https://www.rfc-editor.org/rfc/rfc8878)).

use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::decoder::Decoder;

/// Windows of at most 8 MiB: those of the content coding
/// ([RFC 9659](https://www.rfc-editor.org/rfc/rfc9659)).
const WINDOW_LOG: u32 = 23;

/// The length of the magic number that identifies a frame.
const MAGIC: usize = 4;

/// The start of a frame, which shows how long its header is.
const START: usize = 5;

/// Decompresses frames of zstd, one after the other.
pub(super) struct Zstd {
    context: DCtx<'static>,
    /// Whether a frame has ended. After it, bytes that do not start a frame are ignored.
    is_later: bool,
    /// How many bytes of a later frame's magic number have come.
    magic: usize,
    /// How many bytes the decoder needs for its next step: a header, or one block. It is given no more: an error in
    /// the block after that would discard output that it has not returned.
    wanted: usize,
    /// The output was filled, and more may follow.
    is_full: bool,
    is_over: bool,
}

impl Zstd {
    /// Makes a decoder; `None` if there is no memory for it.
    pub(super) fn new() -> Option<Self> {
        let mut context = DCtx::try_create()?;
        context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).ok()?;
        Some(Self { context, is_later: false, magic: 0, wanted: START, is_full: false, is_over: false })
    }

    /// Takes what the next step needs off the front of `input`, and returns how many bytes came out.
    fn step(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, &'static str> {
        // A later frame's magic number is read alone, so that only what follows it can be an error.
        let in_magic = self.is_later && self.magic < MAGIC;
        let wanted = if in_magic { MAGIC - self.magic } else { self.wanted };
        let mut from = InBuffer::around(&input[..input.len().min(wanted)]);
        let mut to = OutBuffer::around(output);
        match self.context.decompress_stream(&mut to, &mut from) {
            Ok(0) => (self.is_later, self.magic, self.wanted) = (true, 0, START),
            Ok(wanted) => {
                self.magic += from.pos();
                self.wanted = wanted;
            }
            Err(_) if in_magic => {
                self.is_over = true;
                return Ok(0);
            }
            Err(code) => return Err(get_error_name(code)),
        }
        *input = &input[from.pos()..];
        self.is_full = to.pos() == to.capacity();
        Ok(to.pos())
    }
}

impl Decoder for Zstd {
    fn decompress(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, &'static str> {
        if self.is_full {
            let rest = self.step(&mut &[][..], output)?;
            if rest > 0 {
                return Ok(rest);
            }
        }
        // The decoder treats a call without input as an error.
        if input.is_empty() { Ok(0) } else { self.step(input, output) }
    }

    fn is_over(&self) -> bool {
        self.is_over
    }

    fn held(&self) -> usize {
        self.context.sizeof()
    }
}
