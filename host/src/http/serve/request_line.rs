//! Request targets as callers write them, made acceptable to the HTTP library.
//!
//! A documented URL carries JSON in its query with raw quotes (`?params_mapping={"task_id":"a.b"}`),
//! and people send it just so. The library answers such a request with a bare 400 before any handler
//! sees it. So this stands between the socket and the library and percent-encodes, in the target of a
//! request line, exactly the bytes that would be refused and that have one meaning only:
//!
//! | part of the target | encoded |
//! |---|---|
//! | path | `<` `>` `` ` `` |
//! | query | `"` `<` `>` |
//! | everywhere | bytes that are not UTF-8 |
//!
//! Control characters stay refused: nobody needs them, and readers disagree about where a target that
//! holds one ends. So does everything in a target that does not begin with `/`.
//!
//! One changed byte in a body would be a request smuggled past the proxy in front of us. So the
//! boundaries of requests are followed strictly ([`Next`]), only complete heads are touched, and from
//! the first doubtful one on, everything goes through as it came, to be judged by the library.
//!
//! Knowing the boundaries serves a second end: a caller who is still sending when the connection is
//! closed gets the time to read why ([`LINGER`]).

use std::io::{self, IoSlice, Write as _};
use std::mem::{self, MaybeUninit};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::framing::Next;

/// Most headers of one request; the HTTP library's own default, with more of them it answers 431.
const HEADERS_MAX: usize = 100;

/// How long to read and forget what a caller still sends after the last answer. To close a socket on
/// unread bytes is to reset it, and a reset makes the caller's system throw the answer away: a body
/// over the limit would meet a broken connection instead of a 413.
const LINGER: Duration = Duration::from_secs(2);

/// How long a caller may take none of an answer that is ready.
pub(super) const STALL_MAX: Duration = Duration::from_secs(30);

/// A connection whose request targets are encoded while they are read. A read that holds complete
/// heads with nothing to encode is neither copied nor does it allocate.
pub(super) struct TargetEncoder<S> {
    stream: S,
    /// Longest head that is looked at, in bytes. The library refuses longer ones.
    head_bytes_max: usize,
    next: Next,
    /// The beginning of a head whose end has not come yet.
    held: Vec<u8>,
    /// What may go to the reader before anything else is read, from `given` on.
    settled: Vec<u8>,
    given: usize,
    /// When to give up on a caller who takes none of the answer, while that is so.
    stall_end: Option<Pin<Box<Sleep>>>,
    /// The end of lingering, once our side is closed.
    linger_end: Option<Pin<Box<Sleep>>>,
}

impl<S> TargetEncoder<S> {
    pub(super) fn new(stream: S, head_bytes_max: usize) -> Self {
        Self {
            stream,
            head_bytes_max,
            next: Next::Head,
            held: Vec::new(),
            settled: Vec::new(),
            given: 0,
            stall_end: None,
            linger_end: None,
        }
    }

