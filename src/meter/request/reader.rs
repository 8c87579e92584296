//! The reader of a request's body.

use super::bounded_string::BoundedString;
use super::json_string::{JsonString, Malformed};
use super::prompt::Prompt;

/// The longest name of a model that is kept, in bytes. Nobody sends longer ones.
pub(super) const MAX_WORD: usize = 256;

/// The deepest level that is read. Nobody nests prompts deeper.
pub(super) const MAX_DEPTH: usize = 128;

/// Reads a request's JSON body as it goes by: its model, whether it asks for a stream, and its prompt.
#[derive(Debug)]
pub(crate) struct RequestReader {
    state: ParserState,
    /// The enclosing objects and arrays, as far as they may hold text.
    levels: Vec<Nesting>,
    /// What the current top-level member is.
    member: TopMember,
    /// Whether a string under the current key is text.
    is_text: bool,
    string: JsonString,
    /// The current key, model or scalar.
    word: BoundedString,
    model: Option<Box<str>>,
    stream: Option<bool>,
    prompt: Prompt,
}

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestFacts {
    pub(crate) model: Option<Box<str>>,
    pub(crate) stream: Option<bool>,
    /// The prompt's text, as much of it as was kept.
    pub(crate) prompt: Box<str>,
    /// The length of the whole prompt's text, in Unicode scalar values.
    pub(crate) prompt_len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ParserState {
    /// Before the top-level object.
    Start,
    /// In an object, before a key or its end.
    Key,
    Colon,
    /// Before a value, or an array's end.
    Value,
    /// After a value, before a comma or an end.
    Next,
    String(StringRole),
    Scalar,
    /// In this many objects and arrays that do not count.
    Skip(u32),
    /// In a string inside them.
    SkipString(u32),
    /// At the end, or after something that is not JSON.
    Done,
}

/// What a string is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StringRole {
    Key,
    Model,
    Prompt,
    None,
}

