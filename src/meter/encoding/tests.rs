use std::io::Write;

use ::brotli::CompressorWriter;
use ::zstd_safe::zstd_sys::ZSTD_EndDirective;
use ::zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use flate2::{Compression, GzBuilder};
use http::{HeaderMap, HeaderValue, header::CONTENT_ENCODING};
use proptest::prelude::*;

use super::decompressor::{BUFFER, Decompressor};
use crate::meter::report::Incomplete;

/// Codings by the names that tests give them: the header's, and how the bytes are made.
const CODINGS: [(&str, Pack); 5] = [
    ("gzip", gzip),
    ("deflate", |events| write_all(ZlibEncoder::new(Vec::new(), Compression::default()), events)),
    ("Deflate", |events| write_all(DeflateEncoder::new(Vec::new(), Compression::default()), events)),
    ("br", |events| write_all(CompressorWriter::new(Vec::new(), 4096, 5, 22), events)),
    ("zstd", |events| zstd(events, 3, 19)),
];

/// Compresses events, and flushes after each. Returns the bytes of each, and those of the end.
type Pack = fn(&[&[u8]]) -> Vec<Vec<u8>>;

/// What the real encoders have in common.
trait Encode: Write {
    fn out(&mut self) -> &mut Vec<u8>;
    fn end(self) -> Vec<u8>;
}

macro_rules! flate_encoders {
    ($($encoder:ident),*) => { $(
        impl Encode for $encoder<Vec<u8>> {
            fn out(&mut self) -> &mut Vec<u8> {
                self.get_mut()
            }
            fn end(self) -> Vec<u8> {
                self.finish().unwrap()
            }
        }
    )* };
}

flate_encoders!(GzEncoder, ZlibEncoder, DeflateEncoder);

impl Encode for CompressorWriter<Vec<u8>> {
    fn out(&mut self) -> &mut Vec<u8> {
        self.get_mut()
    }
    fn end(self) -> Vec<u8> {
        self.into_inner()
    }
}

fn write_all(mut encoder: impl Encode, events: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut packed = Vec::new();
    for event in events {
        encoder.write_all(event).unwrap();
        encoder.flush().unwrap();
        packed.push(std::mem::take(encoder.out()));
    }
    packed.push(encoder.end());
    packed
}

fn gzip(events: &[&[u8]]) -> Vec<Vec<u8>> {
    write_all(GzEncoder::new(Vec::new(), Compression::default()), events)
}

fn zstd(events: &[&[u8]], level: i32, window_log: u32) -> Vec<Vec<u8>> {
    let mut context = CCtx::create();
    context.init(level).unwrap();
    context.set_parameter(CParameter::WindowLog(window_log)).unwrap();
    context.set_parameter(CParameter::ChecksumFlag(true)).unwrap();
    let mut step = |event: &[u8], directive: ZSTD_EndDirective| {
        let mut out = vec![0; 1024 + event.len()];
        let mut to = OutBuffer::around(&mut out[..]);
        let left = context.compress_stream2(&mut to, &mut InBuffer::around(event), directive).unwrap();
        assert_eq!(left, 0);
        to.as_slice().to_vec()
    };
    let mut packed: Vec<_> =
        events.iter().map(|event| step(event, ZSTD_EndDirective::ZSTD_e_flush)).collect();
    packed.push(step(b"", ZSTD_EndDirective::ZSTD_e_end));
    packed
}

fn headers(lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(CONTENT_ENCODING, HeaderValue::from_str(line).unwrap());
    }
    headers
}

fn decompressor(coding: &str, max: u64) -> Decompressor {
    Decompressor::of(&headers(&[coding]), max).unwrap().unwrap()
}

/// Feeds chunks of `size`, and returns all that came out.
fn decompress(coding: &str, packed: &[u8], size: usize) -> Result<Vec<u8>, Incomplete> {
    let mut decompressor = decompressor(coding, 1 << 30);
    let mut out = Vec::new();
    for chunk in packed.chunks(size) {
        decompressor.feed(chunk, &mut |part| {
            assert!(part.len() <= BUFFER);
            out.extend_from_slice(part);
        })?;
    }
    Ok(out)
}

