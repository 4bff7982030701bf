//! Decoders of content encodings, piece by piece. How much memory each needs besides what comes out is known from the
//! beginning of what it is given, before it takes any.

use std::io::Read as _;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::bufread::GzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// Largest window of zstd, in bytes: what a sender may use and everybody takes (RFC 9659 section 3).
const ZSTD_WINDOW_BYTES_MAX: u64 = 8 << 20;

/// What a decoder for a window of 32 KiB holds altogether, about.
const INFLATER_BYTES: usize = 48 << 10;

/// It is not what it is declared as, or asks for more memory than senders may.
#[derive(Debug)]
pub(super) struct Broken;

/// What came of decoding on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoded {
    /// So many bytes.
    Bytes(usize),
    /// Another stream follows what has ended: gzip and zstd may be put one behind the other.
    NextStream,
    /// All has been decoded.
    End,
}

/// A decoder of one body.
pub(super) trait Decoder: Send {
    /// Bytes that it holds at most from now on until the next stream, besides what comes out.
    fn window(&self) -> usize;

    /// Decodes into this piece.
    fn decode(&mut self, piece: &mut [u8]) -> Result<Decoded, Broken>;
}

/// RFC 1952.
pub(super) struct Gzip<'b>(Option<GzDecoder<&'b [u8]>>);

impl<'b> Gzip<'b> {
    pub(super) fn new(body: &'b [u8]) -> Self {
        Self(Some(GzDecoder::new(body)))
    }
}

impl Decoder for Gzip<'_> {
    fn window(&self) -> usize {
        INFLATER_BYTES
    }

    fn decode(&mut self, piece: &mut [u8]) -> Result<Decoded, Broken> {
        let Some(member) = &mut self.0 else { return Ok(Decoded::End) };
        let read = member.read(piece).map_err(|_| Broken)?;
        if read > 0 {
            return Ok(Decoded::Bytes(read));
        }
        let rest = self.0.take().map(GzDecoder::into_inner).unwrap_or_default();
        if rest.is_empty() {
            return Ok(Decoded::End);
        }
        self.0 = Some(GzDecoder::new(rest));
        Ok(Decoded::NextStream)
    }
}

/// RFC 1950, and RFC 1951 without its wrapping.
pub(super) struct Deflate<'b> {
    inflater: Decompress,
    rest: &'b [u8],
    ended: bool,
}

impl<'b> Deflate<'b> {
    pub(super) fn new(body: &'b [u8]) -> Self {
        // The first byte of a zlib stream says its method, deflate, and its window, up to 32 KiB.
        let is_zlib = body.first().is_some_and(|byte| byte & 0x8f == 8);
        Self { inflater: Decompress::new(is_zlib), rest: body, ended: false }
    }
}

impl Decoder for Deflate<'_> {
    fn window(&self) -> usize {
        INFLATER_BYTES
    }

    /// The library's reader takes a stream that is cut short for one that has ended.
    fn decode(&mut self, piece: &mut [u8]) -> Result<Decoded, Broken> {
        if self.ended {
            return Ok(Decoded::End);
        }
        let (taken, made) = (self.inflater.total_in(), self.inflater.total_out());
        let status = self.inflater.decompress(self.rest, piece, FlushDecompress::None);
        let status = status.map_err(|_| Broken)?;
        let bytes = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        let taken = bytes(self.inflater.total_in(), taken);
        let made = bytes(self.inflater.total_out(), made);
        self.rest = self.rest.get(taken..).unwrap_or_default();
        match status {
            Status::StreamEnd => self.ended = true,
            Status::Ok | Status::BufError if taken == 0 && made == 0 => return Err(Broken),
            Status::Ok | Status::BufError => {}
        }
        Ok(Decoded::Bytes(made))
    }
}

/// RFC 7932, without the larger windows that some encoders can use besides.
pub(super) struct Brotli<'b> {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    body: &'b [u8],
    taken: usize,
    made: usize,
    ended: bool,
    window: usize,
}

impl<'b> Brotli<'b> {
    pub(super) fn new(body: &'b [u8]) -> Self {
        let alloc = StandardAlloc::default;
        let state = BrotliState::new_strict(alloc(), alloc(), alloc());
        Self { state, body, taken: 0, made: 0, ended: false, window: brotli_window(body) }
    }
}

/// The window that a stream names first (RFC 7932 section 9.1), in bytes.
fn brotli_window(body: &[u8]) -> usize {
    let first = body.first().copied().unwrap_or_default();
    let bits = match (first & 1, (first >> 1) & 7, (first >> 4) & 7) {
        (0, ..) => 16,
        (_, 0, 0) => 17,
        (_, 0, bits) => 8 + bits,
        (_, bits, _) => 17 + bits,
    };
    1 << bits
}

