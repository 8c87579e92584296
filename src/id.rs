//! The name of one stream.

use std::cell::RefCell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::{Builder, Uuid};

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

thread_local! {
    /// `RandomState` has its keys from the operating system.
    static RANDOM: RefCell<fastrand::Rng> =
        RefCell::new(fastrand::Rng::with_seed(RandomState::new().hash_one(std::thread::current().id())));
}

// === impl StreamId ===

impl StreamId {
    /// Makes an id that no other stream has.
    #[expect(clippy::new_without_default, reason = "a default that differs each time would surprise")]
    pub fn new() -> Self {
        Self::at(SystemTime::now())
    }

    /// An id of a stream that opens `now`.
    ///
    /// The 74 random bits come from a generator that the operating system seeds for each thread. They make ids unique;
    /// they do not make them secret.
    pub(crate) fn at(now: SystemTime) -> Self {
        let millis = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let mut random = [0; 10];
        RANDOM.with_borrow_mut(|generator| generator.fill(&mut random));
        Self(Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    #[test]
    fn ids_are_unique_across_threads() {
        let now = SystemTime::now();
        let make = move || (0..10_000).map(|_| StreamId::at(now)).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(make)).collect();
        let ids: HashSet<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ids.len(), 40_000);
    }

    #[test]
    fn ids_are_of_version_7_and_sort_by_time() {
        let (first, second) = (StreamId::at(UNIX_EPOCH), StreamId::at(UNIX_EPOCH + Duration::from_millis(1)));
        assert!(first < second);
        assert_eq!((first.0.get_version_num(), &second.as_bytes()[..6]), (7, &[0, 0, 0, 0, 0, 1][..]));
    }
}
