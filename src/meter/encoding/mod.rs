//! Content codings, undone for the meter only: the client gets the bytes unchanged.
//!
//! Servers that compress a stream of events flush the coding after each event. Everything that can be decompressed
//! from the bytes so far is passed on at once. The coding's window bounds the memory, and a limit bounds the output:
//! a few bytes can decompress to gigabytes.

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
