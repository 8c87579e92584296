//! The meters and their decoders, alone: no server, no clock.

mod fixtures;
mod properties;
mod properties_found;
mod properties_loose;
mod properties_meters;
mod properties_reference;
mod properties_written;
mod protocols;
mod suites;
mod support;
