//! Messages of AWS event streams, written out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Answer;

/// A message with these headers, all of them text.
pub(crate) fn message(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    for (name, value) in headers {
        head.push(u8::try_from(name.len()).expect("a short name"));
        head.extend_from_slice(name.as_bytes());
        head.push(7);
        head.extend_from_slice(&u16::try_from(value.len()).expect("a short value").to_be_bytes());
        head.extend_from_slice(value.as_bytes());
    }
    let word = |number: usize| u32::try_from(number).expect("a short message").to_be_bytes();
    let mut message = [word(16 + head.len() + payload.len()), word(head.len())].concat();
    message.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
    message.extend_from_slice(&head);
    message.extend_from_slice(payload);
    message.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
    message
}

pub(crate) fn event(kind: &str, payload: &str) -> Vec<u8> {
    let headers = [(":event-type", kind), (":content-type", "application/json"), (":message-type", "event")];
    message(&headers, payload.as_bytes())
}

pub(crate) fn exception(kind: &str, payload: &str) -> Vec<u8> {
    let headers =
        [(":exception-type", kind), (":content-type", "application/json"), (":message-type", "exception")];
    message(&headers, payload.as_bytes())
}

/// An event of InvokeModel around a model's own.
pub(crate) fn wrapped(event: &str) -> Vec<u8> {
    self::event("chunk", &format!(r#"{{"bytes":"{}","p":"abcdefghij"}}"#, STANDARD.encode(event)))
}

pub(crate) fn stream(messages: &[Vec<u8>]) -> Answer {
    Answer::new("application/vnd.amazon.eventstream", messages.concat())
}
