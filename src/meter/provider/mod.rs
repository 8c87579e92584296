//! Providers: one file for each protocol, and what they share.
//!
//! A provider is given whole events, without their framing, and reports what they hold to a report builder. It first
//! checks whether an event can matter (`key_filter`), and parses only those that can, leniently.

mod anthropic;
mod bedrock;
mod bedrock_invoke;
mod cohere;
mod counts;
mod error;
mod gemini;
mod key_filter;
mod ollama;
mod openai_chat;
mod openai_delta;
mod openai_responses;
mod provider_trait;
mod registry;
mod tool_call;

pub(crate) use self::error::{in_band_error, is_error, unmistakable_error};
pub(crate) use self::provider_trait::Provider;
pub(crate) use self::registry::provider_for;