    /// Ends the connection of a caller who reads nothing for too long: the answer is held in memory as
    /// long as they do not.
    fn watch<T>(
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

    /// How many of these bytes may go to the reader as they are. What is left begins with a head that
    /// needs a closer look.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.next != Next::Head {
                at += self.next.pass_body(rest);
                continue;
            }
            // Empty lines may precede a head. Without them a head ends at its first empty line.
            let empty_lines = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            if empty_lines > 0 {
                at += empty_lines;
                continue;
            }
            match parse(rest) {
                Parsed::Head { bytes, target, next }
                    if bytes <= self.head_bytes_max && is_clean(target) =>
                {
                    at += bytes;
                    self.next = next;
                }
                _ => break,
            }
        }
        at
    }

    /// Settles what can be settled of the held bytes, of which the first `known` could not be before.
    fn settle(&mut self, known: usize) {
        let new = self.held.get(known.saturating_sub(EMPTY_LINE_BYTES)..).unwrap_or_default();
        if known > 0 && empty_line(new).is_none() && self.held.len() < self.head_bytes_max {
            // Parsing at every byte of a slow head would be quadratic.
            return;
        }
        let held = mem::take(&mut self.held);
        let mut rest = held.as_slice();
        while !rest.is_empty() {
            let head_bytes = match judge(rest, self.head_bytes_max) {
                Judged::Head { bytes, encoded, next } => {
                    let original = rest.get(..bytes).unwrap_or_default();
                    self.settled.extend_from_slice(encoded.as_deref().unwrap_or(original));
                    self.next = next;
                    bytes
                }
                Judged::Partial => {
                    self.held = rest.to_vec();
                    return;
                }
                Judged::Doubtful => {
                    self.next = Next::Anything;
                    0
                }
            };
            rest = rest.get(head_bytes..).unwrap_or_default();
            let (passed, unsettled) = rest.split_at(self.pass(rest));
            self.settled.extend_from_slice(passed);
            rest = unsettled;
        }
    }

    /// Gives out settled bytes, as far as there is room.
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let left = self.settled.get(self.given..).unwrap_or_default();
        let giving = left.get(..left.len().min(buf.remaining())).unwrap_or_default();
        buf.put_slice(giving);
        self.given += giving.len();
        if self.given == self.settled.len() {
            (self.settled, self.given) = (Vec::new(), 0);
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
                this.give(buf);
                break;
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let new = buf.filled().get(before..).unwrap_or_default();
            if new.is_empty() {
                if this.held.is_empty() {
                    break;
                }
                // The head will never be complete: the library says what to do about that.
                this.next = Next::Anything;
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
            // Nothing for the reader yet, and an empty read would mean the end to it.
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
        this.watch(written, cx)
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
                if this.next == Next::Head && this.held.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                none.insert(Box::pin(sleep(LINGER)))
            }
        };
        let mut space = [const { MaybeUninit::uninit() }; 8192];
        while linger_end.as_mut().poll(cx).is_pending() {
            let mut forgotten = ReadBuf::uninit(&mut space);
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut forgotten));
            if read.is_err() || forgotten.filled().is_empty() {
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
        this.watch(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// What the parser says about bytes that begin with a head.
enum Parsed<'a> {
    Head { bytes: usize, target: &'a str, next: Next },
    Partial,
    Doubtful,
}

fn parse(bytes: &[u8]) -> Parsed<'_> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(bytes)) => match (request.path, Next::after(&request)) {
            (Some(target), Some(next)) => Parsed::Head { bytes, target, next },
            _ => Parsed::Doubtful,
        },
        Ok(httparse::Status::Partial) => Parsed::Partial,
        Err(_) => Parsed::Doubtful,
    }
}

/// What is to be done with bytes that begin with a head.
enum Judged {
    /// Of so many bytes; in the place of which others may have to go.
    Head {
        bytes: usize,
        encoded: Option<Vec<u8>>,
        next: Next,
    },
    Partial,
    Doubtful,
}

fn judge(bytes: &[u8], head_bytes_max: usize) -> Judged {
    let end = empty_line(bytes);
    let head = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    let encoded = encode_target(head);
    let parsed = parse(encoded.as_deref().unwrap_or(head));
    match (parsed, end) {
        (Parsed::Head { next, .. }, Some(bytes)) if bytes <= head_bytes_max => {
            Judged::Head { bytes, encoded, next }
        }
        (Parsed::Partial, None) if bytes.len() < head_bytes_max => Judged::Partial,
        _ => Judged::Doubtful,
    }
}

/// Longest beginning of an empty line that is not one yet: `\n\r`.
const EMPTY_LINE_BYTES: usize = 2;

/// The offset behind the first empty line: behind a head, where one begins with no empty line.
fn empty_line(bytes: &[u8]) -> Option<usize> {
    let mut line_ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    line_ends.find_map(|(at, _)| match bytes.get(at + 1..)? {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// Whether the library takes every byte of this target; may say no to one that it takes.
fn is_clean(target: &str) -> bool {
    // Without a branch for each byte this is a few vector instructions.
    !target.bytes().fold(false, |found, byte| found | matches!(byte, b'"' | b'<' | b'>' | b'`'))
}

/// A head with an encoded target; none where there is nothing to encode.
fn encode_target(head: &[u8]) -> Option<Vec<u8>> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(|byte| *byte == b' ');
    // The beginning of a version, even an empty one, says that the target has ended.
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
                // The library drops a fragment unseen.
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
