//! Content codings, undone for the meter only: the client gets the bytes as they were.
//!
//! Servers that compress a stream of events flush the coding after each one, so whatever can be unpacked from
//! the bytes so far is given to the meter at once. Memory is bounded by the coding's window, and what comes out
//! by a limit: a few bytes can unpack to gigabytes.

#[cfg(feature = "llm-br")]
mod brotli;
mod decoder;
mod decompressor;
#[cfg(feature = "llm-gzip")]
mod deflate;
#[cfg(feature = "llm-gzip")]
mod gzip;
#[cfg(feature = "llm-gzip")]
mod inflate;
#[cfg(test)]
mod tests;
#[cfg(feature = "llm-zstd")]
mod zstd;

pub(crate) use self::decompressor::Decompressor;
