//! Decodes a body's content encodings (RFC 9110 section 8.4), gzip, deflate, br and zstd, within bounds.

mod decoders;

use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use self::decoders::{Brotli, Decoded, Decoder, Deflate, Gzip, InvalidEncoding, Zstd};
use super::BadRequest;
use crate::low_priority::thread_time;

/// Maximum number of encodings of one body: the sender's own, and one added by a proxy.
const ENCODINGS_MAX: usize = 2;

/// The size of the output buffer, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// How long to decode before yielding to other tasks.
const TIME_SLICE: Duration = Duration::from_millis(2);

/// Maximum CPU time for decoding one body, whatever it contains. A body of 10 MB takes a tenth of it. Builds without
/// optimization are slower and get more.
const TIME_MAX: Duration = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 1 });

/// Maximum number of concatenated streams in one body. Some senders write one stream for every 64 KiB.
const STREAMS_MAX: usize = 10_000;

/// The largest ratio of decoded to sent bytes, and the decoded bytes allowed on top of it for a body of any size.
/// Text and JSON compress to a fifth or a tenth, lists of uniform records to a fiftieth.
pub const EXPANSION_MAX: usize = 100;
const EXPANSION_FREE_BYTES: usize = 64 << 10;

/// A content encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, and bare RFC 1951, which some senders send under this name.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
}

/// Why a body cannot be decoded.
#[derive(Debug)]
pub enum DecodeError<E> {
    /// The body is invalid: the sender's fault.
    Request(BadRequest),
    /// The decoded body would exceed the body limit.
    TooLong,
    /// Decoding takes more CPU time than any body may use.
    TakesLong,
    /// The decoded body would be more than [`EXPANSION_MAX`] times as long as what was sent.
    Expands,
    /// There is no memory budget left for it.
    OverBudget(E),
}

/// Limits on decoding a body.
#[derive(Debug, Clone, Copy)]
pub struct DecodeLimits {
    /// Maximum number of decoded bytes.
    pub bytes_max: usize,
    /// The bytes received on the wire, before any encoding was removed.
    pub sent: usize,
}

/// A memory budget. Memory is reserved from it before it is allocated.
pub trait MemoryBudget: Send {
    /// Why a reservation was rejected.
    type Full;

    /// Reserves memory for the decoded body, so that the reservation is `bytes` in total.
    ///
    /// # Errors
    /// If the budget is exhausted.
    fn reserve_output(&mut self, bytes: usize) -> Result<(), Self::Full>;

    /// Reserves memory for `bytes` that a decoder holds while it works.
    ///
    /// # Errors
    /// If the budget is exhausted.
    fn reserve_window(&mut self, bytes: usize) -> Result<(), Self::Full>;
}

impl Encoding {
    /// Parses the encodings of a body, in the order in which they were applied.
    ///
    /// # Errors
    /// 415 if an encoding is unknown, or if there are too many.
    pub fn from_headers(headers: &HeaderMap) -> Result<Vec<Self>, BadRequest> {
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
                        return Err(BadRequest::unsupported(&format!(
                            "the content encoding {shown:?} is not accepted; send gzip, deflate, br, zstd or none"
                        )));
                    }
                });
                if encodings.len() > ENCODINGS_MAX {
                    let why =
                        format!("more than {ENCODINGS_MAX} content encodings are not accepted");
                    return Err(BadRequest::unsupported(&why));
                }
            }
        }
        Ok(encodings)
    }

    /// Decodes the body. Yields periodically so that other tasks can run.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub async fn decode<R: MemoryBudget>(
        self,
        body: &[u8],
        limits: DecodeLimits,
        budget: &mut R,
    ) -> Result<Vec<u8>, DecodeError<R::Full>> {
        let mut decoder = self.decoder(body, limits).map_err(|InvalidEncoding| self.broken())?;
        let mut decoded = DecodedBody { bytes: Vec::new(), limits, budget };
        decoded.budget.reserve_window(decoder.window()).map_err(DecodeError::OverBudget)?;
        let (mut chunk, mut streams) = (vec![0; CHUNK_BYTES], 1);
        let (mut computed, mut slice_started_at) =
            (Duration::ZERO, (Instant::now(), thread_time()));
        loop {
            match decoder.decode(&mut chunk).map_err(|InvalidEncoding| self.broken())? {
                Decoded::Bytes(made) => decoded.push(chunk.get(..made).unwrap_or_default())?,
                Decoded::NextStream => {
                    streams += 1;
                    if streams > STREAMS_MAX {
                        return Err(self.broken());
                    }
                    decoded
                        .budget
                        .reserve_window(decoder.window())
                        .map_err(DecodeError::OverBudget)?;
                }
                Decoded::End => return Ok(decoded.bytes),
            }
            if slice_started_at.0.elapsed() > TIME_SLICE {
                // CPU time, not wall time: on a busy machine, low-priority threads get little CPU.
                computed += thread_time().saturating_sub(slice_started_at.1);
                if computed > TIME_MAX {
                    return Err(DecodeError::TakesLong);
                }
                tokio::task::yield_now().await;
                slice_started_at = (Instant::now(), thread_time());
            }
        }
    }

    fn decoder(
        self,
        body: &[u8],
        limits: DecodeLimits,
    ) -> Result<Box<dyn Decoder + '_>, InvalidEncoding> {
        Ok(match self {
            Self::Gzip => Box::new(Gzip::new(body)),
            Self::Deflate => Box::new(Deflate::new(body)),
            Self::Brotli => Box::new(Brotli::new(body)),
            Self::Zstd => Box::new(Zstd::new(body, limits.bytes_max)?),
        })
    }

    fn broken<E>(self) -> DecodeError<E> {
        let name = match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        };
        DecodeError::Request(BadRequest::bad(&format!(
            "the body is not valid {name}, which it is declared as"
        )))
    }
}

