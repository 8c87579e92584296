//! What a JSON request asks for, read while it streams through.
//!
//! Clients send `messages` before `model`, and images inside them by the megabyte, so the body is never held:
//! each byte is looked at once, and what does not count is passed over.
//!
//! # What counts as prompt
//!
//! A string counts if it stands below one of the top-level members in [`is_prompt`], and the key that it stands
//! under, arrays aside, is one of those in [`is_text`]. That is true of the text in all providers' requests and
//! of no image, sound or identifier in them. Prompts that are sent as token numbers, and the definitions of
//! tools, are not counted.
//!
//! This is no validator. Where it shows that a body is not JSON, reading stops, and what was found stays.

mod prompt;
#[cfg(test)]
mod tests;

use self::prompt::Prompt;
use super::scan::{JsonString, Kept, Malformed};

/// Longer names of models are cut: nobody sends them.
const MAX_WORD: usize = 256;

/// What lies deeper is passed over: nobody nests prompts like that.
const MAX_DEPTH: usize = 128;

/// Reads a request's JSON body as it goes by: its model, whether it asks for a stream, its prompt.
#[derive(Debug)]
pub(crate) struct RequestReader {
    state: State,
    /// The objects and arrays around, as far as they may hold text.
    levels: Vec<Level>,
    /// What the current top-level member is.
    member: Member,
    /// Whether the current key is one of text.
    is_text: bool,
    string: JsonString,
    /// The current key, model or scalar.
    word: Kept,
    model: Option<Box<str>>,
    stream: Option<bool>,
    prompt: Prompt,
}

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestFacts {
    pub(crate) model: Option<Box<str>>,
    pub(crate) stream: Option<bool>,
    /// The prompt's text, as far as it was to be kept.
    pub(crate) prompt: Box<str>,
    /// The length of the whole prompt's text, in Unicode scalar values.
    pub(crate) prompt_len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the top-level object.
    Start,
    /// In an object, before a key or its end.
    Key,
    Colon,
    /// Before a value, or an array's end.
    Value,
    /// After a value, before a comma or an end.
    Next,
    String(Role),
    Scalar,
    /// In so many objects and arrays that do not count.
    Skip(u32),
    /// In a string of theirs.
    SkipString(u32),
    /// At the end, or where it is no JSON.
    Done,
}

/// What a string is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Key,
    Model,
    Prompt,
    None,
}

