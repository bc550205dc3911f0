//! Bodies without their `content-encoding` (RFC 9110, 8.4). Bounded in what comes out: a few bytes may unpack to gigabytes.

use std::{
    borrow::Cow,
    io::{self, Read},
};

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header::CONTENT_ENCODING};

use super::Room;

/// Bytes that a body may have when it is decoded. Bodies are decoded where they are compared, one pair a thread at a time.
const MOST: usize = 4 << 20;
/// The window that zstd may ask for, as RFC 9659 bounds it on the web: 8 MiB.
const ZSTD_WINDOW: u32 = 23;
const BROTLI_BUFFER: usize = 4096;
/// What is read at first; then as much again as there is.
const FIRST: usize = 16 << 10;
/// Of what comes out: it is copied to where there is more room for it, and decoders keep a window of it.
const TAKEN: usize = 3;

/// Why a body could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// Its coding is not known, or is more than one.
    Unknown,
    /// It is longer than is compared.
    TooLong,
    /// It is not what its coding says.
    Broken,
    /// There was no more memory for it.
    NoRoom,
}

/// The body without its coding.
pub(super) fn decoded<'b>(headers: &HeaderMap, body: &'b [u8], room: &mut dyn Room) -> Result<Cow<'b, [u8]>, Failed> {
    let mut lines = headers.get_all(CONTENT_ENCODING).iter();
    let coding = match (lines.next(), lines.next()) {
        (None, _) => return Ok(Cow::Borrowed(body)),
        (Some(coding), None) => coding.as_bytes().trim_ascii().to_ascii_lowercase(),
        _ => return Err(Failed::Unknown),
    };
    // A HEAD and a 304 name the coding of a body that does not come.
    if body.is_empty() {
        return Ok(Cow::Borrowed(body));
    }
    match coding.as_slice() {
        b"identity" => Ok(Cow::Borrowed(body)),
        b"gzip" | b"x-gzip" => read(MultiGzDecoder::new(body), room),
        b"deflate" => read(ZlibDecoder::new(body), room),
        b"br" => read(brotli_decompressor::Decompressor::new(body, BROTLI_BUFFER), room),
        b"zstd" => read(zstd(body).map_err(|_| Failed::Broken)?, room),
        _ => Err(Failed::Unknown),
    }
}

fn zstd(body: &[u8]) -> io::Result<impl Read + '_> {
    let mut reader = zstd::stream::read::Decoder::with_buffer(body)?;
    reader.window_log_max(ZSTD_WINDOW)?;
    Ok(reader)
}

fn read<'b>(mut reader: impl Read, room: &mut dyn Room) -> Result<Cow<'b, [u8]>, Failed> {
    let (mut bytes, mut length) = (Vec::new(), 0);
    loop {
        if length == bytes.len() {
            if length > MOST {
                return Err(Failed::TooLong);
            }
            let more = length.clamp(FIRST, MOST + 1);
            if !room.take(more * TAKEN) {
                return Err(Failed::NoRoom);
            }
            bytes.resize(length + more, 0);
        }
        match reader.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Failed::Broken),
        }
    }
    bytes.truncate(length);
    if length > MOST { Err(Failed::TooLong) } else { Ok(Cow::Owned(bytes)) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::{compare::Unbounded, tests::headers};

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(text).unwrap();
        writer.finish().unwrap()
    }

    fn decode(coding: &str, body: &[u8]) -> Result<Vec<u8>, Failed> {
        decoded(&headers(&[("content-encoding", coding)]), body, &mut Unbounded).map(Cow::into_owned)
    }

    #[test]
    fn every_coding_is_read() {
        let text = b"the same text, again and again and again".repeat(50);
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(&text).unwrap();
        for (coding, body) in [
            ("gzip", gzip(&text)),
            ("X-GZIP", gzip(&text)),
            ("deflate", zlib.finish().unwrap()),
            ("zstd", zstd::encode_all(&text[..], 3).unwrap()),
            ("identity", text.clone()),
        ] {
            assert_eq!(decode(coding, &body), Ok(text.clone()), "{coding}");
        }
        // As Google's encoder writes it, quality 11.
        let brotli = [
            0x1b, 0x27, 0x00, 0xf8, 0xa5, 0x40, 0x58, 0x5a, 0x90, 0x43, 0x26, 0x11, 0x46, 0x2b, 0x90, 0x02, 0x32, 0x0e,
            0x31, 0x83, 0x75, 0xbf, 0x03,
        ];
        assert_eq!(decode("br", &brotli), Ok(b"the same text, again and again and again".to_vec()));
    }

    #[test]
    fn what_unpacks_to_more_than_the_bound_is_refused_before_it_is_unpacked() {
        let bomb = gzip(&vec![0; MOST + 1]);
        assert!(bomb.len() < MOST / 100);
        assert_eq!(decode("gzip", &bomb), Err(Failed::TooLong));
        assert_eq!(decode("gzip", &gzip(&vec![0; MOST])).map(|body| body.len()), Ok(MOST));
    }

    #[test]
    fn what_is_not_its_coding_is_broken_and_other_codings_are_unknown() {
        for coding in ["gzip", "deflate", "br", "zstd"] {
            assert_eq!(decode(coding, b"<html>no such thing</html>"), Err(Failed::Broken), "{coding}");
        }
        let whole = gzip(b"cut off");
        assert_eq!(decode("gzip", &whole[..whole.len() - 4]), Err(Failed::Broken));
        assert_eq!(decode("compress", b"x"), Err(Failed::Unknown));
        assert_eq!(decode("gzip, br", b"x"), Err(Failed::Unknown));
        assert_eq!(decode("gzip", b""), Ok(Vec::new()));
    }
}
