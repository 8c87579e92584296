//! Messages of gRPC: counted as in a walk over the whole body, however it is cut.

#![no_main]

mod common;

use common::{grpc, grpc_reference, knobs, same_however_cut};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut body = data;
    let Some(knobs) = knobs(&mut body) else { return };
    assert_eq!(same_however_cut(body, &knobs.lengths, grpc), grpc_reference(body));
});
