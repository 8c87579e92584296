//! Meters on streams through the layer: what they change of a stream's ending, what the record says of them, and
//! that they never harm the stream.

mod content;
mod endings;
mod estimates;
mod faults;
mod limits;
mod lines;
mod race;
mod records;
mod requests;
mod stops;
mod untouched;
