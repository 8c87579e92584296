//! What a JSON request asks for, read while it streams through.

/// Reads a request's JSON body as it goes by: its model, whether it asks for a stream, its prompt.
#[derive(Debug)]
pub(crate) struct RequestReader {
    _max: usize,
}

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestFacts {
    pub(crate) model: Option<Box<str>>,
    pub(crate) stream: Option<bool>,
    /// The prompt's text, as far as it was to be kept.
    pub(crate) prompt: Box<str>,
    /// The length of the whole prompt's text, in Unicode scalar values.
    pub(crate) prompt_len: u64,
}

impl RequestReader {
    /// Keeps at most `max` bytes of the request.
    pub(crate) fn new(max: usize) -> Self {
        Self { _max: max }
    }

    /// Reads the next bytes of the body, cut anywhere.
    pub(crate) fn feed(&mut self, _bytes: &[u8]) {}

    /// Bytes that it holds.
    pub(crate) fn held(&self) -> usize {
        0
    }

    /// What was found so far.
    pub(crate) fn facts(&self) -> RequestFacts {
        RequestFacts::default()
    }
}
