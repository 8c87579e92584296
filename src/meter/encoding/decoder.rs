//! What the decoders of all codings have in common.

/// Decompresses one content coding.
pub(super) trait Decoder: Send {
    /// Decompresses from the front of `input`, and moves it on behind what was read. Returns how many bytes of
    /// `output` were filled: all of them, or as many as the input yields. Everything that came before an error is
    /// returned before the error, so that the result does not depend on where the input is cut. Only brotli's decoder
    /// returns nothing more once it has found an error.
    fn decompress(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, &'static str>;

    /// Whether the end was seen. What follows it is ignored, as clients do.
    fn is_over(&self) -> bool;

    /// The bytes that the decoder holds, window included.
    fn held(&self) -> usize;
}