#[derive(Clone, Copy, Debug)]
enum Level {
    Object,
    /// With what it says of its strings.
    Array {
        is_text: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    Model,
    Stream,
    Prompt,
    Other,
}

/// Whether a top-level member holds the prompt, or a part of it.
fn is_prompt(key: &str) -> bool {
    matches!(
        key,
        "chat_history"
            | "contents"
            | "input"
            | "instructions"
            | "message"
            | "messages"
            | "preamble"
            | "prompt"
            | "system"
            | "systemInstruction"
            | "system_instruction"
    )
}

/// Whether a string under this key is text, inside the prompt.
fn is_text(key: &str) -> bool {
    matches!(
        key,
        "arguments"
            | "content"
            | "input"
            | "instructions"
            | "message"
            | "output"
            | "preamble"
            | "prompt"
            | "system"
            | "text"
            | "thinking"
    )
}

// === impl RequestReader ===

impl RequestReader {
    /// Keeps at most `max` bytes of the prompt, and a small constant of all else.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            state: State::Start,
            levels: Vec::new(),
            member: Member::Other,
            is_text: false,
            string: JsonString::default(),
            word: Kept::new(MAX_WORD),
            model: None,
            stream: None,
            prompt: Prompt::new(max),
        }
    }

    /// Reads the next bytes of the body, cut anywhere.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.state != State::Done {
            match self.step(bytes) {
                Ok(read) => bytes = &bytes[read..],
                Err(Malformed) => self.state = State::Done,
            }
        }
    }

    /// Bytes that it holds.
    pub(crate) fn held(&self) -> usize {
        let model = self.model.as_ref().map_or(0, |model| model.len());
        self.levels.capacity() * size_of::<Level>() + self.word.held() + model + self.prompt.held()
    }

    /// What was found so far.
    pub(crate) fn facts(&self) -> RequestFacts {
        RequestFacts {
            model: self.model.clone(),
            stream: self.stream,
            prompt: self.prompt.kept().into(),
            prompt_len: self.prompt.len(),
        }
    }

    /// Reads at least one byte, and returns how many.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match self.state {
            State::String(role) => self.read_string(role, bytes),
            State::SkipString(depth) => {
                let end = self.string.skip(bytes);
                if end.is_some() {
                    self.state = State::Skip(depth);
                }
                Ok(end.unwrap_or(bytes.len()))
            }
            State::Skip(depth) => Ok(self.skip(depth, bytes)),
            State::Scalar => self.read_scalar(bytes),
            State::Done => Ok(bytes.len()),
            State::Start | State::Key | State::Colon | State::Value | State::Next => {
                if !bytes[0].is_ascii_whitespace() {
                    self.structure(bytes[0])?;
                }
                // A scalar begins with the byte that shows that it is one.
                Ok(usize::from(self.state != State::Scalar))
            }
        }
    }

    fn structure(&mut self, byte: u8) -> Result<(), Malformed> {
        match (self.state, byte) {
            (State::Start, b'{') => self.enter(Level::Object),
            (State::Key, b'"') => self.begin_string(Role::Key),
            (State::Key | State::Next, b'}') => self.leave(byte)?,
            (State::Colon, b':') => self.state = State::Value,
            (State::Value | State::Next, b']') => self.leave(byte)?,
            (State::Value, _) => self.begin_value(byte),
            (State::Next, b',') => self.after_comma(),
            _ => return Err(Malformed),
        }
        Ok(())
    }

    fn begin_value(&mut self, byte: u8) {
        let is_prompt = self.member == Member::Prompt;
        match byte {
            b'"' if is_prompt && self.is_text => self.begin_string(Role::Prompt),
            b'"' if self.member == Member::Model => self.begin_string(Role::Model),
            b'"' => self.begin_string(Role::None),
            b'{' | b'[' if !is_prompt || self.levels.len() == MAX_DEPTH => self.state = State::Skip(1),
            b'{' => self.enter(Level::Object),
            b'[' => self.enter(Level::Array { is_text: self.is_text }),
            _ => {
                self.word.clear();
                self.state = State::Scalar;
            }
        }
    }

    fn enter(&mut self, level: Level) {
        self.levels.push(level);
        self.state = match level {
            Level::Object => State::Key,
            Level::Array { .. } => State::Value,
        };
    }

    fn leave(&mut self, byte: u8) -> Result<(), Malformed> {
        match (self.levels.pop(), byte) {
            (Some(Level::Object), b'}') | (Some(Level::Array { .. }), b']') => {}
            _ => return Err(Malformed),
        }
        self.state = if self.levels.is_empty() { State::Done } else { State::Next };
        Ok(())
    }

    fn after_comma(&mut self) {
        self.state = match self.levels.last() {
            Some(Level::Array { is_text }) => {
                self.is_text = *is_text;
                State::Value
            }
            _ => State::Key,
        };
    }

    fn begin_string(&mut self, role: Role) {
        self.string = JsonString::default();
        self.word.clear();
        self.prompt.begin();
        self.state = State::String(role);
    }

    fn read_string(&mut self, role: Role, bytes: &[u8]) -> Result<usize, Malformed> {
        let Self { string, word, prompt, .. } = self;
        let end = match role {
            Role::Key | Role::Model => string.read(bytes, &mut |text| word.push(text))?,
            Role::Prompt => string.read(bytes, &mut |text| prompt.push(text))?,
            Role::None => string.skip(bytes),
        };
        if end.is_some() {
            self.end_string(role);
        }
        Ok(end.unwrap_or(bytes.len()))
    }

    fn end_string(&mut self, role: Role) {
        self.state = State::Next;
        match role {
            Role::Key => {
                self.key();
                self.state = State::Colon;
            }
            Role::Model if !self.word.as_str().is_empty() => self.model = Some(self.word.as_str().into()),
            Role::Prompt => self.prompt.end(),
            Role::Model | Role::None => {}
        }
    }

    fn key(&mut self) {
        let key = self.word.as_str();
        self.is_text = is_text(key);
        if self.levels.len() == 1 {
            self.member = match key {
                "model" => Member::Model,
                "stream" => Member::Stream,
                key if is_prompt(key) => Member::Prompt,
                _ => Member::Other,
            };
        }
    }

    fn read_scalar(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        let len = bytes.iter().position(|byte| !is_part(byte)).unwrap_or(bytes.len());
        self.word.push(str::from_utf8(&bytes[..len]).map_err(|_| Malformed)?);
        if len == bytes.len() {
            return Ok(len);
        }
        match self.word.as_str() {
            "" => return Err(Malformed),
            "true" if self.member == Member::Stream => self.stream = Some(true),
            "false" if self.member == Member::Stream => self.stream = Some(false),
            _ => {}
        }
        self.state = State::Next;
        Ok(len)
    }

    /// Passes over objects and arrays, up to the next string in them or to their end.
    fn skip(&mut self, mut depth: u32, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'"' => {
                    self.string = JsonString::default();
                    self.state = State::SkipString(depth);
                    return at + 1;
                }
                // So many cannot come: four gibibytes of brackets.
                b'{' | b'[' => depth = depth.saturating_add(1),
                b'}' | b']' if depth == 1 => {
                    self.state = State::Next;
                    return at + 1;
                }
                b'}' | b']' => depth -= 1,
                _ => {}
            }
        }
        self.state = State::Skip(depth);
        bytes.len()
    }
}
