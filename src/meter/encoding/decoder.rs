//! What the decoders of all codings have in common.

/// Undoes one coding.
pub(super) trait Decoder: Send {
    /// Unpacks from the front of `input`, and takes off what it has read. Returns how much of `output` it has
    /// filled: all of it, or as much as can be made of the input. An error is told when all that came before it
    /// has been given out, so that it does not matter where the input is cut; only brotli's decoder lets go of
    /// nothing any more once it has found one.
    fn decompress(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, &'static str>;

    /// Whether the end was seen. What comes after it is ignored, as clients do.
    fn is_over(&self) -> bool;

    /// Bytes that it holds, window included.
    fn held(&self) -> usize;
}
