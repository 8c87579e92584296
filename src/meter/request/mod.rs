//! What a JSON request asks for, read while it streams through.
//!
//! Clients send `messages` before `model`, and images inside them by the megabyte, so the body is never held:
//! each byte is looked at once, and what does not count is passed over.
//!
//! # What counts as prompt
//!
//! A string counts if it stands below one of the top-level members in `is_prompt`, and the key that it stands
//! under, arrays aside, is one of those in `is_text`. That is true of the text in all providers' requests and
//! of no image, sound or identifier in them. Prompts that are sent as token numbers, and the definitions of
//! tools, are not counted.
//!
//! This is no validator. Where it shows that a body is not JSON, reading stops, and what was found stays.

mod bounded_string;
mod json_string;
mod prompt;
mod reader;
#[cfg(test)]
mod tests;

pub(crate) use self::reader::{RequestFacts, RequestReader};
