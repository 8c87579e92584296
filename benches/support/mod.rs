//! What the benches of the per-frame cost share.

pub(crate) mod body;
pub(crate) mod contestants;
mod mutex_design;
