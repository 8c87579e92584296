//! The message framing of [gRPC](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md), and of gRPC-Web.
//!
//! ```text
//! u8 flags (bit 0: compressed, bit 7: trailers, in gRPC-Web) │ u32 length, big-endian │ message
//! ```

/// The head of a message: flags and length.
const HEAD: usize = 5;

/// The most bytes of gRPC-Web's trailers that are kept: enough for a status and a message.
const MAX_TRAILERS: usize = 8 * 1024;

/// Counts the messages of a gRPC body, which may be cut anywhere. Messages are not buffered: without their schema
/// they cannot be read.
///
/// ```
/// use streaming_accumulator::meter::GrpcDecoder;
///
/// let mut decoder = GrpcDecoder::new();
/// decoder.feed(b"\0\0\0\0\x03abc\0\0\0");
/// decoder.feed(b"\0\x01d");
/// assert_eq!((decoder.messages(), decoder.bytes()), (2, 4));
/// assert!(!decoder.is_cut());
/// ```
#[derive(Debug, Default)]
pub struct GrpcDecoder {
    head: Vec<u8>,
    /// The bytes of the current message that are still to come.
    missing: u64,
    in_trailers: bool,
    messages: u64,
    compressed: u64,
    bytes: u64,
    longest: u64,
    trailers: Option<Vec<u8>>,
}

// === impl GrpcDecoder ===

impl GrpcDecoder {
    /// Makes a decoder for the start of a body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.missing == 0 {
                let (part, rest) = bytes.split_at((HEAD - self.head.len()).min(bytes.len()));
                self.head.extend_from_slice(part);
                bytes = rest;
                self.begin();
            } else {
                let length = usize::try_from(self.missing).unwrap_or(usize::MAX).min(bytes.len());
                let (part, rest) = bytes.split_at(length);
                self.body(part);
                bytes = rest;
            }
        }
    }

    /// How many messages are complete.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// How many messages are compressed, as their heads say.
    pub fn compressed(&self) -> u64 {
        self.compressed
    }

    /// The bytes of messages without their heads. A last message that is cut is included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The length of the longest message, as its head says.
    pub fn longest(&self) -> u64 {
        self.longest
    }

    /// The trailers that gRPC-Web sends in the body, as far as they have come.
    pub fn trailers(&self) -> Option<&[u8]> {
        self.trailers.as_deref()
    }

    /// Whether the bytes so far end inside a message or inside trailers.
    pub fn is_cut(&self) -> bool {
        self.missing > 0 || !self.head.is_empty()
    }

    /// Starts the next message, if its head is complete.
    fn begin(&mut self) {
        let &[flags, a, b, c, d] = &*self.head else {
            return;
        };
        self.head.clear();
        self.missing = u64::from(u32::from_be_bytes([a, b, c, d]));
        self.in_trailers = flags & 0x80 != 0;
        if self.in_trailers {
            self.trailers.get_or_insert_default();
        } else {
            self.longest = self.longest.max(self.missing);
            self.compressed += u64::from(flags & 1);
        }
        if self.missing == 0 {
            self.end();
        }
    }

    fn body(&mut self, part: &[u8]) {
        self.missing -= part.len() as u64;
        match &mut self.trailers {
            Some(trailers) if self.in_trailers => {
                let room = MAX_TRAILERS.saturating_sub(trailers.len());
                trailers.extend_from_slice(&part[..part.len().min(room)]);
            }
            _ => self.bytes += part.len() as u64,
        }
        if self.missing == 0 {
            self.end();
        }
    }

    fn end(&mut self) {
        if !self.in_trailers {
            self.messages += 1;
        }
    }
}
