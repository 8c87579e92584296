//! The error of a body.

use std::error::Error;
use std::fmt;

use crate::error::BoxError;
use crate::stream::error::StreamError;

/// The error of an [`AccumulatorBody`](crate::AccumulatorBody): the inner body's own error, or the
/// [`StreamError`] with which the layer ended the stream.
///
/// It reads as the error inside does, and names that one as its [`source`](Error::source), so that whoever looks for a
/// cause, as hyper does for HTTP/2's, finds it.
#[derive(Debug)]
pub struct BodyError {
    inner: BoxError,
}

// === impl BodyError ===

impl BodyError {
    pub(crate) fn new(inner: BoxError) -> Self {
        Self { inner }
    }

    /// The error inside.
    pub fn get_ref(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.inner
    }

    /// The error inside.
    pub fn into_inner(self) -> BoxError {
        self.inner
    }

    /// The error inside, if it is a `T`.
    pub fn downcast_ref<T: Error + 'static>(&self) -> Option<&T> {
        self.inner.downcast_ref()
    }

    /// Why the layer ended the stream; `None` where the error is the inner body's own.
    pub fn stream_error(&self) -> Option<&StreamError> {
        self.downcast_ref()
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Error for BodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.inner)
    }
}
