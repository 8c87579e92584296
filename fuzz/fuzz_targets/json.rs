//! JSON values: the elements of an array, or a whole document, as serde_json reads them, however they are cut.

#![no_main]

mod common;

use common::{UNBOUNDED, json, json_reference, knobs, same_however_cut};
use serde_json::Value;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut body = data;
    let Some(knobs) = knobs(&mut body) else { return };
    let answer = same_however_cut(body, &knobs.lengths, |pieces| json(knobs.max, pieces));
    assert!(!answer.has_overflowed || knobs.max < UNBOUNDED);
    if let Some(wanted) = json_reference(body) {
        let parsed = answer.values.iter().map(|value| serde_json::from_slice(value).expect("JSON"));
        let parsed: Vec<Value> = parsed.collect();
        if answer.has_overflowed {
            assert!(wanted.starts_with(&parsed), "what came before stands");
        } else {
            assert_eq!(parsed, wanted);
            assert_eq!(answer.is_closed, answer.is_array);
        }
    }
});
