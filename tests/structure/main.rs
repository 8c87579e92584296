//! The shape of the crate: which module may import which.

mod auto_traits;
mod compile_errors;
mod layering;
