//! zstd ([RFC 8878](https://www.rfc-editor.org/rfc/rfc8878)).

use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::Decode;

/// Windows of at most 8 MiB: those of the content coding
/// ([RFC 9659](https://www.rfc-editor.org/rfc/rfc9659)).
const WINDOW_LOG: u32 = 23;

/// What tells a frame from all else.
const MAGIC: usize = 4;

/// Frames of zstd, one after the other.
pub(super) struct Zstd {
    context: DCtx<'static>,
    /// Whether a frame has ended. What is none after it is no error.
    is_later: bool,
    /// How much of the magic number of a later frame came.
    magic: usize,
    is_over: bool,
}

impl Zstd {
    /// `None` if there is no memory for it.
    pub(super) fn new() -> Option<Self> {
        let mut context = DCtx::try_create()?;
        context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).ok()?;
        Some(Self { context, is_later: false, magic: 0, is_over: false })
    }
}

impl Decode for Zstd {
    fn unpack(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, &'static str> {
        // A later frame's magic number is looked at alone, so that only what follows it can be an error.
        let in_magic = self.is_later && self.magic < MAGIC;
        let end = if in_magic { input.len().min(MAGIC - self.magic) } else { input.len() };
        let mut from = InBuffer::around(&input[..end]);
        let mut to = OutBuffer::around(output);
        match self.context.decompress_stream(&mut to, &mut from) {
            Ok(0) => (self.is_later, self.magic) = (true, 0),
            Ok(_) => self.magic += from.pos(),
            Err(_) if in_magic => {
                self.is_over = true;
                return Ok(0);
            }
            Err(code) => return Err(get_error_name(code)),
        }
        *input = &input[from.pos()..];
        Ok(to.pos())
    }

    fn is_over(&self) -> bool {
        self.is_over
    }

    fn held(&self) -> usize {
        self.context.sizeof()
    }
}
