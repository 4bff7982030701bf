//! Finds where one request on a connection ends and the next one begins.
//!
//! This follows the HTTP library's own rules byte by byte, and is stricter where they are lenient: it sees a boundary
//! only where the library sees one too. Otherwise a body could pass for a head, which is how requests are smuggled.

/// What the next byte of a connection belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// A request's head.
    Head,
    /// A body with this many bytes left.
    Length(u64),
    /// A chunked body.
    Chunked(Chunk),
    /// Unknown, until the connection ends.
    Unknown,
}

/// A position in a chunked body (RFC 9112 section 7.1). Numbers are the bytes that are left of the chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    Start,
    Size(u64),
    SizeSpace(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of a line after the last chunk. An empty line ends the body.
    LineStart,
    Trailer,
    TrailerLf,
    EndLf,
}

impl Framing {
    /// What follows a complete head. None if two parsers could disagree about it.
    pub(super) fn after(head: &httparse::Request<'_, '_>) -> Option<Self> {
        if head.method == Some("CONNECT") {
            return None;
        }
        let (mut length, mut chunked, mut upgrade) = (None, false, false);
        for header in head.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let this = digits(header.value)?;
                if length.is_some_and(|other| other != this) {
                    return None;
                }
                length = Some(this);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                let only_chunked = header.value.eq_ignore_ascii_case(b"chunked");
                if chunked || !only_chunked || head.version != Some(1) {
                    return None;
                }
                chunked = true;
            } else if header.name.eq_ignore_ascii_case("upgrade") {
                upgrade = true;
            }
        }
        match (length, chunked) {
            (Some(_), true) => None,
            _ if upgrade => Some(Self::Unknown),
            (None, true) => Some(Self::Chunked(Chunk::Start)),
            (None | Some(0), false) => Some(Self::Head),
            (Some(length), false) => Some(Self::Length(length)),
        }
    }

    /// Skips the bytes that belong to a body, and returns their number. If that is less than `bytes.len()`, a head
    /// follows.
    pub(super) fn skip_body(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Head => 0,
            Self::Unknown => bytes.len(),
            Self::Length(left) => {
                let passed = take(left, bytes.len());
                if *left == 0 {
                    *self = Self::Head;
                }
                passed
            }
            Self::Chunked(_) => self.pass_chunks(bytes),
        }
    }

    fn pass_chunks(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Self::Chunked(chunk) = self {
            let Some(&byte) = bytes.get(at) else { break };
            if let Chunk::Data(left) = chunk {
                at += take(left, bytes.len() - at);
                if *left == 0 {
                    *chunk = Chunk::DataCr;
                }
            } else {
                at += 1;
                *self = chunk.step(byte);
            }
        }
        at
    }
}

impl Chunk {
    /// The position after one byte that is not a chunk's data.
    fn step(self, byte: u8) -> Framing {
        let hex = char::from(byte).to_digit(16).map(u64::from);
        let place = match (self, byte) {
            (Self::Start, _) => hex.map(Self::Size),
            (Self::Size(size) | Self::SizeSpace(size), b' ' | b'\t') => Some(Self::SizeSpace(size)),
            (Self::Size(size) | Self::SizeSpace(size), b';') => Some(Self::Extension(size)),
            (Self::Size(size) | Self::SizeSpace(size) | Self::Extension(size), b'\r') => {
                Some(Self::SizeLf(size))
            }
            (Self::Size(size), _) => {
                hex.and_then(|digit| size.checked_mul(16)?.checked_add(digit).map(Self::Size))
            }
            (Self::Extension(_), b'\n') => None,
            (Self::Extension(size), _) => Some(Self::Extension(size)),
            (Self::SizeLf(0) | Self::TrailerLf, b'\n') => Some(Self::LineStart),
            (Self::SizeLf(size), b'\n') => Some(Self::Data(size)),
            (Self::DataCr, b'\r') => Some(Self::DataLf),
            (Self::DataLf, b'\n') => Some(Self::Start),
            (Self::LineStart, b'\r') => Some(Self::EndLf),
            (Self::Trailer, b'\r') => Some(Self::TrailerLf),
            // A bare line feed does not end a line here: the library counts it as part of the trailer.
            (Self::LineStart | Self::Trailer, _) => Some(Self::Trailer),
            (Self::EndLf, b'\n') => return Framing::Head,
            _ => None,
        };
        place.map_or(Framing::Unknown, Framing::Chunked)
    }
}

