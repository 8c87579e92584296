//! How streams end on real hyper servers over loopback.
//!
//! Where it makes sense, a body runs twice: once without and once with the hint that it has ended. The hint
//! changes what the server asks, and so the evidence.

#[path = "../support/mod.rs"]
mod support;

mod before_body;
mod cancels;
mod contained;
mod crowd;
mod errors;
mod grpc;
mod half_close;
mod in_call;
mod layers;
mod mid_body;
mod model;
mod no_body;
mod ordinary;
mod raced;
mod server;
mod trailers;
mod transparency;
mod unread;
mod unseen;
mod upstream;
mod wakers;