/// The decoded output.
struct DecodedBody<'r, R> {
    bytes: Vec<u8>,
    limits: DecodeLimits,
    budget: &'r mut R,
}

impl<R: MemoryBudget> DecodedBody<'_, R> {
    /// Appends a piece. Memory is reserved before it is allocated.
    fn push(&mut self, chunk: &[u8]) -> Result<(), DecodeError<R::Full>> {
        let DecodeLimits { bytes_max, sent } = self.limits;
        let expanded_max = sent.saturating_mul(EXPANSION_MAX).saturating_add(EXPANSION_FREE_BYTES);
        let allowed_max = bytes_max.min(expanded_max);
        if chunk.len() > allowed_max - self.bytes.len() {
            let is_too_long = bytes_max <= expanded_max;
            return Err(if is_too_long { DecodeError::TooLong } else { DecodeError::Expands });
        }
        let needed = self.bytes.len() + chunk.len();
        if needed > self.bytes.capacity() {
            let doubled = self.bytes.capacity().saturating_mul(2);
            let capacity = doubled.min(allowed_max).max(needed);
            self.budget.reserve_output(capacity).map_err(DecodeError::OverBudget)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    /// Records the reservations, and rejects any larger than a bound.
    #[derive(Default)]
    struct Counted {
        grown: usize,
        grown_max: Option<usize>,
        window: usize,
    }

    impl MemoryBudget for Counted {
        type Full = &'static str;

        fn reserve_output(&mut self, bytes: usize) -> Result<(), &'static str> {
            self.grown = bytes;
            if self.grown_max.is_some_and(|max| bytes > max) { Err("full") } else { Ok(()) }
        }

        fn reserve_window(&mut self, bytes: usize) -> Result<(), &'static str> {
            self.window = self.window.max(bytes);
            Ok(())
        }
    }

    /// Decodes with a limit of 1 MiB and no limit on expansion.
    async fn decode(encoding: Encoding, body: &[u8]) -> Result<Vec<u8>, DecodeError<&'static str>> {
        let limits = DecodeLimits { bytes_max: 1 << 20, sent: 1 << 20 };
        encoding.decode(body, limits, &mut Counted::default()).await
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        io::Write::write_all(&mut gzip, text).unwrap();
        gzip.finish().unwrap()
    }

    fn encoded(text: &[u8]) -> Vec<(Encoding, Vec<u8>)> {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::best());
        for to in [&mut zlib as &mut dyn io::Write, &mut bare] {
            to.write_all(text).unwrap();
        }
        vec![
            (Encoding::Gzip, gzip(text)),
            (Encoding::Deflate, zlib.finish().unwrap()),
            (Encoding::Deflate, bare.finish().unwrap()),
            (Encoding::Zstd, zstd(text)),
        ]
    }

    /// "hello", compressed by the reference implementation.
    const BROTLI_HELLO: &[u8] = b"\x0b\x02\x80hello\x03";

    #[tokio::test]
    async fn each_encoding_is_undone_and_one_that_is_broken_or_cut_short_is_its_senders_fault() {
        let text = br#"{"ticket":"disk full","n":[1,2,3]}"#.repeat(100);
        let mut all = encoded(&text);
        assert_eq!(decode(Encoding::Brotli, BROTLI_HELLO).await.unwrap(), b"hello");
        for (encoding, body) in &all {
            assert_eq!(decode(*encoding, body).await.unwrap(), text, "{encoding:?}");
        }
        all.push((Encoding::Brotli, BROTLI_HELLO.to_vec()));
        for (encoding, body) in &all {
            for broken in [&body[..body.len() / 2], b"{\"ticket\":1}"] {
                let error = decode(*encoding, broken).await.unwrap_err();
                assert!(matches!(error, DecodeError::Request(_)), "{encoding:?}: {error:?}");
            }
        }
        for (encoding, body) in &all {
            let more = [body.as_slice(), b"x"].concat();
            assert!(decode(*encoding, &more).await.is_err(), "{encoding:?}: nothing may follow");
        }
        let mut wrong = zstd(&text);
        *wrong.last_mut().unwrap() ^= 1;
        assert!(decode(Encoding::Zstd, &wrong).await.is_err(), "its checksum is another");
        // A frame whose header declares 80 bytes, and which holds one.
        let short = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 80, 9, 0, 0, b'x'];
        assert!(decode(Encoding::Zstd, &short).await.is_err(), "it is not as long as it says");
    }

    #[tokio::test]
    async fn streams_one_behind_the_other_are_one_body_and_there_is_an_end_to_them() {
        let skipped = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        for (encoding, parts) in [
            (Encoding::Gzip, vec![gzip(b"one "), gzip(b""), gzip(b"two")]),
            (Encoding::Zstd, vec![zstd(b"one "), skipped.clone(), zstd(b"two")]),
            (Encoding::Zstd, vec![skipped.clone(), zstd(b"one two"), skipped]),
        ] {
            assert_eq!(
                decode(encoding, &parts.concat()).await.unwrap(),
                b"one two",
                "{encoding:?}"
            );
        }
        for (encoding, empty) in [(Encoding::Gzip, gzip(b"")), (Encoding::Zstd, zstd(b""))] {
            let many = empty.repeat(STREAMS_MAX + 1);
            let error = decode(encoding, &many).await.unwrap_err();
            assert!(matches!(error, DecodeError::Request(_)), "{encoding:?}: {error:?}");
        }
    }

    #[tokio::test]
    async fn a_bomb_is_undone_as_far_as_a_body_may_be_long_and_room_is_asked_for_before() {
        let text = vec![b' '; 50 << 20];
        for (encoding, body) in encoded(&text) {
            assert!(body.len() < 1 << 20);
            let limits = DecodeLimits { bytes_max: 1 << 20, sent: 1 << 20 };
            let mut budget = Counted::default();
            let decoded = encoding.decode(&body, limits, &mut budget).await;
            assert!(matches!(decoded, Err(DecodeError::TooLong)), "{encoding:?}");
            assert!(budget.grown <= 1 << 20);
            let mut budget = Counted { grown_max: Some(100_000), ..Counted::default() };
            let full = encoding.decode(&body, limits, &mut budget).await;
            assert!(matches!(full, Err(DecodeError::OverBudget("full"))), "{encoding:?}");
            // Even with a large body limit, a small input does not expand without bound.
            let limits = DecodeLimits { bytes_max: 64 << 20, sent: 2_000 };
            let mut budget = Counted::default();
            let expands = encoding.decode(&body, limits, &mut budget).await;
            assert!(matches!(expands, Err(DecodeError::Expands)), "{encoding:?}");
            assert!(budget.grown <= 2_000 * EXPANSION_MAX + EXPANSION_FREE_BYTES);
        }
    }

    #[tokio::test]
    async fn what_is_much_work_and_little_else_is_undone_a_little_at_a_time() {
        // Empty blocks, three bytes each.
        let blocks = [0, 0, 0].repeat(1_000_000);
        let frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0, 0x58][..], &blocks, &[1, 0, 0]].concat();
        let limits = DecodeLimits { bytes_max: 1 << 20, sent: frame.len() };
        let mut budget = Counted::default();
        let mut decoding = Box::pin(Encoding::Zstd.decode(&frame, limits, &mut budget));
        let mut turns = 0;
        let decoded = std::future::poll_fn(|context| {
            turns += 1;
            decoding.as_mut().poll(context)
        });
        assert_eq!(decoded.await.unwrap(), b"");
        assert!(turns > 10, "{turns}");
    }

    #[tokio::test]
    async fn a_window_that_is_larger_than_a_body_is_refused_before_it_is_made_and_others_are_counted()
     {
        // The header of Brotli's non-standard "large window" format, with 30 bits.
        let large = [0x11, 0x9e, 0x02, 0x00, 0x00, 0x03];
        assert!(matches!(decode(Encoding::Brotli, &large).await, Err(DecodeError::Request(_))));
        // A window of 96 MiB, and no data.
        let large = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x84, 0x01, 0x00, 0x00];
        assert!(matches!(decode(Encoding::Zstd, &large).await, Err(DecodeError::Request(_))));
        let limits = DecodeLimits { bytes_max: 1 << 20, sent: 1 << 20 };
        let mut budget = Counted::default();
        Encoding::Brotli.decode(BROTLI_HELLO, limits, &mut budget).await.unwrap();
        assert_eq!(budget.window, 4 << 20);
    }

    #[test]
    fn encodings_are_read_from_all_headers_in_their_order() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, value.parse().unwrap());
            }
            Encoding::from_headers(&headers)
        };
        assert_eq!(of(&[]).unwrap(), []);
        assert_eq!(of(&["identity", " Identity, "]).unwrap(), []);
        assert_eq!(of(&["X-GZip, identity", "br"]).unwrap(), [Encoding::Gzip, Encoding::Brotli]);
        for refused in [&["compress"][..], &["gzip, gzip, gzip"], &["gzip", "aes128gcm"]] {
            assert!(of(refused).is_err(), "{refused:?}");
        }
    }
}
