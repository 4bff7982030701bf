//! Tests what is encoded, and above all what is not.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const HEAD_BYTES_MAX: usize = 4096;

/// A stream that returns one part per read, and is pending before each of them.
struct Parts {
    left: VecDeque<Vec<u8>>,
    ready: bool,
}

impl AsyncRead for Parts {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.ready = !self.ready;
        if self.ready {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(mut part) = self.left.pop_front() {
            let rest = part.split_off(part.len().min(buf.remaining()));
            buf.put_slice(&part);
            if !rest.is_empty() {
                self.left.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn encoder(parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> TargetEncoder<Parts> {
    let left = parts.into_iter().map(|part| part.as_ref().to_vec()).filter(|part| !part.is_empty());
    TargetEncoder::new(Parts { left: left.collect(), ready: false }, HEAD_BYTES_MAX)
}

/// What a reader receives if it reads this many bytes at a time.
fn read_parts(parts: impl IntoIterator<Item = impl AsRef<[u8]>>, read_bytes: usize) -> Vec<u8> {
    let (mut encoder, mut got, mut space) = (encoder(parts), Vec::new(), vec![0; read_bytes]);
    loop {
        let mut buf = ReadBuf::new(&mut space);
        if poll(&mut encoder, &mut buf).is_ready() {
            match buf.filled() {
                [] => return got,
                bytes => got.extend_from_slice(bytes),
            }
        }
    }
}

fn poll(encoder: &mut TargetEncoder<Parts>, buf: &mut ReadBuf<'_>) -> Poll<()> {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    Pin::new(encoder).poll_read(&mut cx, buf).map(Result::unwrap)
}

/// Checks that a stream becomes the expected one, however it is split.
#[track_caller]
fn check(stream: impl AsRef<[u8]>, expected: impl AsRef<[u8]>) {
    let (stream, expected) = (stream.as_ref(), expected.as_ref());
    let same = |got: Vec<u8>, how: &str| {
        let (got, expected) = (got.escape_ascii(), expected.escape_ascii());
        assert_eq!(got.to_string(), expected.to_string(), "{how}");
    };
    same(read_parts([stream], 8192), "in one");
    same(read_parts(stream.chunks(1), 8192), "byte by byte");
    same(read_parts(stream.chunks(1), 1), "byte by byte, read likewise");
    same(read_parts([stream], 1), "read byte by byte");
    for at in 0..stream.len() {
        let (first, second) = stream.split_at(at);
        same(read_parts([first, second], 8192), &format!("cut at {at}"));
    }
}

const DOCUMENTED: &str = concat!(
    "POST /?agent_id=a1&params_mapping={\"task_id\":\"message.chat.id\"} HTTP/1.1\r\n",
    "host: webhook\r\nx-api-key: \"<k>\"\r\ncontent-length: 19\r\n\r\n",
);
const DOCUMENTED_ENCODED: &str = concat!(
    "POST /?agent_id=a1&params_mapping={%22task_id%22:%22message.chat.id%22} HTTP/1.1\r\n",
    "host: webhook\r\nx-api-key: \"<k>\"\r\ncontent-length: 19\r\n\r\n",
);
/// Nineteen bytes.
const HEAD_LIKE_BODY: &str = "GET /?\" HTTP/1.1\r\n\n";

#[test]
fn the_documented_request_arrives_encoded_and_nothing_else_changes() {
    check(DOCUMENTED, DOCUMENTED_ENCODED);
    check(
        [DOCUMENTED, HEAD_LIKE_BODY, DOCUMENTED, HEAD_LIKE_BODY].concat(),
        [DOCUMENTED_ENCODED, HEAD_LIKE_BODY, DOCUMENTED_ENCODED, HEAD_LIKE_BODY].concat(),
    );
}

#[test]
fn exactly_what_the_library_refuses_is_encoded() {
    // Of the visible bytes. The others stay refused.
    for byte in (0x21..=0xff).filter(|byte| *byte != 0x7f) {
        for (before, after) in
            [("/a", "b"), ("/a?b", "c"), ("/?\u{e9}", "\u{e9}"), ("/?a#", "b"), ("/\"", "{}|\\^")]
        {
            let target = [before.as_bytes(), &[byte], after.as_bytes()].concat();
            let stream = [b"GET ", target.as_slice(), b" HTTP/1.1\n\n"].concat();
            let read = read_parts([&stream], 8192);
            let is_taken =
                str::from_utf8(&target).is_ok() && http::Uri::try_from(target.as_slice()).is_ok();
            assert_eq!(read == stream, is_taken, "{}", target.escape_ascii());
            let read_target = read.split(|byte| *byte == b' ').nth(1).unwrap();
            assert!(http::Uri::try_from(read_target).is_ok(), "{}", read_target.escape_ascii());
        }
    }
    check("GET /<`>?`<\"> HTTP/1.1\n\n", "GET /%3C%60%3E?`%3C%22%3E HTTP/1.1\n\n");
    check(b"GET /\xe9?\xc3\xa9\xff# HTTP/1.1\n\n", b"GET /%E9?\xc3\xa9%FF# HTTP/1.1\n\n");
}

#[test]
fn what_is_left_refused_goes_through_as_it_came() {
    for target in [
        "/?\"a b\"", "/?\"\t", "/?\"\u{7f}", "/?\"\0", "/?\"\r", "*\"", "?\"", "\"", "h:80\"",
        "http://host/?\"",
    ] {
        let stream = format!("GET {target} HTTP/1.1\r\n\r\n");
        check(&stream, &stream);
    }
}

#[test]
fn bodies_are_followed_however_they_are_framed() {
    let get = ("\r\n\n\r\nGET /?\" HTTP/1.1\nA:\n\r\n", "\r\n\n\r\nGET /?%22 HTTP/1.1\nA:\n\r\n");
    let chunked = (
        "POST /?\" HTTP/1.1\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n",
        "POST /?%22 HTTP/1.1\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n",
    );
    let body = format!("13;a=\"\r\n{HEAD_LIKE_BODY}\r\n0\r\nGET: \"\r\n\r\n");
    check(
        [chunked.0, &body, get.0, get.0, DOCUMENTED, HEAD_LIKE_BODY, chunked.0, &body].concat(),
        [chunked.1, &body, get.1, get.1, DOCUMENTED_ENCODED, HEAD_LIKE_BODY, chunked.1, &body]
            .concat(),
    );
}

#[test]
fn after_a_doubtful_head_nothing_is_touched() {
    for doubtful in [
        "POST /?\" HTTP/1.1\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /?\" HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        "POST /?\" HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST /?\" HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /?\" HTTP/1.1\r\nbroken header\r\n\r\n",
        "GET /?\" HTTP/1.1\r\nfolded: a\r\n b\r\n\r\n",
        "GET /?\" HTTP/3.0\r\n\r\n",
        "GET  /?\" HTTP/1.1\r\n\r\n",
        "CONNECT /?\" HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}\u{1}\n\n",
    ] {
        let stream = [doubtful, DOCUMENTED, HEAD_LIKE_BODY].concat();
        check(&stream, &stream);
    }
    let upgrade = "GET /?\" HTTP/1.1\r\nupgrade: h2c\r\n\r\n";
    check([upgrade, upgrade].concat(), [&upgrade.replace('"', "%22"), upgrade].concat());
    let broken_chunk = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0x0\r\n\r\n";
    let stream = [broken_chunk, DOCUMENTED].concat();
    check(&stream, &stream);
}

#[test]
fn heads_over_a_limit_are_not_touched() {
    let head = |bytes: usize| {
        let head = "GET /?\" HTTP/1.1\r\nfill: \r\n\r\n";
        head.replace("fill: ", &format!("fill: {}", "x".repeat(bytes - head.len())))
    };
    let longest = head(HEAD_BYTES_MAX);
    check(&longest, longest.replace('"', "%22"));
    let too_long = head(HEAD_BYTES_MAX + 1);
    check([&*too_long, DOCUMENTED].concat(), [&*too_long, DOCUMENTED].concat());
    let headers = |count: usize| format!("GET /?\" HTTP/1.1\r\n{}\r\n", "a:\r\n".repeat(count));
    check(headers(HEADERS_MAX), headers(HEADERS_MAX).replace('"', "%22"));
    check(headers(HEADERS_MAX + 1), headers(HEADERS_MAX + 1));
}

#[test]
fn the_end_of_a_stream_gives_out_what_was_held() {
    for at in 1..DOCUMENTED.len() {
        let stream = [DOCUMENTED, HEAD_LIKE_BODY, &DOCUMENTED[..at]].concat();
        check(stream, [DOCUMENTED_ENCODED, HEAD_LIKE_BODY, &DOCUMENTED[..at]].concat());
    }
}

#[test]
fn what_can_be_refused_at_once_is_not_held() {
    for garbage in ["\u{16}\u{3}\u{1}\u{2}", "GET / HTTP/2.0\r\n", "G\"T", "GET /\u{0}"] {
        let mut encoder = encoder([garbage]);
        encoder.stream.ready = true;
        let mut space = [0; 64];
        let mut buf = ReadBuf::new(&mut space);
        assert!(poll(&mut encoder, &mut buf).is_ready());
        assert_eq!(buf.filled(), garbage.as_bytes());
    }
}

#[test]
fn clean_requests_are_not_copied() {
    let clean = DOCUMENTED_ENCODED.replace("?agent_id", "?%22a=\u{e9}'{}|");
    let mut encoder = encoder([[&clean, HEAD_LIKE_BODY, &clean, &HEAD_LIKE_BODY[..4]].concat()]);
    encoder.stream.ready = true;
    let mut space = [0; 1024];
    let mut buf = ReadBuf::new(&mut space);
    assert!(poll(&mut encoder, &mut buf).is_ready());
    assert_eq!(buf.filled().len(), 2 * clean.len() + 23);
    assert_eq!((encoder.held.capacity(), encoder.settled.capacity()), (0, 0));
    assert_eq!(encoder.framing, Framing::Length(15));
}

/// Pseudo-random numbers that are the same in every run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize % end
    }

    fn one_of<'a>(&mut self, items: &[&'a str]) -> &'a str {
        items[self.below(items.len())]
    }

