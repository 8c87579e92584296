//! The builder of a report: a meter tells it what it sees, and it works out what follows.
//!
//! `builder` stands on `choices` (texts and finish reasons), `event_output` (what the current event amounts to) and
//! `text_policy`.

mod builder;
mod choices;
mod event_output;
mod text_policy;

pub use self::builder::ReportBuilder;
pub(crate) use self::event_output::{Interest, OutputKind};
pub use self::text_policy::TextPolicy;