/// Takes as many of the bytes that are left as are available, and returns their number.
fn take(left: &mut u64, available: usize) -> usize {
    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(available);
    *left -= taken as u64;
    taken
}

/// Parses a number that consists of digits only. The standard parser would accept a sign too.
fn digits(value: &[u8]) -> Option<u64> {
    if value.iter().all(u8::is_ascii_digit) {
        str::from_utf8(value).ok()?.parse().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(head: &str) -> Option<Framing> {
        let mut headers = [httparse::EMPTY_HEADER; 8];
        let mut request = httparse::Request::new(&mut headers);
        assert!(request.parse(head.as_bytes()).unwrap().is_complete(), "{head:?}");
        Framing::after(&request)
    }

    #[test]
    fn a_head_says_how_its_body_ends() {
        let post = |headers: &str| after(&format!("POST / HTTP/1.1\r\n{headers}\r\n"));
        assert_eq!(after("GET / HTTP/1.0\n\n"), Some(Framing::Head));
        assert_eq!(post("content-length: 0\r\n"), Some(Framing::Head));
        assert_eq!(post("CONTENT-LENGTH:7 \r\n"), Some(Framing::Length(7)));
        assert_eq!(post("content-length: 7\r\nContent-Length: 07\r\n"), Some(Framing::Length(7)));
        assert_eq!(post("Transfer-Encoding: Chunked\r\n"), Some(Framing::Chunked(Chunk::Start)));
        assert_eq!(post("upgrade: h2c\r\ncontent-length: 7\r\n"), Some(Framing::Unknown));
    }

    #[test]
    fn two_readers_could_disagree_about_these() {
        for headers in [
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 0\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked, identity\r\n",
            "transfer-encoding: \"chunked\"\r\n",
            "transfer-encoding: \u{b}chunked\r\n",
            "transfer-encoding:\r\n",
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: 5, 5\r\n",
            "content-length: +5\r\n",
            "content-length: -5\r\n",
            "content-length: 0x5\r\n",
            "content-length: 5 5\r\n",
            "content-length:\r\n",
            "content-length: 18446744073709551616\r\n",
        ] {
            let head = format!("POST / HTTP/1.1\r\n{headers}\r\n");
            let mut space = [httparse::EMPTY_HEADER; 8];
            let mut request = httparse::Request::new(&mut space);
            if request.parse(head.as_bytes()).is_ok() {
                assert_eq!(Framing::after(&request), None, "{headers:?}");
            }
        }
        assert_eq!(after("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n"), None);
        assert_eq!(after("CONNECT host:1 HTTP/1.1\r\n\r\n"), None);
    }

    #[test]
    fn a_chunked_body_ends_where_it_says_and_nowhere_else() {
        for body in [
            "0\r\n\r\n",
            "5\r\nGET /\r\n0\r\n\r\n",
            "5 \t;a=\"0\r\n1 / H\r\n000\r\n\r\n",
            "a;0\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
            "fF\r\n",
            "0\r\nA: b\r\nC:\nd\r\n\r\n",
            "0\r\n\nGET / HTTP/1.1\n\n\r\n\r\n",
        ] {
            let body = body.replace("fF\r\n", &format!("fF\r\n{}\r\n0\r\n\r\n", "\n".repeat(255)));
            let stream = format!("{body}GET /");
            for split in 0..stream.len() {
                let (first, second) = stream.as_bytes().split_at(split);
                let mut framing = Framing::Chunked(Chunk::Start);
                let mut passed = framing.skip_body(first);
                passed += if passed == first.len() { framing.skip_body(second) } else { 0 };
                assert_eq!((passed, framing), (body.len(), Framing::Head), "{body:?} at {split}");
            }
        }
    }

    #[test]
    fn after_a_broken_chunk_nothing_is_known() {
        for body in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "5x\r\n",
            "5 5\r\n",
            "5\n",
            "5\rx",
            "5;a\n",
            ";a\r\n",
            "1\r\nab",
            "1\r\na\rb",
            "1\r\na\n",
            "0\r\n\rx",
            "0\r\nA: b\rx",
            "10000000000000000\r\n",
        ] {
            let mut framing = Framing::Chunked(Chunk::Start);
            let stream = format!("{body}\r\n\r\nGET / HTTP/1.1\r\n\r\n");
            let mut at = 0;
            while at < stream.len() && framing != Framing::Head {
                at += framing.skip_body(&stream.as_bytes()[at..]);
            }
            assert_eq!(framing, Framing::Unknown, "{body:?}");
        }
    }
}
