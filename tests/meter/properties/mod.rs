//! Properties that hold for any input: of the framings, and of the meters against slower readings of the same
//! bytes.

mod found;
mod framing;
mod loose;
mod meters;
mod written;
