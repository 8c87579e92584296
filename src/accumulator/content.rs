//! What was kept of a stream.

use std::fmt;
use std::io;
use std::mem;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream, StreamExt, TryStreamExt};
use tokio::io::AsyncRead;
use tokio::task;
use tokio_util::io::StreamReader;

use super::chunk::StreamChunk;
use super::span::LogSpan;
use super::spill::{Segment, SegmentedLog};

/// What an accumulator kept of a stream: a snapshot that never changes.
///
/// Making one copies no bytes: it shares the accumulator's blocks and keeps them alive. Chunks keep the boundaries and
/// arrival times that they had in the stream, unless a limit cut one.
///
/// Content lies in memory, compressed in memory, or in a temporary file, and reads the same. Only reading a file can
/// fail, and what cannot be read back is an error, never a hole: content that is not [spilled](Self::is_spilled) always
/// reads back. Reading a file also blocks. Where content may be spilled, an async task should use
/// [`stream`](Self::stream), [`reader`](Self::reader) or [`read`](Self::read), which read on tokio's blocking threads.
///
/// ```
/// use bytes::Bytes;
/// use streaming_accumulator::ContentAccumulator;
///
/// # fn main() -> std::io::Result<()> {
/// let accumulator = ContentAccumulator::new(1024);
/// accumulator.append(Bytes::from_static(b"hel")).unwrap();
/// let content = accumulator.snapshot();
/// accumulator.append(Bytes::from_static(b"lo")).unwrap();
///
/// assert_eq!(content.to_bytes()?, "hel");
/// assert_eq!(accumulator.snapshot().chunks().count(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Content {
    head: Option<ContentPart>,
    tail: Option<ContentPart>,
    truncated: bool,
}

/// Where the head or the tail of content comes from.
#[derive(Clone, Debug)]
pub(super) enum ContentPart {
    Span(LogSpan),
    /// The first bytes, this many, of a log out of which chunks are moved.
    Segmented(Arc<SegmentedLog>, u64),
}

/// What can be read in one go.
enum Extent {
    Span(LogSpan),
    /// The first bytes, this many, of a segment.
    Segment(Segment, u64),
}

// === impl Content ===

impl Content {
    pub(super) fn new(head: Option<ContentPart>, tail: Option<ContentPart>, truncated: bool) -> Self {
        Self { head, tail, truncated }
    }

    /// The content of a record that was read back without it.
    #[cfg(feature = "serde")]
    pub(crate) fn left_out(truncated: bool) -> Self {
        Self::new(None, None, truncated)
    }

    /// Bytes kept.
    pub fn len(&self) -> usize {
        self.parts().map(|part| part.len() as usize).sum()
    }

    /// Whether nothing was kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the stream had bytes that were not kept. Decided when the content was captured: bytes that were kept
    /// and can no longer be read are an error instead.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Whether some of it lies in a temporary file.
    pub fn is_spilled(&self) -> bool {
        self.extents().any(|extent| !extent.is_in_memory())
    }

    /// Why content could not be spilled, if that ended the capture.
    pub fn spill_error(&self) -> Option<Arc<str>> {
        self.parts().find_map(|part| match part {
            ContentPart::Segmented(log, _) => log.error(),
            ContentPart::Span(_) => None,
        })
    }

    /// All bytes in one piece. Copies them, unless there is only one large chunk. Blocks if content is spilled.
    ///
    /// # Errors
    ///
    /// What reading a spilled file yields. Content that is not spilled never fails.
    pub fn to_bytes(&self) -> io::Result<Bytes> {
        let mut chunks = self.chunks();
        if let (Some(only), None) = (chunks.next(), chunks.next()) {
            return only;
        }
        let mut all = Vec::with_capacity(self.len());
        for extent in self.extents() {
            extent.copy_to(&mut all)?;
        }
        Ok(all.into())
    }

    /// The chunks, in order. Small ones are copied out, large ones shared. Blocks if content is spilled.
    ///
    /// If the middle of a stream was left out, the chunk before the gap and the one after it follow each other.
    ///
    /// # Errors
    ///
    /// What reading a spilled file yields; the iteration then ends. Content that is not spilled never fails.
    pub fn chunks(&self) -> impl Iterator<Item = io::Result<Bytes>> {
        self.timed_chunks().map(|chunk| chunk.map(|chunk| chunk.bytes))
    }

    /// As [`chunks`](Self::chunks), with the times at which they arrived: enough to replay a stream at its own pace.
    ///
    /// ```
    /// # async fn replay(content: streaming_accumulator::Content) -> std::io::Result<()> {
    /// let start = tokio::time::Instant::now();
    /// for chunk in content.timed_chunks() {
    ///     let chunk = chunk?;
    ///     tokio::time::sleep_until(start + chunk.arrival).await;
    ///     println!("{:?}", chunk.bytes);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`chunks`](Self::chunks).
    pub fn timed_chunks(&self) -> impl Iterator<Item = io::Result<StreamChunk>> {
        chunks_of(self.extents())
    }

    /// The chunks, in order, without blocking.
    ///
    /// # Errors
    ///
    /// What reading a spilled file yields; the stream then ends.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if content is spilled.
    pub fn stream(&self) -> impl Stream<Item = io::Result<StreamChunk>> + Send + use<> {
        let extents: Vec<Extent> = self.extents().collect();
        let mut has_failed = false;
        let chunks = stream::iter(extents).flat_map(Extent::into_stream);
        chunks.take_while(move |chunk| std::future::ready(!mem::replace(&mut has_failed, chunk.is_err())))
    }

