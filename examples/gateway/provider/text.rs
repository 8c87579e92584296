//! The words that the embedded provider has.

use serde_json::Value;

const WORDS: [&str; 16] = [
    "every", "stream", "ends", "once", "and", "someone", "pays", "for", "it", "so", "count", "the", "bytes",
    "that", "were", "pulled",
];

/// Word `number` of any answer, with the blank before it.
pub(super) fn word(number: u64) -> String {
    // The remainder is below 16, so it fits and the word is there.
    let word = WORDS.get((number % 16) as usize).copied().unwrap_or_default();
    if number == 0 { word.to_owned() } else { format!(" {word}") }
}

/// The first `count` words.
pub(super) fn text(count: u64) -> String {
    (0..count).map(word).collect()
}

/// How many words the strings inside `value` have, without those that are the protocol's own.
pub(super) fn count(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.split_whitespace().count() as u64,
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| *name != "role" && *name != "type")
            .map(|(_, value)| count(value))
            .sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}
