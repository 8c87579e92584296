//! What all targets have in common.

#![allow(dead_code, reason = "each target uses a part of it")]

#[path = "../../../tests/meter/properties_reference.rs"]
mod reference;

pub(crate) use reference::*;

/// What the first bytes of an input say; the others are what is read.
pub(crate) struct Knobs {
    /// The lengths of the pieces.
    pub(crate) lengths: [usize; 3],
    /// The limit of the decoder.
    pub(crate) max: usize,
    /// For the target.
    pub(crate) choice: u8,
}

/// No input comes near it.
pub(crate) const UNBOUNDED: usize = 1024 * 1024;

/// Takes three bytes off the front of `data`.
pub(crate) fn knobs(data: &mut &[u8]) -> Option<Knobs> {
    let ([cuts, limit, choice], rest) = data.split_first_chunk::<3>()?;
    *data = rest;
    let lengths = [usize::from(cuts & 7), usize::from(cuts >> 3), usize::from(limit >> 3)];
    let max = [UNBOUNDED, 200, 40, 8][usize::from(limit & 3)];
    Some(Knobs { lengths, max, choice: *choice })
}
