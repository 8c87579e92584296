//! The meters and their decoders, alone: no server, no clock.

mod fixtures;
mod properties_found;
mod suites;
mod support;
