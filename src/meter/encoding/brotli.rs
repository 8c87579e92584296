//! br ([RFC 7932](https://www.rfc-editor.org/rfc/rfc7932)).

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, SliceWrapper, StandardAlloc};

use super::decoder::Decoder;

/// What the decoder holds beside its window: its own state, and the tables of the current block.
const TABLES: usize = 64 * 1024;

pub(super) struct Brotli {
    state: Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>,
    is_over: bool,
}

impl Brotli {
    pub(super) fn new() -> Self {
        let alloc = StandardAlloc::default;
        // Strict: `br` has no windows of more than 16 MiB.
        let state = BrotliState::new_strict(alloc(), alloc(), alloc());
        Self { state: Box::new(state), is_over: false }
    }
}

impl Decoder for Brotli {
    fn decompress(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, &'static str> {
        let (mut read, mut unread) = (0, input.len());
        let (mut written, mut room) = (0, output.len());
        let result = BrotliDecompressStream(
            &mut unread,
            &mut read,
            input,
            &mut room,
            &mut written,
            output,
            &mut 0,
            &mut self.state,
        );
        *input = &input[read..];
        match result {
            BrotliResult::ResultFailure => return Err("the compressed data is broken"),
            BrotliResult::ResultSuccess => self.is_over = true,
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
        }
        Ok(written)
    }

    fn is_over(&self) -> bool {
        self.is_over
    }

    fn held(&self) -> usize {
        self.state.ringbuffer.slice().len() + TABLES
    }
}
