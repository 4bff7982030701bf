//! Content encodings of a body, undone (RFC 9110 section 8.4): gzip, deflate, br and zstd, within bounds.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress, Status};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use super::IntakeError;

/// How many encodings one upon the other are undone. Nobody has a use for more than one.
const ENCODINGS_MAX: usize = 2;

/// What is undone at a time, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// A content encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, and RFC 1951 without its wrapping, which some senders take it for.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
}

/// Why a body cannot be had without its encodings.
#[derive(Debug)]
pub enum UndoError<E> {
    /// Its sender's fault.
    Request(IntakeError),
    /// It would be longer than a body may be.
    TooLong,
    /// There is no room for it.
    NoRoom(E),
}

impl Encoding {
    /// The encodings of a body, in the order in which they were applied.
    ///
    /// # Errors
    /// 415 for one that is not known, and for too many.
    pub fn of(headers: &HeaderMap) -> Result<Vec<Self>, IntakeError> {
        let mut encodings = Vec::new();
        for value in headers.get_all(CONTENT_ENCODING) {
            let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
            for name in text.split(',').map(str::trim) {
                encodings.push(match name {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "deflate" => Self::Deflate,
                    "br" => Self::Brotli,
                    "zstd" => Self::Zstd,
                    other => {
                        let shown: String = other.chars().take(40).collect();
                        return Err(IntakeError::unsupported(&format!(
                            "the content encoding {shown:?} is not accepted; send gzip, deflate, br, zstd or none"
                        )));
                    }
                });
                if encodings.len() > ENCODINGS_MAX {
                    let why =
                        format!("more than {ENCODINGS_MAX} content encodings are not accepted");
                    return Err(IntakeError::unsupported(&why));
                }
            }
        }
        Ok(encodings)
    }

    /// The body that this one is the encoding of. `grow` is asked before it gets longer than it said so far.
    ///
    /// # Errors
    /// [`UndoError`].
    pub fn undo<E>(
        self,
        body: &[u8],
        bytes_max: usize,
        grow: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Vec<u8>, UndoError<E>> {
        let mut undone = Undone { bytes: Vec::new(), bytes_max, grow };
        let (name, done) = match self {
            Self::Gzip => ("gzip", undone.read(flate2::read::MultiGzDecoder::new(body))),
            // The first byte of a zlib stream says its method, deflate, and its window, up to 32 KiB.
            Self::Deflate => {
                let is_zlib = body.first().is_some_and(|byte| byte & 0x8f == 8);
                ("deflate", undone.inflate(body, is_zlib))
            }
            Self::Brotli => {
                ("br", undone.read(brotli_decompressor::Decompressor::new(body, PIECE_BYTES)))
            }
            Self::Zstd => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(body);
                let read = |decoder| undone.read(decoder);
                ("zstd", decoder.map_err(|_| ReadError::Broken).and_then(read))
            }
        };
        done.map(|()| undone.bytes).map_err(|error| match error {
            ReadError::Broken => UndoError::Request(IntakeError::bad(&format!(
                "the body is not valid {name}, which it is declared as"
            ))),
            ReadError::TooLong => UndoError::TooLong,
            ReadError::NoRoom(error) => UndoError::NoRoom(error),
        })
    }
}

enum ReadError<E> {
    Broken,
    TooLong,
    NoRoom(E),
}

/// What comes out.
struct Undone<G> {
    bytes: Vec<u8>,
    bytes_max: usize,
    grow: G,
}

