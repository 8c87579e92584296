//! The name of one stream.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The id of one stream: a UUID version 7 ([RFC 9562, section 5.7]), made when the stream opens.
///
/// It is the idempotency key of the stream's record: every retry, redelivery and fan-out of the
/// record carries the same id. Ids sort by the time at which their streams opened, to the
/// millisecond.
///
/// [RFC 9562, section 5.7]: https://www.rfc-editor.org/rfc/rfc9562#section-5.7
///
/// ```
/// use streaming_accumulator::StreamId;
///
/// let id = StreamId::new();
/// assert_eq!(id.to_string().parse::<StreamId>(), Ok(id));
/// assert!("not an id".parse::<StreamId>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct StreamId(Uuid);

/// The text was not a [`StreamId`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParseStreamIdError {
    text: Box<str>,
}

// === impl StreamId ===

impl StreamId {
    /// Makes an id that no other stream has.
    #[expect(clippy::new_without_default, reason = "a default that differs each time would surprise")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The 16 bytes of the id, most significant first.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({})", self.0)
    }
}

impl FromStr for StreamId {
    type Err = ParseStreamIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseStreamIdError { text: text.into() };
        Uuid::try_parse(text).map(Self).map_err(|_| error())
    }
}

// === impl ParseStreamIdError ===

impl fmt::Display for ParseStreamIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text } = self;
        write!(f, "{text:?} is not a stream id: expected a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057")
    }
}

impl std::error::Error for ParseStreamIdError {}
