//! Content codings: a body that is packed gives the report of the plain one, however it is cut; a broken one gives
//! the same report however it is cut.

#![no_main]

mod common;

use std::io::Write;

use common::{Head, Knobs, knobs, metered, same_however_cut};
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use streaming_accumulator::Usage;
use streaming_accumulator::meter::{Incomplete, LlmReport, MeterSet};

const CODINGS: [&str; 5] = ["gzip", "deflate", "br", "zstd", "deflate"];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut body = data;
    let Some(knobs) = knobs(&mut body) else { return };
    let number = usize::from(knobs.choice & 15) % CODINGS.len();
    match knobs.choice >> 6 {
        // It is packed already, or nearly so.
        0 => _ = unpacked(number, body, &knobs),
        1 => {
            let found = unpacked(number, &packed(number, body), &knobs);
            assert_eq!(found, Some(read("identity", &[body])));
        }
        // A bit of it is wrong, or its end is missing.
        kind => {
            let mut packed = packed(number, body);
            let at = (usize::from(knobs.choice >> 4 & 3) * 256 + body.len()) % packed.len();
            if kind == 2 {
                packed[at] ^= 1 << (body.len() % 8);
            } else {
                packed.truncate(at);
            }
            unpacked(number, &packed, &knobs);
        }
    }
});

/// What is found in a packed body. `None`: it is broken brotli, of which how much is read depends on the pieces.
fn unpacked(number: usize, packed: &[u8], knobs: &Knobs) -> Option<(LlmReport, Usage)> {
    let coding = CODINGS[number];
    let whole = read(coding, &[packed]);
    if coding == "br" && matches!(whole.0.incomplete, Some(Incomplete::Corrupt(_))) {
        same_however_cut(packed, &knobs.lengths, |pieces| read(coding, pieces).0.incomplete);
        return None;
    }
    Some(same_however_cut(packed, &knobs.lengths, |pieces| read(coding, pieces)))
}

fn read(coding: &str, pieces: &[&[u8]]) -> (LlmReport, Usage) {
    let meters = MeterSet::detect().max_expanded(64 * 1024);
    metered(&meters, &Head::new("/v1/chat/completions", "text/event-stream", coding), pieces)
}

/// `body` in the coding of this number, flushed in its midst.
fn packed(number: usize, body: &[u8]) -> Vec<u8> {
    let (first, second) = body.split_at(body.len() / 2);
    let level = flate2::Compression::fast();
    let packed = match number {
        0 => flushed(GzEncoder::new(Vec::new(), level), first, second).and_then(GzEncoder::finish),
        1 => flushed(ZlibEncoder::new(Vec::new(), level), first, second).and_then(ZlibEncoder::finish),
        2 => {
            let encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 3, 18);
            flushed(encoder, first, second).map(brotli::CompressorWriter::into_inner)
        }
        3 => Ok(zstd_frame(body)),
        _ => flushed(DeflateEncoder::new(Vec::new(), level), first, second).and_then(DeflateEncoder::finish),
    };
    packed.expect("a vector takes all")
}

fn flushed<W: Write>(mut encoder: W, first: &[u8], second: &[u8]) -> std::io::Result<W> {
    encoder.write_all(first)?;
    encoder.flush()?;
    encoder.write_all(second)?;
    Ok(encoder)
}

fn zstd_frame(body: &[u8]) -> Vec<u8> {
    let mut packed = vec![0; zstd_safe::compress_bound(body.len())];
    let length = zstd_safe::compress(&mut packed[..], body, 1).expect("there is room");
    packed.truncate(length);
    packed
}
