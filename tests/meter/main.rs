//! The meters and their decoders, alone: no server, no clock.

mod fixtures;
mod suites;
mod support;
