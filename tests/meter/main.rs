//! The meters and their decoders, alone: no server, no clock.

mod fixtures;
mod protocols;
mod suites;
mod support;
