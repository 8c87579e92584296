//! Server-sent events: as the standard's algorithm reads them, however they are cut.

#![no_main]

mod common;

use common::{UNBOUNDED, knobs, same_however_cut, sse, sse_reference};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut body = data;
    let Some(knobs) = knobs(&mut body) else { return };
    let answer = same_however_cut(body, &knobs.lengths, |pieces| sse(knobs.max, pieces));
    let wanted = sse_reference(body);
    if answer.has_overflowed {
        assert!(knobs.max < UNBOUNDED);
        assert_eq!(answer.last, None, "nothing is read after a line that is too long");
        assert!(wanted.events.starts_with(&answer.events), "what came before stands");
    } else {
        assert_eq!(answer, wanted);
    }
});
