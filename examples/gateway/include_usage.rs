//! Asking for usage in a client's place, and taking back out what came only because of that.
//!
//! OpenAI's chat and completions count the tokens of a stream only if `stream_options.include_usage` asks for
//! it. The counts then come in a chunk of their own, with no choices, and every other chunk has a
//! `"usage": null`. A client that did not ask may not know what to do with either.
//!
//! Everything else stays, byte for byte: a member is put into or cut out of the JSON text, which is never
//! written anew, and whatever is not understood passes as it is.

use std::ops::Range;

use crate::json::{self, Member};

/// A longer event is passed as it is, instead of being held until its end.
pub(crate) const LONGEST_EVENT: usize = 1024 * 1024;

const ASKED: &[u8] = b"{\"include_usage\":true}";

/// Takes the answers to a question that the client did not ask out of its stream of events, cut anywhere.
#[derive(Debug)]
pub(crate) struct Hider {
    /// The event whose end has not come yet.
    held: Vec<u8>,
    lines: Lines,
    /// The event was too long to be held: the rest of it passes.
    passing: bool,
    /// The last event was taken out, and the line feed after its carriage return, if there is one, goes too.
    dropped: bool,
    /// Bytes taken out since [`Hider::hidden`] was called last.
    hidden: u64,
}

/// Finds the blank lines that end events. Lines end with CR, LF or both.
#[derive(Debug)]
struct Lines {
    /// The line has no bytes yet.
    is_blank: bool,
    after_cr: bool,
}

/// What becomes of an event.
enum Edit {
    Keep,
    Drop,
    Cut(Range<usize>),
}

/// The request's body, such that it asks for usage. None where it does so by itself, is not for a stream, or
/// is not understood.
pub(crate) fn ask(body: &[u8]) -> Option<Vec<u8>> {
    let members = json::members(body)?;
    if body.get(last(&members, "stream")?.value.clone())? != b"true" {
        return None;
    }
    let Some(options) = last(&members, "stream_options") else {
        let end = members.last()?.whole.end;
        return Some(put(body, end..end, &[b",\"stream_options\":", ASKED].concat()));
    };
    let text = body.get(options.value.clone())?;
    if text == b"null" {
        return Some(put(body, options.value.clone(), ASKED));
    }
    let (place, new) = option(text)?;
    let start = options.value.start;
    Some(put(body, start + place.start..start + place.end, new))
}

/// What to write where into the text of `stream_options`.
fn option(text: &[u8]) -> Option<(Range<usize>, &'static [u8])> {
    let members = json::members(text)?;
    if let Some(option) = last(&members, "include_usage") {
        // What is neither yes nor no is the provider's to refuse.
        let is_no = matches!(text.get(option.value.clone())?, b"false" | b"null");
        return is_no.then(|| (option.value.clone(), b"true".as_slice()));
    }
    let member: &[u8] =
        if members.is_empty() { b"\"include_usage\":true" } else { b"\"include_usage\":true," };
    let start = text.iter().position(|byte| *byte == b'{')? + 1;
    Some((start..start, member))
}

/// The member that counts where a name is there twice.
fn last<'a>(members: &'a [Member], key: &str) -> Option<&'a Member> {
    members.iter().rev().find(|member| member.key == key)
}

fn put(text: &[u8], place: Range<usize>, new: &[u8]) -> Vec<u8> {
    let before = text.get(..place.start).unwrap_or_default();
    let after = text.get(place.end..).unwrap_or_default();
    [before, new, after].concat()
}

// === impl Hider ===

impl Hider {
    pub(crate) fn new() -> Self {
        Self {
            held: Vec::new(),
            lines: Lines { is_blank: true, after_cr: false },
            passing: false,
            dropped: false,
            hidden: 0,
        }
    }