#[derive(Clone, Copy, Debug)]
enum Nesting {
    Object,
    /// An array, and whether strings in it are text.
    Array {
        is_text: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TopMember {
    Model,
    Stream,
    Prompt,
    Other,
}

/// Whether a top-level member holds the prompt or a part of it.
pub(super) fn is_prompt(key: &str) -> bool {
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

/// Whether a string under this key, inside the prompt, is text.
pub(super) fn is_text(key: &str) -> bool {
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
    /// Makes a reader that keeps at most `max` bytes of the prompt, and a small constant beside it.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            state: ParserState::Start,
            levels: Vec::new(),
            member: TopMember::Other,
            is_text: false,
            string: JsonString::default(),
            word: BoundedString::new(MAX_WORD),
            model: None,
            stream: None,
            prompt: Prompt::new(max),
        }
    }

    /// Reads the next bytes of the body, which may be cut anywhere.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.state != ParserState::Done {
            match self.step(bytes) {
                Ok(read) => bytes = &bytes[read..],
                Err(Malformed) => self.state = ParserState::Done,
            }
        }
    }

    /// The bytes that the reader holds.
    pub(crate) fn held(&self) -> usize {
        let model = self.model.as_ref().map_or(0, |model| model.len());
        self.levels.capacity() * size_of::<Nesting>() + self.word.held() + model + self.prompt.held()
    }

    /// What has been found so far.
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
            ParserState::String(role) => self.read_string(role, bytes),
            ParserState::SkipString(depth) => {
                let end = self.string.skip(bytes);
                if end.is_some() {
                    self.state = ParserState::Skip(depth);
                }
                Ok(end.unwrap_or(bytes.len()))
            }
            ParserState::Skip(depth) => Ok(self.skip(depth, bytes)),
            ParserState::Scalar => self.read_scalar(bytes),
            ParserState::Done => Ok(bytes.len()),
            ParserState::Start
            | ParserState::Key
            | ParserState::Colon
            | ParserState::Value
            | ParserState::Next => {
                if !bytes[0].is_ascii_whitespace() {
                    self.structure(bytes[0])?;
                }
                // A scalar starts with the byte that shows it.
                Ok(usize::from(self.state != ParserState::Scalar))
            }
        }
    }

    fn structure(&mut self, byte: u8) -> Result<(), Malformed> {
        match (self.state, byte) {
            (ParserState::Start, b'{') => self.enter(Nesting::Object),
            (ParserState::Key, b'"') => self.begin_string(StringRole::Key),
            (ParserState::Key | ParserState::Next, b'}') => self.leave(byte)?,
            (ParserState::Colon, b':') => self.state = ParserState::Value,
            (ParserState::Value | ParserState::Next, b']') => self.leave(byte)?,
            (ParserState::Value, _) => self.begin_value(byte),
            (ParserState::Next, b',') => self.after_comma(),
            _ => return Err(Malformed),
        }
        Ok(())
    }

    fn begin_value(&mut self, byte: u8) {
        let is_prompt = self.member == TopMember::Prompt;
        match byte {
            b'"' if is_prompt && self.is_text => self.begin_string(StringRole::Prompt),
            b'"' if self.member == TopMember::Model => self.begin_string(StringRole::Model),
            b'"' => self.begin_string(StringRole::None),
            b'{' | b'[' if !is_prompt || self.levels.len() == MAX_DEPTH => self.state = ParserState::Skip(1),
            b'{' => self.enter(Nesting::Object),
            b'[' => self.enter(Nesting::Array { is_text: self.is_text }),
            _ => {
                self.word.clear();
                self.state = ParserState::Scalar;
            }
        }
    }

    fn enter(&mut self, level: Nesting) {
        self.levels.push(level);
        self.state = match level {
            Nesting::Object => ParserState::Key,
            Nesting::Array { .. } => ParserState::Value,
        };
    }

    fn leave(&mut self, byte: u8) -> Result<(), Malformed> {
        match (self.levels.pop(), byte) {
            (Some(Nesting::Object), b'}') | (Some(Nesting::Array { .. }), b']') => {}
            _ => return Err(Malformed),
        }
        self.state = if self.levels.is_empty() { ParserState::Done } else { ParserState::Next };
        Ok(())
    }

    fn after_comma(&mut self) {
        self.state = match self.levels.last() {
            Some(Nesting::Array { is_text }) => {
                self.is_text = *is_text;
                ParserState::Value
            }
            _ => ParserState::Key,
        };
    }

    fn begin_string(&mut self, role: StringRole) {
        self.string = JsonString::default();
        self.word.clear();
        self.prompt.begin();
        self.state = ParserState::String(role);
    }

    fn read_string(&mut self, role: StringRole, bytes: &[u8]) -> Result<usize, Malformed> {
        let Self { string, word, prompt, .. } = self;
        let end = match role {
            StringRole::Key | StringRole::Model => string.read(bytes, &mut |text| word.push(text))?,
            StringRole::Prompt => string.read(bytes, &mut |text| prompt.push(text))?,
            StringRole::None => string.skip(bytes),
        };
        if end.is_some() {
            self.end_string(role);
        }
        Ok(end.unwrap_or(bytes.len()))
    }

    fn end_string(&mut self, role: StringRole) {
        self.state = ParserState::Next;
        match role {
            StringRole::Key => {
                self.key();
                self.state = ParserState::Colon;
            }
            StringRole::Model if !self.word.as_str().is_empty() => {
                self.model = Some(self.word.as_str().into())
            }
            StringRole::Prompt => self.prompt.end(),
            StringRole::Model | StringRole::None => {}
        }
    }

    fn key(&mut self) {
        let key = self.word.as_str();
        self.is_text = is_text(key);
        if self.levels.len() == 1 {
            self.member = match key {
                "model" => TopMember::Model,
                "stream" => TopMember::Stream,
                key if is_prompt(key) => TopMember::Prompt,
                _ => TopMember::Other,
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
            "true" if self.member == TopMember::Stream => self.stream = Some(true),
            "false" if self.member == TopMember::Stream => self.stream = Some(false),
            _ => {}
        }
        self.state = ParserState::Next;
        Ok(len)
    }

    /// Skips objects and arrays, up to the next string in them or to their end.
    fn skip(&mut self, mut depth: u32, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'"' => {
                    self.string = JsonString::default();
                    self.state = ParserState::SkipString(depth);
                    return at + 1;
                }
                // Never saturates: that would take four gibibytes of brackets.
                b'{' | b'[' => depth = depth.saturating_add(1),
                b'}' | b']' if depth == 1 => {
                    self.state = ParserState::Next;
                    return at + 1;
                }
                b'}' | b']' => depth -= 1,
                _ => {}
            }
        }
        self.state = ParserState::Skip(depth);
        bytes.len()
    }
}
