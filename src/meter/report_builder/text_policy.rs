//! What a meter does with texts.

/// What a meter does with the texts of a stream.
///
/// To look at text, a meter parses the JSON of nearly every event. Without it, substring searches settle most
/// events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextPolicy {
    /// Ignores texts after the first one.
    Skip,
    /// Counts texts and keeps none.
    Count,
    /// Counts texts and keeps at most this many bytes of them.
    Keep(usize),
}
