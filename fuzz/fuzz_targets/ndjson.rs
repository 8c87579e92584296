//! Lines of JSON: as if the whole body were split at its line feeds, however it is cut.

#![no_main]

mod common;

use common::{UNBOUNDED, knobs, ndjson, ndjson_reference, same_however_cut};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut body = data;
    let Some(knobs) = knobs(&mut body) else { return };
    let answer = same_however_cut(body, &knobs.lengths, |pieces| ndjson(knobs.max, pieces));
    let wanted = ndjson_reference(body);
    if answer.has_overflowed {
        assert!(knobs.max < UNBOUNDED);
        assert!(wanted.lines.starts_with(&answer.lines), "what came before stands");
    } else {
        assert_eq!(answer, wanted);
    }
});