    fn text(&mut self, pieces_max: usize, pieces: &[&str]) -> String {
        (0..self.below(pieces_max + 1)).map(|_| self.one_of(pieces)).collect()
    }

    fn parts<'a>(&mut self, mut stream: &'a [u8]) -> Vec<&'a [u8]> {
        let (mut parts, part_bytes_max) = (Vec::new(), 1 + self.below(200));
        while !stream.is_empty() {
            let (part, rest) = stream.split_at(stream.len().min(1 + self.below(part_bytes_max)));
            parts.push(part);
            stream = rest;
        }
        parts
    }

    /// A request, and what it should be encoded to.
    fn request(&mut self) -> (String, String) {
        const HEADS: [&str; 6] =
            ["GET /?\" HTTP/1.1\r\n\r\n", "\r\n", "0\r\n\r\n", "\n\n", "5\r\nPOST ", "\"<>`\u{e9}"];
        let query = self.text(5, &["\"", "<", ">", "{", "&a=", "`", "?", "\u{e9}", "%22", "#"]);
        let fragment_at = query.find('#').unwrap_or(query.len());
        let (seen, unseen) = query.split_at(fragment_at);
        let mut encoded = seen.to_owned();
        for (raw, replacement) in [("\"", "%22"), ("<", "%3C"), (">", "%3E")] {
            encoded = encoded.replace(raw, replacement);
        }
        let body = self.text(6, &HEADS);
        let empty_lines = self.text(1, &["\r\n", "\n"]);
        let line_end = self.one_of(&["\r\n", "\n"]);
        let header = self.one_of(&["", "a: \"<>\"", "a:", "expect: 100-continue"]);
        let header = if header.is_empty() { String::new() } else { format!("{header}{line_end}") };
        let (framing, body) = match self.below(3) {
            0 => (String::new(), String::new()),
            1 => (format!("content-length: {}{line_end}", body.len()), body),
            _ => {
                let (left, right) = body.split_at(body.floor_char_boundary(self.below(9)));
                let chunk = |data: &str| match data.len() {
                    0 => String::new(),
                    bytes => format!("{bytes:x};\"\r\n{data}\r\n"),
                };
                let trailer = self.one_of(&["", "a: \"\r\n"]);
                let body = format!("{}{}0\r\n{trailer}\r\n", chunk(left), chunk(right));
                (format!("transfer-encoding: chunked{line_end}"), body)
            }
        };
        let request = |query: &str| {
            format!(
                "{empty_lines}POST /?{query} HTTP/1.1{line_end}{header}{framing}{line_end}{body}"
            )
        };
        (request(&query), request(&format!("{encoded}{unseen}")))
    }
}