impl Decoder for Brotli<'_> {
    fn window(&self) -> usize {
        self.window
    }

    fn decode(&mut self, piece: &mut [u8]) -> Result<Decoded, Broken> {
        if self.ended {
            return Ok(Decoded::End);
        }
        let mut left = self.body.len() - self.taken;
        let (mut room, mut made) = (piece.len(), 0);
        let result = BrotliDecompressStream(
            &mut left, &mut self.taken, self.body, &mut room, &mut made, piece, &mut self.made,
            &mut self.state,
        );
        match result {
            // Nothing may follow.
            BrotliResult::ResultSuccess if left == 0 => self.ended = true,
            BrotliResult::NeedsMoreOutput if made > 0 => {}
            _ => return Err(Broken),
        }
        Ok(Decoded::Bytes(made))
    }
}

/// RFC 8878.
pub(super) struct Zstd<'b> {
    frame: Option<StreamingDecoder<&'b [u8], FrameDecoder>>,
    window: usize,
    /// Most of a window, which may be as long as the body where that is said before.
    window_max: u64,
}

impl<'b> Zstd<'b> {
    /// A decoder for a body that may be so long.
    pub(super) fn new(body: &'b [u8], bytes_max: usize) -> Result<Self, Broken> {
        let bytes_max = u64::try_from(bytes_max).unwrap_or(u64::MAX);
        let window_max = ZSTD_WINDOW_BYTES_MAX.max(bytes_max);
        let mut zstd = Self { frame: None, window: 0, window_max };
        zstd.begin(body)?;
        Ok(zstd)
    }

    /// Begins with a frame.
    fn begin(&mut self, rest: &'b [u8]) -> Result<(), Broken> {
        let rest = skipped(rest)?;
        if rest.is_empty() {
            return Ok(());
        }
        let window = zstd_window(rest).filter(|window| *window <= self.window_max).ok_or(Broken)?;
        self.window = usize::try_from(window).map_err(|_| Broken)?;
        self.frame = Some(StreamingDecoder::new(rest).map_err(|_| Broken)?);
        Ok(())
    }
}

/// What stands behind the frames that are to be skipped (RFC 8878 section 3.1.2).
fn skipped(mut rest: &[u8]) -> Result<&[u8], Broken> {
    while let Some((head, after)) = rest.split_at_checked(8) {
        let [0x50..=0x5f, 0x2a, 0x4d, 0x18, length @ ..] = head else { break };
        let length = u32::from_le_bytes(length.try_into().map_err(|_| Broken)?);
        let length = usize::try_from(length).map_err(|_| Broken)?;
        rest = after.get(length..).ok_or(Broken)?;
    }
    Ok(rest)
}

/// The window of a frame, in bytes (RFC 8878 sections 3.1.1.1.1 and 3.1.1.1.2). None: it is no frame.
fn zstd_window(frame: &[u8]) -> Option<u64> {
    let rest = frame.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?;
    let (descriptor, rest) = rest.split_first()?;
    let is_single = descriptor & 0x20 != 0;
    if !is_single {
        let window = rest.first()?;
        let base = 1_u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    let dictionary_bytes = [0, 1, 2, 4].get(usize::from(descriptor & 3))?;
    let content = rest.get(*dictionary_bytes..)?;
    Some(match descriptor >> 6 {
        0 => u64::from(*content.first()?),
        1 => u64::from(u16::from_le_bytes(content.get(..2)?.try_into().ok()?)) + 256,
        2 => u64::from(u32::from_le_bytes(content.get(..4)?.try_into().ok()?)),
        _ => u64::from_le_bytes(content.get(..8)?.try_into().ok()?),
    })
}

impl Decoder for Zstd<'_> {
    fn window(&self) -> usize {
        self.window
    }

    fn decode(&mut self, piece: &mut [u8]) -> Result<Decoded, Broken> {
        let Some(frame) = &mut self.frame else { return Ok(Decoded::End) };
        let read = frame.read(piece).map_err(|_| Broken)?;
        if read > 0 {
            return Ok(Decoded::Bytes(read));
        }
        let rest = self.frame.take().map(StreamingDecoder::into_inner).unwrap_or_default();
        self.begin(rest)?;
        Ok(if self.frame.is_some() { Decoded::NextStream } else { Decoded::End })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_as_the_standards_have_them() {
        // What `brotli --lgwin=N` begins with.
        for (first, bits) in
            [(0x00, 16), (0x01, 17), (0x03, 18), (0x0b, 22), (0x0f, 24), (0x21, 10), (0x71, 15)]
        {
            assert_eq!(brotli_window(&[first]), 1 << bits, "{first:x}");
        }
        let frame = |bytes: &[u8]| zstd_window(&[&[0x28, 0xb5, 0x2f, 0xfd], bytes].concat());
        assert_eq!(frame(&[0x00, 0x00]), Some(1 << 10));
        assert_eq!(frame(&[0x00, 0x58]), Some(2 << 20));
        assert_eq!(frame(&[0x00, 0x81]), Some((64 << 20) / 8 * 9));
        assert_eq!(frame(&[0x20, 5]), Some(5));
        assert_eq!(frame(&[0x60, 5, 1]), Some(517));
        assert_eq!(frame(&[0xa1, 9, 0, 0, 1, 0]), Some(1 << 16));
        assert_eq!(frame(&[0xe0, 0, 0, 0, 0, 1, 0, 0, 0]), Some(1 << 32));
        assert_eq!((frame(&[]), frame(&[0x20])), (None, None));
    }
}
