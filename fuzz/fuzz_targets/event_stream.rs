//! Event streams of AWS: what was decoded, written once more, is what was read, however it is cut.

#![no_main]

mod common;

use common::{event_stream, knobs, same_however_cut};
use streaming_accumulator::meter::EventStreamError;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut body = data;
    let Some(knobs) = knobs(&mut body) else { return };
    let mut body = body.to_vec();
    // Hardly any input has checksums that match.
    if knobs.choice & 1 == 0 {
        seal(&mut body);
    }
    let read = |pieces: &[&[u8]]| event_stream(knobs.max, &body, pieces);
    let answer = same_however_cut(&body, &knobs.lengths, read);
    assert!(body.starts_with(&answer.written), "what was decoded is what was written");
    match answer.error {
        Some(EventStreamError::TooLong { limit, .. }) => assert_eq!(limit, knobs.max),
        Some(_) => {}
        None => assert_eq!(answer.is_cut, answer.written.len() < body.len(), "all is read"),
    }
});

/// Puts the checksums in their places, for as many messages as there are lengths that can be.
fn seal(mut rest: &mut [u8]) {
    while rest.len() >= 16 {
        let length = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let prelude = crc32fast::hash(&rest[..8]);
        rest[8..12].copy_from_slice(&prelude.to_be_bytes());
        if length < 16 || length > rest.len() {
            return;
        }
        let (message, later) = rest.split_at_mut(length);
        let sum = crc32fast::hash(&message[..length - 4]);
        message[length - 4..].copy_from_slice(&sum.to_be_bytes());
        rest = later;
    }
}
