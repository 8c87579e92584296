//! What a JSON request asks for, read as it streams through.
//!
//! Clients send `messages` before `model`, with images of megabytes inside. The body is therefore never held: each
//! byte is looked at once, and what does not count is skipped.
//!
//! # What counts as prompt
//!
//! A string counts if it stands below one of the top-level members in `is_prompt`, and its key (that of the array, if
//! it stands in one) is listed in `is_text`. That holds for the text in all providers' requests, and for no image,
//! sound or identifier in them. Prompts that are sent as token numbers, and definitions of tools, are not counted.
//!
//! This is not a validator. If a body turns out not to be JSON, reading stops, and what was found stays.

mod bounded_string;
mod json_string;
mod prompt;
mod reader;
#[cfg(test)]
mod tests;

pub(crate) use self::reader::{RequestFacts, RequestReader};
