//! TODO

pub(crate) mod backpressure;
pub(crate) mod findings;
pub(crate) mod limits;
pub(crate) mod meters;
pub(crate) mod metrics;
pub(crate) mod notify;
pub(crate) mod outcome;
pub(crate) mod pipeline;
pub(crate) mod record;
pub(crate) mod settle;
pub(crate) mod state;
pub(crate) mod stop;
pub(crate) mod tap;
pub(crate) mod termination;
pub(crate) mod throttle;
pub(crate) mod trace;
