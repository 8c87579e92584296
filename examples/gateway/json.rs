//! Where the members of a JSON object stand in its text, so that one can be changed and every other byte stays.
//! Writing the object anew would lose the sender's blanks, escapes and digits.

use std::ops::Range;

use serde::de::IgnoredAny;

/// One member of an object, as bytes of its text.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) key: String,
    /// With the key's quotes, up to the value's end.
    pub(crate) whole: Range<usize>,
    pub(crate) value: Range<usize>,
}

/// Reads text that is known to be valid.
struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

/// The members of the object that `text` is, in its order. None if it is anything else.
pub(crate) fn members(text: &[u8]) -> Option<Vec<Member>> {
    serde_json::from_slice::<IgnoredAny>(text).ok()?;
    let mut cursor = Cursor { text, at: 0 };
    cursor.skip(u8::is_ascii_whitespace);
    if cursor.next() != Some(b'{') {
        return None;
    }
    let mut members = Vec::new();
    loop {
        cursor.skip(|byte| byte.is_ascii_whitespace() || *byte == b',');
        if cursor.peek() != Some(b'"') {
            return Some(members);
        }
        let start = cursor.at;
        cursor.string();
        let key = serde_json::from_slice(text.get(start..cursor.at)?).ok()?;
        cursor.skip(|byte| byte.is_ascii_whitespace() || *byte == b':');
        let value = cursor.at;
        cursor.value();
        members.push(Member { key, whole: start..cursor.at, value: value..cursor.at });
    }
}

/// The bytes to take out so that member `index` is gone, and one comma with it.
pub(crate) fn cut(members: &[Member], index: usize) -> Option<Range<usize>> {
    let whole = &members.get(index)?.whole;
    let before = index.checked_sub(1).and_then(|index| members.get(index));
    match (before, members.get(index + 1)) {
        (Some(before), _) => Some(before.whole.end..whole.end),
        (None, Some(after)) => Some(whole.start..after.whole.start),
        (None, None) => Some(whole.clone()),
    }
}

// === impl Cursor ===

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn skip(&mut self, of: impl Fn(&u8) -> bool) {
        while self.peek().is_some_and(|byte| of(&byte)) {
            self.at += 1;
        }
    }

    /// Goes behind the string that begins here.
    fn string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.next() {
            match byte {
                b'"' => return,
                b'\\' => self.at += 1,
                _ => {}
            }
        }
    }

    /// Goes behind the value that begins here.
    fn value(&mut self) {
        let mut depth = 0;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => self.string(),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                // The end of the object that this is a value of.
                b'}' | b']' if depth == 0 => return,
                b'}' | b']' => {
                    depth -= 1;
                    self.at += 1;
                }
                _ if depth == 0 => {
                    self.skip(|byte| !byte.is_ascii_whitespace() && !b",]}".contains(byte));
                }
                _ => self.at += 1,
            }
            if depth == 0 {
                return;
            }
        }
    }
}
