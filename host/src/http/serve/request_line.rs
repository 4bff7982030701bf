//! Makes request targets acceptable to the HTTP library as callers write them.
//!
//! A documented URL carries JSON in its query with raw quotes (`?params_mapping={"task_id":"a.b"}`), and callers send
//! it like that. The library responds to such a request with a bare 400 before any handler sees it. So this code sits
//! between the socket and the library, and percent-encodes in the target of a request line exactly the bytes that
//! would be refused and that have only one meaning:
//!
//! | part of the target | encoded |
//! |---|---|
//! | path | `<` `>` `` ` `` |
//! | query | `"` `<` `>` |
//! | everywhere | bytes that are not UTF-8 |
//!
//! Control characters stay refused: no caller needs them, and parsers disagree about where a target that contains
//! one ends. So does everything in a target that does not begin with `/`.
//!
//! One changed byte in a body would be a request smuggled past the proxy in front of the gateway. So the boundaries
//! of requests are followed strictly ([`Framing`]), only complete heads are changed, and from the first doubtful head
//! on everything passes through unchanged, for the library to judge.
//!
//! Knowing the boundaries has a second use: a caller that is still sending when the connection is closed gets the
//! time to read the response ([`LINGER`]).

use std::io::{self, IoSlice, Write as _};
use std::mem::{self, MaybeUninit};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::framing::Framing;

/// The most headers of one request: the HTTP library's own default, beyond which it responds with 431.
const HEADERS_MAX: usize = 100;

/// How long to read and discard what a caller still sends after the last response. Closing a socket with unread bytes
/// resets the connection, and a reset makes the caller's system discard the response: the sender of a body over the
/// limit would see a broken connection instead of a 413.
const LINGER: Duration = Duration::from_secs(2);

/// How long a caller may read nothing of a response that is ready.
pub(super) const STALL_MAX: Duration = Duration::from_secs(30);

/// A connection whose request targets are encoded as they are read. A read of complete heads with nothing to encode
/// costs neither a copy nor an allocation.
pub(super) struct TargetEncoder<S> {
    stream: S,
    /// The longest head that is examined, in bytes. The library refuses longer ones.
    head_bytes_max: usize,
    framing: Framing,
    /// The beginning of a head whose end has not arrived yet.
    held: Vec<u8>,
    /// Bytes that go to the reader before anything else is read, from `settled_offset` on.
    settled: Vec<u8>,
    settled_offset: usize,
    /// When to give up on a caller that reads nothing of the response. Set while a write is pending.
    stall_end: Option<Pin<Box<Sleep>>>,
    /// When lingering ends. Set once the write side is closed.
    linger_end: Option<Pin<Box<Sleep>>>,
}

impl<S> TargetEncoder<S> {
    pub(super) fn new(stream: S, head_bytes_max: usize) -> Self {
        Self {
            stream,
            head_bytes_max,
            framing: Framing::Head,
            held: Vec::new(),
            settled: Vec::new(),
            settled_offset: 0,
            stall_end: None,
            linger_end: None,
        }
    }

