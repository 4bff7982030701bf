//! Incremental decoders of content encodings. Each reports the memory that it needs, besides its output, from the
//! first bytes of its input and before it allocates.

use std::io::Read as _;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::bufread::GzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The largest zstd window, in bytes: senders may use up to this, and every receiver supports it (RFC 9659 section
/// 3).
const ZSTD_WINDOW_BYTES_MAX: u64 = 8 << 20;

/// The approximate memory of a decoder with a window of 32 KiB.
const INFLATER_BYTES: usize = 48 << 10;

/// The input is not what it is declared as, or asks for more memory than allowed.
#[derive(Debug)]
pub(in crate::request::content) struct InvalidEncoding;

/// How much input to consume per step, in bytes for Brotli and in blocks for zstd. Without this bound, input that
/// produces no output could take a long time in one step.
const BROTLI_INPUT_BYTES: usize = 1 << 10;
const ZSTD_BLOCKS: usize = 4;

/// The result of one decoding step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::request::content) enum Decoded {
    /// This many bytes were produced, possibly none.
    Bytes(usize),
    /// The stream ended and another follows: gzip and zstd streams can be concatenated.
    NextStream,
    /// Everything has been decoded.
    End,
}

/// Decodes one body.
pub(in crate::request::content) trait Decoder: Send {
    /// Maximum memory of the decoder until the next stream begins, in bytes, besides its output.
    fn window(&self) -> usize;

    /// Decodes into `chunk`.
    fn decode(&mut self, chunk: &mut [u8]) -> Result<Decoded, InvalidEncoding>;
}

/// gzip (RFC 1952).
pub(in crate::request::content) struct Gzip<'b>(Option<GzDecoder<&'b [u8]>>);

impl<'b> Gzip<'b> {
    pub(in crate::request::content) fn new(body: &'b [u8]) -> Self {
        Self(Some(GzDecoder::new(body)))
    }
}

impl Decoder for Gzip<'_> {
    fn window(&self) -> usize {
        INFLATER_BYTES
    }

    fn decode(&mut self, chunk: &mut [u8]) -> Result<Decoded, InvalidEncoding> {
        let Some(member) = &mut self.0 else { return Ok(Decoded::End) };
        let read = member.read(chunk).map_err(|_| InvalidEncoding)?;
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

/// zlib (RFC 1950), and bare deflate (RFC 1951).
pub(in crate::request::content) struct Deflate<'b> {
    inflater: Decompress,
    rest: &'b [u8],
    ended: bool,
}

impl<'b> Deflate<'b> {
    pub(in crate::request::content) fn new(body: &'b [u8]) -> Self {
        // The first byte of a zlib stream holds its method, deflate, and its window size, at most 32 KiB.
        let is_zlib = body.first().is_some_and(|byte| byte & 0x8f == 8);
        Self { inflater: Decompress::new(is_zlib), rest: body, ended: false }
    }
}

impl Decoder for Deflate<'_> {
    fn window(&self) -> usize {
        INFLATER_BYTES
    }

    /// Uses the low-level API because the library's reader treats a truncated stream as complete.
    fn decode(&mut self, chunk: &mut [u8]) -> Result<Decoded, InvalidEncoding> {
        if self.ended {
            return Ok(Decoded::End);
        }
        let (taken, made) = (self.inflater.total_in(), self.inflater.total_out());
        let status = self.inflater.decompress(self.rest, chunk, FlushDecompress::None);
        let status = status.map_err(|_| InvalidEncoding)?;
        let bytes = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        let taken = bytes(self.inflater.total_in(), taken);
        let made = bytes(self.inflater.total_out(), made);
        self.rest = self.rest.get(taken..).unwrap_or_default();
        match status {
            // Trailing data is an error.
            Status::StreamEnd if self.rest.is_empty() => self.ended = true,
            Status::StreamEnd => return Err(InvalidEncoding),
            Status::Ok | Status::BufError if taken == 0 && made == 0 => {
                return Err(InvalidEncoding);
            }
            Status::Ok | Status::BufError => {}
        }
        Ok(Decoded::Bytes(made))
    }
}

/// Brotli (RFC 7932), without the non-standard large windows of some encoders.
pub(in crate::request::content) struct Brotli<'b> {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    body: &'b [u8],
    taken: usize,
    made: usize,
    ended: bool,
    window: usize,
}

impl<'b> Brotli<'b> {
    pub(in crate::request::content) fn new(body: &'b [u8]) -> Self {
        let alloc = StandardAlloc::default;
        let state = BrotliState::new_strict(alloc(), alloc(), alloc());
        Self { state, body, taken: 0, made: 0, ended: false, window: brotli_window(body) }
    }
}

/// The window size in the header of a stream (RFC 7932 section 9.1), in bytes.
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

    fn decode(&mut self, chunk: &mut [u8]) -> Result<Decoded, InvalidEncoding> {
        if self.ended {
            return Ok(Decoded::End);
        }
        let end = self.taken.saturating_add(BROTLI_INPUT_BYTES).min(self.body.len());
        let mut left = end - self.taken;
        let (mut room, mut made) = (chunk.len(), 0);
        let result = BrotliDecompressStream(
            &mut left, &mut self.taken, self.body, &mut room, &mut made, chunk, &mut self.made,
            &mut self.state,
        );
        match result {
            // Trailing data is an error.
            BrotliResult::ResultSuccess if self.taken == self.body.len() => self.ended = true,
            BrotliResult::NeedsMoreOutput if made > 0 => {}
            BrotliResult::NeedsMoreInput if end < self.body.len() => {}
            _ => return Err(InvalidEncoding),
        }
        Ok(Decoded::Bytes(made))
    }
}