#[test]
fn any_requests_cut_anyhow_are_encoded_alike() {
    let mut numbers = Numbers(7);
    for _ in 0..3000 {
        let count = 1 + numbers.below(5);
        let (stream, expected): (String, String) = (0..count).map(|_| numbers.request()).unzip();
        let parts = numbers.parts(stream.as_bytes());
        let got = read_parts(parts, 1 + numbers.below(300));
        assert_eq!(got.escape_ascii().to_string(), expected.as_bytes().escape_ascii().to_string());
    }
}

/// A request as a handler saw it: method and target, and the body if it was complete.
type Seen = (String, Option<Vec<u8>>);

/// The requests that the HTTP library reads from a stream.
async fn seen(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Vec<Seen> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let head = format!("{} {}", request.method(), request.uri());
            let body = request.into_body().collect().await;
            seen.lock().unwrap().push((head, body.ok().map(|body| body.to_bytes().to_vec())));
            Ok::<_, Infallible>(hyper::Response::new(String::new()))
        }
    });
    let _ = http1::Builder::new()
        .half_close(true)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    seen.lock().unwrap().clone()
}

/// The receiving end of a connection on which these parts arrive, followed by the end of the stream.
fn connection(parts: Vec<&[u8]>) -> tokio::io::DuplexStream {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let parts: Vec<Vec<u8>> = parts.into_iter().map(<[u8]>::to_vec).collect();
    tokio::spawn(async move {
        for part in parts {
            near.write_all(&part).await.unwrap();
            tokio::task::yield_now().await;
        }
        near.shutdown().await.unwrap();
        let _ = near.read_to_end(&mut Vec::new()).await;
    });
    far
}