    /// What is to pass of the events that `bytes` complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.held.len() + bytes.len());
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.held.is_empty() && !self.passing && self.lines.takes_lf(rest) {
                let (feed, more) = rest.split_at(1);
                self.settle(feed, if self.dropped { Edit::Drop } else { Edit::Keep }, &mut out);
                rest = more;
                continue;
            }
            let end = self.lines.end(rest);
            let (event, more) = rest.split_at(end.unwrap_or(rest.len()));
            self.take(event, end.is_some(), &mut out);
            rest = more;
        }
        out
    }

    /// What is left of a stream that is over. An event without an end is none: it passes as it is.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Bytes that wait for the end of their event.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// How many bytes were taken out since the last call.
    pub(crate) fn hidden(&mut self) -> u64 {
        std::mem::take(&mut self.hidden)
    }

    /// More of an event, or the last of it.
    fn take(&mut self, bytes: &[u8], is_end: bool, out: &mut Vec<u8>) {
        self.held.extend_from_slice(bytes);
        self.passing |= self.held.len() > LONGEST_EVENT;
        if self.passing {
            out.append(&mut self.held);
            self.dropped = false;
        } else if is_end {
            let event = std::mem::take(&mut self.held);
            self.settle(&event, edit(&event), out);
            self.held = event;
            self.held.clear();
        }
        if is_end {
            self.passing = false;
        }
    }

    fn settle(&mut self, event: &[u8], edit: Edit, out: &mut Vec<u8>) {
        let before = out.len();
        match edit {
            Edit::Keep => out.extend_from_slice(event),
            Edit::Drop => {}
            Edit::Cut(ref place) => out.append(&mut put(event, place.clone(), b"")),
        }
        self.dropped = matches!(edit, Edit::Drop);
        self.hidden += (event.len() - (out.len() - before)) as u64;
    }
}

// === impl Lines ===

impl Lines {
    /// Whether `bytes` begin with the second half of a line's end.
    fn takes_lf(&mut self, bytes: &[u8]) -> bool {
        let takes = self.after_cr && bytes.first() == Some(&b'\n');
        if takes {
            self.after_cr = false;
        }
        takes
    }

    /// How many of `bytes` belong to the event that ends in them, if one does.
    ///
    /// An event that ends with a carriage return ends there and then: the line feed after it may never come.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        let end = bytes.iter().position(|byte| self.ends(*byte))?;
        Some(end + 1)
    }

    fn ends(&mut self, byte: u8) -> bool {
        let second = std::mem::replace(&mut self.after_cr, byte == b'\r') && byte == b'\n';
        if second {
            return false;
        }
        let is_end = matches!(byte, b'\r' | b'\n');
        std::mem::replace(&mut self.is_blank, is_end) && is_end
    }
}

/// What is to become of a whole event.
fn edit(event: &[u8]) -> Edit {
    answer(event).unwrap_or(Edit::Keep)
}

/// None for events that say nothing of usage, or nothing that is understood.
fn answer(event: &[u8]) -> Option<Edit> {
    const USAGE: &[u8] = b"\"usage\"";
    // Most events of a provider that does not know the option end here.
    event.windows(USAGE.len()).find(|window| *window == USAGE)?;
    let data = data(event)?;
    let text = event.get(data.clone())?;
    let members = json::members(text)?;
    let index = members.iter().position(|member| member.key == "usage")?;
    let usage = text.get(members.get(index)?.value.clone())?;
    if usage == b"null" {
        let place = json::cut(&members, index)?;
        return Some(Edit::Cut(data.start + place.start..data.start + place.end));
    }
    let choices = text.get(last(&members, "choices")?.value.clone())?;
    let is_empty = choices.iter().filter(|byte| !byte.is_ascii_whitespace()).eq(b"[]");
    (is_empty && usage.starts_with(b"{")).then_some(Edit::Drop)
}

/// Where an event's data stands, if it is on one line.
fn data(event: &[u8]) -> Option<Range<usize>> {
    const FIELD: &[u8] = b"data:";
    let mut start = 0;
    let mut found = None;
    for line in event.split(|byte| matches!(byte, b'\r' | b'\n')) {
        if line.starts_with(FIELD) || line == b"data" {
            if found.is_some() {
                return None;
            }
            found = Some((start + FIELD.len()).min(start + line.len())..start + line.len());
        }
        start += line.len() + 1;
    }
    found
}