/// zstd (RFC 8878).
pub(in crate::request::content) struct Zstd<'b> {
    frame: FrameDecoder,
    rest: &'b [u8],
    window: usize,
    /// The largest window. It can be as large as the body limit, because a single-segment frame declares its content
    /// size as its window.
    window_max: u64,
    /// The bytes of the frame decoded so far, and the content size that its header declares.
    made: u64,
    declared_bytes: Option<u64>,
    ended: bool,
}

impl<'b> Zstd<'b> {
    /// Creates a decoder for a body of at most `bytes_max`.
    pub(in crate::request::content) fn new(
        body: &'b [u8],
        bytes_max: usize,
    ) -> Result<Self, InvalidEncoding> {
        let bytes_max = u64::try_from(bytes_max).unwrap_or(u64::MAX);
        let mut zstd = Self {
            frame: FrameDecoder::new(),
            rest: body,
            window: 0,
            window_max: ZSTD_WINDOW_BYTES_MAX.max(bytes_max),
            made: 0,
            declared_bytes: None,
            ended: false,
        };
        zstd.begin()?;
        Ok(zstd)
    }

    /// Starts the next frame, if there is one.
    fn begin(&mut self) -> Result<(), InvalidEncoding> {
        self.rest = skipped(self.rest)?;
        if self.rest.is_empty() {
            self.ended = true;
            return Ok(());
        }
        let head = FrameHeader::parse(self.rest).ok_or(InvalidEncoding)?;
        let window = Some(head.window).filter(|window| *window <= self.window_max);
        self.window =
            usize::try_from(window.ok_or(InvalidEncoding)?).map_err(|_| InvalidEncoding)?;
        (self.made, self.declared_bytes) = (0, head.content);
        self.frame.reset(&mut self.rest).map_err(|_| InvalidEncoding)
    }

    /// Whether a finished frame matches its declared size and checksum.
    fn is_whole(&self) -> bool {
        let sum = self.frame.get_checksum_from_data();
        self.declared_bytes.is_none_or(|declared| declared == self.made)
            && sum.is_none_or(|sum| self.frame.get_calculated_checksum() == Some(sum))
    }
}

/// Skips the skippable frames (RFC 8878 section 3.1.2).
fn skipped(mut rest: &[u8]) -> Result<&[u8], InvalidEncoding> {
    while let Some((head, after)) = rest.split_at_checked(8) {
        let [0x50..=0x5f, 0x2a, 0x4d, 0x18, length @ ..] = head else { break };
        let length = u32::from_le_bytes(length.try_into().map_err(|_| InvalidEncoding)?);
        let length = usize::try_from(length).map_err(|_| InvalidEncoding)?;
        rest = after.get(length..).ok_or(InvalidEncoding)?;
    }
    Ok(rest)
}

/// The header of a frame (RFC 8878 section 3.1.1.1).
struct FrameHeader {
    /// The window size, in bytes.
    window: u64,
    /// The content size, in bytes, if declared.
    content: Option<u64>,
}

impl FrameHeader {
    /// Returns `None` if it is not a frame.
    fn parse(frame: &[u8]) -> Option<Self> {
        let rest = frame.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?;
        let (descriptor, mut rest) = rest.split_first()?;
        let is_single = descriptor & 0x20 != 0;
        let mut window = None;
        if !is_single {
            let (byte, after) = rest.split_first()?;
            let base = 1_u64 << (10 + (byte >> 3));
            window = Some(base + base / 8 * u64::from(byte & 7));
            rest = after;
        }
        let dictionary_bytes = [0, 1, 2, 4].get(usize::from(descriptor & 3))?;
        let length = rest.get(*dictionary_bytes..)?;
        let content = match descriptor >> 6 {
            0 if !is_single => None,
            0 => Some(u64::from(*length.first()?)),
            1 => Some(u64::from(u16::from_le_bytes(length.get(..2)?.try_into().ok()?)) + 256),
            2 => Some(u64::from(u32::from_le_bytes(length.get(..4)?.try_into().ok()?))),
            _ => Some(u64::from_le_bytes(length.get(..8)?.try_into().ok()?)),
        };
        Some(Self { window: window.or(content)?, content })
    }
}

impl Decoder for Zstd<'_> {
    fn window(&self) -> usize {
        self.window
    }

    fn decode(&mut self, chunk: &mut [u8]) -> Result<Decoded, InvalidEncoding> {
        if self.ended {
            return Ok(Decoded::End);
        }
        if self.frame.can_collect() == 0 && !self.frame.is_finished() {
            let some = BlockDecodingStrategy::UptoBlocks(ZSTD_BLOCKS);
            self.frame.decode_blocks(&mut self.rest, some).map_err(|_| InvalidEncoding)?;
        }
        let read = self.frame.read(chunk).map_err(|_| InvalidEncoding)?;
        self.made = self.made.saturating_add(read as u64);
        if read > 0 || !self.frame.is_finished() {
            return Ok(Decoded::Bytes(read));
        }
        if !self.is_whole() {
            return Err(InvalidEncoding);
        }
        self.begin()?;
        Ok(if self.ended { Decoded::End } else { Decoded::NextStream })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_as_the_standards_have_them() {
        // The first bytes of the output of `brotli --lgwin=N`.
        for (first, bits) in
            [(0x00, 16), (0x01, 17), (0x03, 18), (0x0b, 22), (0x0f, 24), (0x21, 10), (0x71, 15)]
        {
            assert_eq!(brotli_window(&[first]), 1 << bits, "{first:x}");
        }
        let frame = |bytes: &[u8]| {
            let head = FrameHeader::parse(&[&[0x28, 0xb5, 0x2f, 0xfd], bytes].concat());
            head.map(|head| head.window)
        };
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
