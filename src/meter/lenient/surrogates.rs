//! Escapes of half surrogate pairs, which strict parsers refuse.

use std::borrow::Cow;
use std::str;

use memchr::memchr;
use memchr::memmem::Finder;
use once_cell::sync::Lazy;

/// Replaces escapes of surrogates that are not pairs. Some servers cut text between the two, and a strict parser
/// would refuse the whole event.
pub(super) fn without_lone_surrogates(json: &str) -> Cow<'_, str> {
    static ESCAPE: Lazy<Finder<'static>> = Lazy::new(|| Finder::new(b"\\u"));
    let bytes = json.as_bytes();
    if memchr(b'\\', bytes).is_none() {
        return Cow::Borrowed(json);
    }
    let mut repaired = String::new();
    let mut taken = 0;
    let mut at = 0;
    while let Some(found) = ESCAPE.find(&bytes[at..]) {
        let start = at + found;
        at = start + 2;
        let Some(unit) = unit(bytes, start).filter(|_| !is_escaped(bytes, start)) else {
            continue;
        };
        let is_pair = unit < 0xDC00 && self::unit(bytes, start + 6).is_some_and(|low| low >= 0xDC00);
        if is_pair {
            at = start + 12;
        } else {
            repaired.push_str(&json[taken..start]);
            repaired.push_str("\\ufffd");
            (taken, at) = (start + 6, start + 6);
        }
    }
    if taken == 0 {
        return Cow::Borrowed(json);
    }
    repaired.push_str(&json[taken..]);
    Cow::Owned(repaired)
}

/// The surrogate that the escape at `at` stands for, if it is one.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let digits = str::from_utf8(digits).ok().filter(|digits| digits.starts_with(['d', 'D']))?;
    u16::from_str_radix(digits, 16).ok().filter(|unit| (0xD800..=0xDFFF).contains(unit))
}

/// Whether the backslash at `at` is itself escaped.
fn is_escaped(bytes: &[u8], at: usize) -> bool {
    bytes[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}