const FRAMING_HEADERS: [&str; 6] = [
    "content-length: 0\r\n",
    "content-length: 9\n",
    "transfer-encoding: chunked\r\n",
    "transfer-encoding: identity\r\n",
    "upgrade: h2c\r\n",
    "GET /?\" HTTP/1.1\r\n\r\n",
];

/// Whatever arrives, a request that the library accepts without the encoder it also accepts with it, including the
/// body: the encoder never sees a head where the library sees a body.
#[tokio::test]
async fn broken_streams_are_never_read_differently() {
    let mut numbers = Numbers(11);
    let (mut whole, mut more) = (0, 0);
    for _ in 0..1500 {
        let mut stream: Vec<u8> =
            (0..1 + numbers.below(5)).flat_map(|_| numbers.request().0.into_bytes()).collect();
        for _ in 0..numbers.below(3) {
            let (from, to) = (numbers.below(stream.len()), numbers.below(stream.len()));
            match numbers.below(5) {
                0 => stream[from] = b"\r\n 0:;\"\xff"[numbers.below(8)],
                1 => stream.insert(from, b"\r\n 0:;\"\xff"[numbers.below(8)]),
                2 => drop(stream.drain(from.min(to)..from.max(to).min(from.min(to) + 12))),
                3 => {
                    let copied = stream[from.min(to)..from.max(to)].to_vec();
                    stream.splice(from..from, copied);
                }
                _ => {
                    let line_end = stream[from..].iter().position(|byte| *byte == b'\n');
                    let at = from + line_end.map_or(0, |line_end| line_end + 1);
                    let header = numbers.one_of(&FRAMING_HEADERS).bytes();
                    stream.splice(at..at, header);
                }
            }
            if stream.is_empty() {
                stream.push(b'\n');
            }
        }
        let parts = numbers.parts(&stream);
        assert_eq!(
            read_parts(parts.clone(), 8192),
            read_parts([&stream], 8192),
            "{}",
            stream.escape_ascii()
        );
        let without = seen(connection(parts.clone())).await;
        let with = seen(TargetEncoder::new(connection(parts), HEAD_BYTES_MAX)).await;
        for (without, with) in without.iter().zip(&with) {
            assert_eq!(without, with, "{}", stream.escape_ascii());
        }
        assert!(without.len() <= with.len(), "{}", stream.escape_ascii());
        whole += without.iter().filter(|(_, body)| body.is_some()).count();
        more += with.len() - without.len();
    }
    // The test is meaningful only if the library accepts many requests without the encoder, and more with it.
    assert!(whole > 500 && more > 500, "{whole} requests without, {more} more with");
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_of_an_answer_is_let_go() {
    let (_caller, ours) = tokio::io::duplex(16);
    let mut ours = TargetEncoder::new(ours, 1024);
    let started_at = tokio::time::Instant::now();
    let error = ours.write_all(&[b'x'; 100]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(started_at.elapsed().as_secs(), STALL_MAX.as_secs());
}
