//! How streams end on real hyper servers over loopback, row by row of the table of endings.
//!
//! Each test carries the number of its row. Where the row permits it, the body runs twice: once without
//! and once with the hint that it has ended, which changes what the server asks and so the evidence.

#[path = "../support/mod.rs"]
mod support;

mod a_ordinary;
mod b_no_body;
mod c_trailers;
mod d_errors;
mod e_before_body;
mod f_mid_body;
mod g_blind;
mod h_half_close;
mod i_backpressure;
mod j_server;
mod k_layers;
mod l_upstream;
mod m_grpc;