impl<E, G: FnMut(usize) -> Result<(), E>> Undone<G> {
    fn read(&mut self, mut from: impl Read) -> Result<(), ReadError<E>> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match from.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(read) => self.push(piece.get(..read).unwrap_or_default())?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(ReadError::Broken),
            }
        }
    }

    /// The library's reader takes a stream that is cut short for one that has ended.
    fn inflate(&mut self, body: &[u8], is_zlib: bool) -> Result<(), ReadError<E>> {
        let mut inflater = Decompress::new(is_zlib);
        let (mut rest, mut piece) = (body, vec![0; PIECE_BYTES]);
        loop {
            let (taken, made) = (inflater.total_in(), inflater.total_out());
            let status = inflater.decompress(rest, &mut piece, FlushDecompress::None);
            let status = status.map_err(|_| ReadError::Broken)?;
            let bytes = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
            let taken = bytes(inflater.total_in(), taken);
            let made = bytes(inflater.total_out(), made);
            self.push(piece.get(..made).unwrap_or_default())?;
            rest = rest.get(taken..).unwrap_or_default();
            match status {
                Status::StreamEnd => return Ok(()),
                Status::Ok | Status::BufError if taken == 0 && made == 0 => {
                    return Err(ReadError::Broken);
                }
                Status::Ok | Status::BufError => {}
            }
        }
    }

    /// Adds a piece. Room is asked for before it is made.
    fn push(&mut self, piece: &[u8]) -> Result<(), ReadError<E>> {
        if piece.len() > self.bytes_max - self.bytes.len() {
            return Err(ReadError::TooLong);
        }
        let needed = self.bytes.len() + piece.len();
        if needed > self.bytes.capacity() {
            let doubled = self.bytes.capacity().saturating_mul(2);
            let room = doubled.min(self.bytes_max).max(needed);
            (self.grow)(room).map_err(ReadError::NoRoom)?;
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    fn undo(encoding: Encoding, body: &[u8]) -> Result<Vec<u8>, UndoError<Infallible>> {
        encoding.undo(body, 1 << 20, |_| Ok(()))
    }

    fn encoded(text: &[u8]) -> Vec<(Encoding, Vec<u8>)> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::best());
        for to in [&mut gzip as &mut dyn io::Write, &mut zlib, &mut bare] {
            to.write_all(text).unwrap();
        }
        let zstd =
            ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest);
        vec![
            (Encoding::Gzip, gzip.finish().unwrap()),
            (Encoding::Deflate, zlib.finish().unwrap()),
            (Encoding::Deflate, bare.finish().unwrap()),
            (Encoding::Zstd, zstd),
        ]
    }

    #[test]
    fn each_encoding_is_undone_and_one_that_is_broken_or_cut_short_is_its_senders_fault() {
        let text = br#"{"ticket":"disk full","n":[1,2,3]}"#.repeat(100);
        let mut all = encoded(&text);
        // "hello" by the reference implementation.
        let hello = b"\x0b\x02\x80hello\x03".to_vec();
        assert_eq!(undo(Encoding::Brotli, &hello).unwrap(), b"hello");
        for (encoding, body) in &all {
            assert_eq!(undo(*encoding, body).unwrap(), text, "{encoding:?}");
        }
        all.push((Encoding::Brotli, hello));
        for (encoding, body) in &all {
            for broken in [&body[..body.len() / 2], b"{\"ticket\":1}"] {
                let error = undo(*encoding, broken).unwrap_err();
                assert!(matches!(error, UndoError::Request(_)), "{encoding:?}: {error:?}");
            }
        }
    }

    #[test]
    fn a_bomb_is_undone_as_far_as_a_body_may_be_long_and_room_is_asked_for_before() {
        let text = vec![b' '; 50 << 20];
        for (encoding, body) in encoded(&text) {
            assert!(body.len() < 1 << 20);
            let mut asked = 0;
            let undone = encoding.undo(&body, 1 << 20, |room| {
                asked = room;
                Ok::<_, Infallible>(())
            });
            assert!(matches!(undone, Err(UndoError::TooLong)), "{encoding:?}");
            assert!(asked <= 1 << 20);
            let full = encoding
                .undo(&body, 1 << 20, |room| if room > 100_000 { Err("full") } else { Ok(()) });
            assert!(matches!(full, Err(UndoError::NoRoom("full"))), "{encoding:?}");
        }
    }

    #[test]
    fn encodings_are_read_from_all_headers_in_their_order() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, value.parse().unwrap());
            }
            Encoding::of(&headers)
        };
        assert_eq!(of(&[]).unwrap(), []);
        assert_eq!(of(&["identity", " Identity, "]).unwrap(), []);
        assert_eq!(of(&["X-GZip, identity", "br"]).unwrap(), [Encoding::Gzip, Encoding::Brotli]);
        for refused in [&["compress"][..], &["gzip, gzip, gzip"], &["gzip", "aes128gcm"]] {
            assert!(of(refused).is_err(), "{refused:?}");
        }
    }
}
