//! zstd ([RFC 8878](https://www.rfc-editor.org/rfc/rfc8878)).

use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::decoder::Decoder;

/// Windows of at most 8 MiB: those of the content coding
/// ([RFC 9659](https://www.rfc-editor.org/rfc/rfc9659)).
const WINDOW_LOG: u32 = 23;

/// What tells a frame from all else.
const MAGIC: usize = 4;

/// How much of a frame tells how long its header is.
const START: usize = 5;

/// Frames of zstd, one after the other.
pub(super) struct Zstd {
    context: DCtx<'static>,
    /// Whether a frame has ended. What is none after it is no error.
    is_later: bool,
    /// How much of the magic number of a later frame came.
    magic: usize,
    /// What the decoder needs for its next step: a header, or one block. It is given no more, for an error in the
    /// block after the next would cost it what it has not given out.
    wanted: usize,
    /// The output was filled: there may be more to give out.
    is_full: bool,
    is_over: bool,
}

impl Zstd {
    /// `None` if there is no memory for it.
    pub(super) fn new() -> Option<Self> {
        let mut context = DCtx::try_create()?;
        context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).ok()?;
        Some(Self { context, is_later: false, magic: 0, wanted: START, is_full: false, is_over: false })
    }

    /// Takes what it needs for its next step off the front of `input`, and returns how much came out.
    fn step(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, &'static str> {
        // A later frame's magic number is looked at alone, so that only what follows it can be an error.
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
        // It takes calls without anything to do for an error.
        if input.is_empty() { Ok(0) } else { self.step(input, output) }
    }

    fn is_over(&self) -> bool {
        self.is_over
    }

    fn held(&self) -> usize {
        self.context.sizeof()
    }
}