    /// Ends the connection of a caller that reads nothing for [`STALL_MAX`]: the response stays in memory until it is
    /// read.
    fn check_stall<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall_end = None;
            return written;
        }
        let stall_end = self.stall_end.get_or_insert_with(|| Box::pin(sleep(STALL_MAX)));
        ready!(stall_end.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// How many of these bytes may go to the reader unchanged. The rest begins with a head that must be examined
    /// further.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.framing != Framing::Head {
                at += self.framing.skip_body(rest);
                continue;
            }
            // Empty lines may precede a head. Without them a head ends at its first empty line.
            let empty_lines = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            if empty_lines > 0 {
                at += empty_lines;
                continue;
            }
            match parse(rest) {
                Parsed::Head { bytes, target, framing }
                    if bytes <= self.head_bytes_max && is_clean(target) =>
                {
                    at += bytes;
                    self.framing = framing;
                }
                _ => break,
            }
        }
        at
    }

    /// Settles as many of the held bytes as possible. The first `known` of them could not be settled before.
    fn settle(&mut self, known: usize) {
        let new = self.held.get(known.saturating_sub(EMPTY_LINE_BYTES)..).unwrap_or_default();
        if known > 0 && empty_line(new).is_none() && self.held.len() < self.head_bytes_max {
            // Parsing again at every byte of a slow head would take quadratic time.
            return;
        }
        let held = mem::take(&mut self.held);
        let mut rest = held.as_slice();
        while !rest.is_empty() {
            let head_bytes = match classify_head(rest, self.head_bytes_max) {
                HeadAction::Head { bytes, encoded, framing } => {
                    let original = rest.get(..bytes).unwrap_or_default();
                    self.settled.extend_from_slice(encoded.as_deref().unwrap_or(original));
                    self.framing = framing;
                    bytes
                }
                HeadAction::Partial => {
                    self.held = rest.to_vec();
                    return;
                }
                HeadAction::Ambiguous => {
                    self.framing = Framing::Unknown;
                    0
                }
            };
            rest = rest.get(head_bytes..).unwrap_or_default();
            let (passed, unsettled) = rest.split_at(self.pass(rest));
            self.settled.extend_from_slice(passed);
            rest = unsettled;
        }
    }

    /// Passes settled bytes to the reader, as many as there is room for.
    fn drain_settled(&mut self, buf: &mut ReadBuf<'_>) {
        let left = self.settled.get(self.settled_offset..).unwrap_or_default();
        let giving = left.get(..left.len().min(buf.remaining())).unwrap_or_default();
        buf.put_slice(giving);
        self.settled_offset += giving.len();
        if self.settled_offset == self.settled.len() {
            (self.settled, self.settled_offset) = (Vec::new(), 0);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TargetEncoder<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while buf.remaining() > 0 {
            if !this.settled.is_empty() {
                this.drain_settled(buf);
                break;
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let new = buf.filled().get(before..).unwrap_or_default();
            if new.is_empty() {
                if this.held.is_empty() {
                    break;
                }
                // The head will never be complete. The library decides what to do about it.
                this.framing = Framing::Unknown;
                this.settled = mem::take(&mut this.held);
                continue;
            }
            let known = this.held.len();
            let passed = if known == 0 { this.pass(new) } else { 0 };
            let unsettled = new.get(passed..).unwrap_or_default();
            if !unsettled.is_empty() {
                this.held.extend_from_slice(unsettled);
                buf.set_filled(before + passed);
                this.settle(known);
            }
            if passed > 0 {
                break;
            }
            // There is nothing for the reader yet, and an empty read would mean the end of the stream.
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TargetEncoder<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.check_stall(written, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let linger_end = match &mut this.linger_end {
            Some(linger_end) => linger_end,
            none => {
                ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                if this.framing == Framing::Head && this.held.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                none.insert(Box::pin(sleep(LINGER)))
            }
        };
        let mut space = [const { MaybeUninit::uninit() }; 8192];
        while linger_end.as_mut().poll(cx).is_pending() {
            let mut discarded = ReadBuf::uninit(&mut space);
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut discarded));
            if read.is_err() || discarded.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.check_stall(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The parser's result for bytes that begin with a head.
enum Parsed<'a> {
    Head { bytes: usize, target: &'a str, framing: Framing },
    Partial,
    Ambiguous,
}

fn parse(bytes: &[u8]) -> Parsed<'_> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(bytes)) => match (request.path, Framing::after(&request)) {
            (Some(target), Some(framing)) => Parsed::Head { bytes, target, framing },
            _ => Parsed::Ambiguous,
        },
        Ok(httparse::Status::Partial) => Parsed::Partial,
        Err(_) => Parsed::Ambiguous,
    }
}

/// What to do with bytes that begin with a head.
enum HeadAction {
    /// A complete head of this many bytes, and the encoded bytes that replace it, if any.
    Head {
        bytes: usize,
        encoded: Option<Vec<u8>>,
        framing: Framing,
    },
    Partial,
    Ambiguous,
}

fn classify_head(bytes: &[u8], head_bytes_max: usize) -> HeadAction {
    let end = empty_line(bytes);
    let head = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    let encoded = encode_target(head);
    let parsed = parse(encoded.as_deref().unwrap_or(head));
    match (parsed, end) {
        (Parsed::Head { framing, .. }, Some(bytes)) if bytes <= head_bytes_max => {
            HeadAction::Head { bytes, encoded, framing }
        }
        (Parsed::Partial, None) if bytes.len() < head_bytes_max => HeadAction::Partial,
        _ => HeadAction::Ambiguous,
    }
}

/// The length of the longest incomplete empty line: `\n\r`.
const EMPTY_LINE_BYTES: usize = 2;

/// The offset after the first empty line. It is the end of a head that does not begin with an empty line.
fn empty_line(bytes: &[u8]) -> Option<usize> {
    let mut line_ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    line_ends.find_map(|(at, _)| match bytes.get(at + 1..)? {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// Whether the library accepts every byte of this target. May be false for a target that it accepts.
fn is_clean(target: &str) -> bool {
    // Without a branch for each byte, this compiles to a few vector instructions.
    !target.bytes().fold(false, |found, byte| found | matches!(byte, b'"' | b'<' | b'>' | b'`'))
}

/// The head with its target encoded. None if there is nothing to encode.
fn encode_target(head: &[u8]) -> Option<Vec<u8>> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(|byte| *byte == b' ');
    // The start of a version, even of an empty one, shows that the target is complete.
    let (method, target, _version) = (words.next()?, words.next()?, words.next()?);
    let (start, end) = (method.len() + 1, method.len() + 1 + target.len());
    if target.first() != Some(&b'/') {
        return None;
    }
    let mut encoded = Vec::with_capacity(head.len() + 64);
    encoded.extend_from_slice(head.get(..start)?);
    let (mut in_query, mut in_fragment) = (false, false);
    for chunk in target.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            match byte {
                b'#' => in_fragment = true,
                b'?' => in_query = true,
                _ => {}
            }
            let refused = match byte {
                // The library discards a fragment without looking at it.
                _ if in_fragment => false,
                b'<' | b'>' => true,
                b'"' => in_query,
                b'`' => !in_query,
                _ => false,
            };
            if refused { push_encoded(&mut encoded, byte) } else { encoded.push(byte) }
        }
        chunk.invalid().iter().for_each(|byte| push_encoded(&mut encoded, *byte));
    }
    if encoded.len() == end {
        return None;
    }
    encoded.extend_from_slice(head.get(end..)?);
    Some(encoded)
}

fn push_encoded(to: &mut Vec<u8>, byte: u8) {
    // Writing to a vector does not fail.
    let _ = write!(to, "%{byte:02X}");
}

#[cfg(test)]
mod tests;