/// Bytes that do not compress, the same each time.
fn noise(len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(4);
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

// Which coding it is.

#[test]
fn no_coding_and_identity_need_no_unpacker() {
    for lines in [&[][..], &[""], &["identity"], &[" Identity ,identity"], &["identity", ""]] {
        assert!(Decompressor::of(&headers(lines), 1).unwrap().is_none(), "{lines:?}");
    }
}

#[test]
fn coding_names_ignore_case_and_spaces() {
    let names =
        [("GZip", "gzip"), ("x-gzip", "gzip"), (" DEFLATE ", "deflate"), ("Br", "br"), ("ZSTD", "zstd")];
    for (name, coding) in names {
        assert_eq!(decompressor(name, 1).coding, coding);
    }
    let with_identity = Decompressor::of(&headers(&["identity", " gzip"]), 1).unwrap();
    assert_eq!(with_identity.unwrap().coding, "gzip");
}

#[test]
fn what_is_unknown_or_stacked_is_named() {
    let cases = [
        (&["compress"][..], "compress"),
        (&["gzip, br"], "gzip, br"),
        (&["gzip", "gzip"], "gzip, gzip"),
        (&["gzip2"], "gzip2"),
    ];
    for (lines, value) in cases {
        let refused = Decompressor::of(&headers(lines), 1).err().unwrap();
        assert_eq!(refused, Incomplete::Encoded(value.into()));
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_ENCODING, HeaderValue::from_bytes(b"gz\xff").unwrap());
    assert_eq!(Decompressor::of(&headers, 1).err(), Some(Incomplete::Encoded("gz\u{fffd}".into())));
}

// What comes out.

#[test]
fn flushed_event_is_decompressed_at_once() {
    let events: Vec<_> = (0..200).map(|n| format!("data: {{\"n\":{n}}}\n\n").repeat(1 + n % 7)).collect();
    let events: Vec<_> = events.iter().map(String::as_bytes).collect();
    for (coding, pack) in CODINGS {
        let mut decompressor = decompressor(coding, 1 << 20);
        let packed = pack(&events);
        for (event, packed) in events.iter().zip(&packed) {
            let mut out = Vec::new();
            decompressor.feed(packed, &mut |part| out.extend_from_slice(part)).unwrap();
            assert_eq!(&out, event, "{coding}");
        }
        let mut out = 0;
        decompressor.feed(&packed[events.len()], &mut |part| out += part.len()).unwrap();
        assert_eq!(out, 0, "{coding}");
    }
}

#[test]
fn long_bodies_come_out_whole_in_any_chunks() {
    let body = [noise(300_000), vec![b'a'; 300_000], noise(100_000)].concat();
    for (coding, pack) in CODINGS {
        let packed = pack(&[&body]).concat();
        for size in [1, 13, 16 * 1024, packed.len()] {
            assert!(decompress(coding, &packed, size).unwrap() == body, "{coding} in chunks of {size}");
        }
    }
}

#[test]
fn what_comes_after_the_end_is_ignored() {
    for (coding, pack) in CODINGS {
        let packed = pack(&[b"event"]).concat();
        for garbage in
            [&b"\n"[..], b"\0\0\0\0", b"\x1f\x8c", b"\x1f\x8b\x07", b"\x28\xb5\x2fgarbage", b"data: x\n\n"]
        {
            let packed = [&packed, garbage].concat();
            for size in [1, packed.len()] {
                assert_eq!(decompress(coding, &packed, size).unwrap(), b"event", "{coding} {garbage:?}");
            }
        }
    }
}

#[test]
fn several_members_and_frames_are_one_body() {
    for (coding, pack) in [("gzip", gzip as Pack), ("zstd", CODINGS[4].1)] {
        let packed =
            [pack(&[b"one "]).concat(), pack(&[]).concat(), pack(&[b"two"]).concat(), vec![0]].concat();
        for size in [1, 2, 5, packed.len()] {
            assert_eq!(
                decompress(coding, &packed, size).unwrap(),
                b"one two",
                "{coding} in chunks of {size}"
            );
        }
    }
}

#[test]
fn all_gzip_header_fields_are_skipped() {
    for extra in [&b""[..], b"extra\0extra"] {
        let builder = GzBuilder::new().extra(extra).filename("a name").comment("a comment").mtime(1);
        let mut packed = write_all(builder.write(Vec::new(), Compression::fast()), &[b"event"]).concat();
        // flate2 writes no checksum of the header: it goes behind the comment's zero.
        packed[3] |= 1 << 1;
        let end = packed.windows(10).position(|bytes| bytes == b"a comment\0").unwrap() + 10;
        packed.splice(end..end, *b"CR");
        for size in [1, 3, packed.len()] {
            assert_eq!(decompress("gzip", &packed, size).unwrap(), b"event");
        }
    }
}

#[test]
fn cut_body_yields_its_start_without_error() {
    for (coding, pack) in CODINGS {
        let packed = pack(&[b"first", b"second"]);
        let cut = [&packed[0], &packed[1][..packed[1].len() - 1]].concat();
        assert!(decompress(coding, &cut, cut.len()).unwrap().starts_with(b"first"), "{coding}");
        assert_eq!(decompress(coding, b"", 1).unwrap(), b"");
    }
}

// What is refused.

#[test]
fn broken_bytes_are_told_with_their_coding() {
    for (coding, pack) in CODINGS {
        let name = coding.to_lowercase();
        let mut packed = pack(&[&noise(100), &vec![b'a'; 1000]]).concat();
        let len = packed.len();
        packed[len / 3..].iter_mut().for_each(|byte| *byte ^= 0xff);
        let error = decompress(coding, &packed, 7).unwrap_err();
        assert!(matches!(&error, Incomplete::Corrupt(what) if what.starts_with(&name)), "{coding}: {error}");
    }
}

#[test]
fn bodies_in_another_coding_or_none_are_broken() {
    for coding in ["gzip", "zstd"] {
        let error = decompress(coding, b"data: plain\n\n", 1).unwrap_err();
        assert!(matches!(&error, Incomplete::Corrupt(what) if what.starts_with(coding)), "{error}");
    }
    let mut packed = gzip(&[b"event"]).concat();
    packed[2] = 7;
    assert_eq!(
        decompress("gzip", &packed, 1),
        Err(Incomplete::Corrupt("gzip: the method is not deflate".into()))
    );
    packed[2..4].copy_from_slice(&[8, 0x80]);
    assert_eq!(
        decompress("gzip", &packed, 1),
        Err(Incomplete::Corrupt("gzip: the header has reserved flags".into()))
    );
}

#[test]
fn checksums_and_lengths_are_compared() {
    let whole = gzip(&[b"event"]).concat();
    for (at, what) in [(8, "gzip: the checksum does not match"), (4, "gzip: the length does not match")] {
        let mut packed = whole.clone();
        packed[whole.len() - at] ^= 1;
        assert_eq!(decompress("gzip", &packed, 3), Err(Incomplete::Corrupt(what.into())));
    }
    for coding in [1, 4] {
        let (name, pack) = CODINGS[coding];
        let mut packed = pack(&[b"event"]).concat();
        *packed.last_mut().unwrap() ^= 1;
        assert!(matches!(decompress(name, &packed, 3), Err(Incomplete::Corrupt(_))), "{name}");
    }
}

#[test]
fn bomb_stops_at_limit_in_bounded_memory() {
    const MAX: u64 = 1_000_001;
    let mebibyte = vec![0; 1 << 20];
    for (coding, pack) in CODINGS {
        let [first, next, _] = pack(&[&mebibyte, &mebibyte]).try_into().unwrap();
        let packed = [first, next.repeat(1023)].concat();
        for size in [100, packed.len()] {
            let mut decompressor = decompressor(coding, MAX);
            let mut out = 0;
            let mut held = 0;
            let fed = packed.chunks(size).try_for_each(|chunk| {
                let fed = decompressor.feed(chunk, &mut |part| out += part.len() as u64);
                held = held.max(decompressor.held());
                fed
            });
            assert_eq!(fed, Err(Incomplete::Expansion { limit: MAX }), "{coding}");
            assert_eq!(out, MAX, "{coding}");
            assert!(held < 5 << 20, "{coding} held {held} bytes");
        }
    }
}

#[test]
fn exactly_the_limit_is_no_bomb() {
    for (coding, pack) in CODINGS {
        let mut decompressor = decompressor(coding, 5);
        let mut out = Vec::new();
        decompressor.feed(&pack(&[b"event"]).concat(), &mut |part| out.extend_from_slice(part)).unwrap();
        assert_eq!(out, b"event");
    }
}

#[test]
fn too_large_zstd_windows_are_refused() {
    let body = noise(1000);
    let fits = zstd(&[&body], 3, 23).concat();
    assert_eq!(decompress("zstd", &fits, fits.len()).unwrap(), body);
    let error = decompress("zstd", &zstd(&[&body], 3, 24).concat(), 100).unwrap_err();
    assert!(error.to_string().contains("too much memory"), "{error}");
}

#[test]
fn output_before_an_error_survives_any_cut() {
    let events = ["the first event ".repeat(200), "the second event ".repeat(2000)];
    let events: Vec<&[u8]> = events.iter().map(String::as_bytes).collect();
    for (coding, pack) in CODINGS.into_iter().filter(|(coding, _)| *coding != "br") {
        let mut packed = pack(&events);
        let last = packed.len() - 1;
        // No block begins so: its type is reserved.
        packed[last] = vec![0xff; 20];
        let packed = packed.concat();
        for size in [1, 7, packed.len()] {
            let mut decompressor = decompressor(coding, 1 << 30);
            let mut out = Vec::new();
            let mut chunks = packed.chunks(size);
            let fed = chunks
                .try_for_each(|chunk| decompressor.feed(chunk, &mut |part| out.extend_from_slice(part)));
            assert!(matches!(fed, Err(Incomplete::Corrupt(_))), "{coding}: {fed:?}");
            assert!(out == events.concat(), "{coding} in chunks of {size}: {} bytes", out.len());
        }
    }
}

#[test]
fn chunks_without_bytes_are_no_error() {
    for (coding, pack) in CODINGS {
        let mut decompressor = decompressor(coding, 1 << 30);
        let mut out = Vec::new();
        let packed = pack(&[b"an event"]);
        for chunk in packed.iter().flat_map(|chunk| [&chunk[..]].into_iter().chain([&b""[..]; 40])) {
            decompressor.feed(chunk, &mut |part| out.extend_from_slice(part)).unwrap();
        }
        assert_eq!(out, b"an event", "{coding}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_chunking_gives_the_same_bytes(
        events in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "[ab]{0,3000}".prop_map(String::into_bytes),
        ], 0..10),
        sizes in prop::collection::vec(1..200usize, 1..10),
        which in 0..CODINGS.len(),
    ) {
        let (coding, pack) = CODINGS[which];
        let events: Vec<_> = events.iter().map(Vec::as_slice).collect();
        let packed = pack(&events).concat();
        let mut decompressor = decompressor(coding, 1 << 20);
        let mut out = Vec::new();
        let mut rest = &packed[..];
        for size in sizes.iter().cycle() {
            let (chunk, more) = rest.split_at((*size).min(rest.len()));
            decompressor.feed(chunk, &mut |part| out.extend_from_slice(part)).unwrap();
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(out, events.concat());
    }

    #[test]
    fn any_bytes_are_unpacked_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        from in 0..40usize,
        size in 1..50usize,
        which in 0..CODINGS.len(),
    ) {
        let (coding, pack) = CODINGS[which];
        // The coding's own beginning, and then anything.
        let mut packed = pack(&[b"some event, and some event again"]).concat();
        packed.truncate(from);
        packed.extend(bytes);
        for size in [size, packed.len().max(1)] {
            if let Err(error) = decompress(coding, &packed, size) {
                prop_assert!(matches!(error, Incomplete::Corrupt(_)));
            }
        }
    }
}
