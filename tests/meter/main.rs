//! Meters: their decoders and protocols alone, without a server or a clock, and meters on streams that go through
//! the layer.

#[path = "../support/mod.rs"]
mod support;

mod properties;
mod properties_reference;
mod protocols;
mod recorded;
mod recordings;
mod streams;
mod suites;
