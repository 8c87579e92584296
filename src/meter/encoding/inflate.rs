//! The compressed data that gzip and deflate share.

use flate2::{Decompress, FlushDecompress, Status};

/// What a [`Decompress`] holds: a window of 32 KiB and the tables of its codes.
pub(super) const INFLATER: usize = 48 * 1024;

const NOT_DEFLATE: &str = "the compressed data is broken";

/// Inflates from the front of `input`. Returns how many bytes came out, and whether that is the end. An error after
/// some output is returned by the next call.
pub(super) fn inflate(
    inflater: &mut Decompress,
    input: &mut &[u8],
    output: &mut [u8],
) -> Result<(usize, bool), &'static str> {
    let (read, written) = (inflater.total_in(), inflater.total_out());
    let status = inflater.decompress(input, output, FlushDecompress::None);
    *input = &input[(inflater.total_in() - read) as usize..];
    let len = (inflater.total_out() - written) as usize;
    match status {
        Err(_) if len == 0 => Err(NOT_DEFLATE),
        status => Ok((len, status.is_ok_and(|status| status == Status::StreamEnd))),
    }
}