    /// All bytes, in order, without blocking.
    ///
    /// # Errors
    ///
    /// As for [`stream`](Self::stream).
    pub fn reader(&self) -> impl AsyncRead + Send + use<> {
        StreamReader::new(Box::pin(self.stream().map(|chunk| chunk.map(|chunk| chunk.bytes))))
    }

    /// All bytes in one piece, without blocking.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::FileTooLarge`] if there are more than `max` of them; nothing is read then. Otherwise as for
    /// [`stream`](Self::stream).
    pub async fn read(&self, max: usize) -> io::Result<Bytes> {
        if self.len() > max {
            let error = format!("content has {} bytes, of at most {max}", self.len());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, error));
        }
        let mut all = BytesMut::with_capacity(self.len());
        let mut chunks = std::pin::pin!(self.stream());
        while let Some(chunk) = chunks.next().await {
            all.extend_from_slice(&chunk?.bytes);
        }
        Ok(all.freeze())
    }

    /// The head and the tail.
    #[cfg(feature = "serde")]
    pub(super) fn head_and_tail(&self) -> (Option<&ContentPart>, Option<&ContentPart>) {
        (self.head.as_ref(), self.tail.as_ref())
    }

    fn parts(&self) -> impl Iterator<Item = &ContentPart> {
        self.head.iter().chain(&self.tail)
    }

    fn extents(&self) -> impl Iterator<Item = Extent> {
        self.parts().flat_map(ContentPart::extents)
    }
}

impl fmt::Debug for Content {
    /// Shows the size only: what streams hold is often not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("len", &self.len()).field("truncated", &self.truncated).finish()
    }
}

/// The chunks of `extents`. Ends after the first error.
fn chunks_of(extents: impl Iterator<Item = Extent>) -> impl Iterator<Item = io::Result<StreamChunk>> {
    let mut has_failed = false;
    let chunks = extents.flat_map(Extent::into_chunks);
    chunks.take_while(move |chunk| !mem::replace(&mut has_failed, chunk.is_err()))
}

// === impl ContentPart ===

impl ContentPart {
    /// The first `len` bytes of `log`.
    pub(super) fn segmented(log: &Arc<SegmentedLog>, len: u64) -> Self {
        Self::Segmented(Arc::clone(log), len)
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Span(span) => span.len(),
            Self::Segmented(_, len) => *len,
        }
    }

    /// The chunks, up to the first error.
    #[cfg(feature = "serde")]
    pub(super) fn chunks(&self) -> impl Iterator<Item = io::Result<StreamChunk>> {
        chunks_of(self.extents().into_iter())
    }

    /// What there is to read at this moment: the chunks of a segmented log move on.
    fn extents(&self) -> Vec<Extent> {
        match self {
            Self::Span(span) => vec![Extent::Span(span.clone())],
            Self::Segmented(log, len) => {
                let (segments, rest) = log.contents(*len);
                let mut left = *len;
                let segments = segments.iter().map(|segment| {
                    // What came after the snapshot is not in it.
                    let most = segment.content().min(left);
                    left -= most;
                    Extent::Segment(segment.clone(), most)
                });
                let segments = segments.take_while(|extent| !matches!(extent, Extent::Segment(_, 0)));
                segments.chain(rest.map(Extent::Span)).collect()
            }
        }
    }
}

// === impl Extent ===

impl Extent {
    fn is_in_memory(&self) -> bool {
        match self {
            Self::Span(_) => true,
            Self::Segment(segment, _) => segment.is_in_memory(),
        }
    }

    fn copy_to(self, buffer: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Span(span) => span.copy_to(buffer),
            Self::Segment(segment, most) => {
                segment.load(most)?.iter().for_each(|chunk| buffer.extend_from_slice(&chunk.bytes));
            }
        }
        Ok(())
    }

    fn into_chunks(self) -> impl Iterator<Item = io::Result<StreamChunk>> {
        let (span, loaded, error) = match self {
            Self::Span(span) => (Some(span.into_chunks()), None, None),
            Self::Segment(segment, most) => match segment.load(most) {
                Ok(chunks) => (None, Some(chunks), None),
                Err(error) => (None, None, Some(Err(error))),
            },
        };
        let chunks = span.into_iter().flatten().chain(loaded.into_iter().flatten());
        chunks.map(Ok).chain(error)
    }

    fn into_stream(self) -> impl Stream<Item = io::Result<StreamChunk>> + Send {
        match self {
            Self::Span(span) => stream::iter(span.into_chunks().map(Ok)).left_stream(),
            Self::Segment(segment, most) => stream::once(load(segment, most))
                .map_ok(|chunks| stream::iter(chunks.into_iter().map(Ok)))
                .try_flatten()
                .right_stream(),
        }
    }
}

/// Loads a segment where that may block.
async fn load(segment: Segment, most: u64) -> io::Result<Vec<StreamChunk>> {
    if segment.is_in_memory() {
        return segment.load(most);
    }
    let loaded = task::spawn_blocking(move || segment.load(most)).await;
    loaded.unwrap_or_else(|error| Err(io::Error::other(error)))
}
