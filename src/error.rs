//! Errors of the whole crate: the boxed one, and that of a configuration.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A boxed error.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// A text that is none of the words that an `as_str` gives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParseWordError {
    what: &'static str,
    text: Box<str>,
}

/// The text of `error` and the texts of its causes, joined by `: `. Foreign code runs here.
pub(crate) fn text_of(error: &(dyn Error + 'static)) -> Box<str> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        // Many errors repeat their source in their own text already.
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text.into()
}

/// A value given to [`Builder`](crate::Builder) that cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A setting that must be at least one was zero.
    #[non_exhaustive]
    Zero {
        /// The name of the setter.
        setting: &'static str,
    },
    /// A retry policy whose first delay exceeds its longest one.
    #[non_exhaustive]
    RetryDelays {
        /// The delay before the first retry.
        initial: Duration,
        /// The longest delay.
        max: Duration,
    },
    /// A backpressure strategy whose first delay exceeds its longest one.
    #[non_exhaustive]
    BackpressureDelays {
        /// The delay of the first frame above the mark.
        initial: Duration,
        /// The longest delay.
        max: Duration,
    },
    /// A high-water mark that is no percentage from 1 to 100.
    #[non_exhaustive]
    HighWaterMark {
        /// The value given.
        percent: u8,
    },
    /// A multiplier of backpressure delays that is below 1 or no number.
    #[non_exhaustive]
    Multiplier {
        /// The value given, as text.
        value: Box<str>,
    },
    /// The directory for spilled content cannot be written to.
    #[non_exhaustive]
    SpillDirectory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        error: Box<str>,
    },
    /// More streams in flight than can be counted.
    #[non_exhaustive]
    MaxInFlight {
        /// The value given.
        value: usize,
        /// The largest value that works.
        max: usize,
    },
}

// === impl ParseWordError ===

impl ParseWordError {
    pub(crate) fn new(what: &'static str, text: &str) -> Self {
        Self { what, text: text.into() }
    }
}

impl fmt::Display for ParseWordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a word for {}", self.text, self.what)
    }
}

impl Error for ParseWordError {}

// === impl ConfigError ===

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero { setting } => write!(f, "`{setting}` is 0: it must be at least 1"),
            Self::RetryDelays { initial, max } => write!(
                f,
                "the first retry delay {initial:?} exceeds the longest one {max:?}: raise the longest or lower the first"
            ),
            Self::BackpressureDelays { initial, max } => write!(
                f,
                "the first backpressure delay {initial:?} exceeds the longest one {max:?}: raise the longest or lower the first"
            ),
            Self::HighWaterMark { percent } => {
                write!(f, "`high_water_mark` is {percent} %: it must be from 1 to 100")
            }
            Self::Multiplier { value } => {
                write!(f, "the multiplier of backpressure delays is {value}: it must be at least 1")
            }
            Self::SpillDirectory { path, error } => write!(
                f,
                "cannot spill to `{}`: {error}: name a directory that can be written to with `spill_directory`",
                path.display()
            ),
            Self::MaxInFlight { value, max } => {
                write!(f, "`max_in_flight` is {value}: it must be at most {max}")
            }
        }
    }
}

impl Error for ConfigError {}
