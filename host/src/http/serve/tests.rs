//! Tests connections as callers and operators see them, over real sockets.

use std::io::ErrorKind;
use std::net::SocketAddr;

use axum::http::Uri;
use axum::routing::any;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;

mod http2;

/// A timeout for what should happen at once, long enough for a busy machine.
const SOON: Duration = Duration::from_secs(10);
const LIMITS: ServeLimits = ServeLimits {
    head_bytes_max: 8192,
    head_timeout: SOON,
    connections_max: 100,
    connections_per_address_max: 0,
    drain: SOON,
};

struct Server {
    address: SocketAddr,
    /// Notified when `/wait` is requested.
    asked: Arc<Notify>,
    /// Lets `/wait` respond.
    answer: Arc<Notify>,
    shutdown: oneshot::Sender<()>,
    ended: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Starts a server that echoes a request's target and body. `/never` never responds, and `/wait` once it is
    /// notified.
    async fn start(limits: ServeLimits) -> Self {
        let [asked, answer] = [Arc::new(Notify::new()), Arc::new(Notify::new())];
        let (asking, told) = (Arc::clone(&asked), Arc::clone(&answer));
        let wait = async move || {
            asking.notify_one();
            told.notified().await;
            "waited"
        };
        let router = Router::new()
            .route("/never", any(std::future::pending::<()>))
            .route("/wait", any(wait))
            .fallback(async |uri: Uri, body: String| format!("{uri} {body}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, until) = oneshot::channel();
        let ended = tokio::spawn(serve(listener, router, limits, async move {
            let _ = until.await;
        }));
        Self { address, asked, answer, shutdown, ended }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// Sends a request, and reads the response until it ends with `answer_end`.
async fn ask(stream: &mut TcpStream, request: &str, answer_end: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(answer_end.as_bytes()) {
        let read = timeout(SOON, stream.read_buf(&mut answer)).await;
        let answer = answer.escape_ascii();
        assert!(read.expect("an answer soon").unwrap() > 0, "{answer} and no {answer_end:?}");
    }
    String::from_utf8(answer).unwrap()
}

/// Reads the rest, up to the end of the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("an end soon");
    assert!(read.is_ok() || read.unwrap_err().kind() == ErrorKind::ConnectionReset);
    String::from_utf8(rest).unwrap()
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let server = Server::start(LIMITS).await;
    let mut stream = server.connect().await;
    for _ in 0..2 {
        let head = "POST /?m={\"a\":\"<b>\"} HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n";
        let answer = ask(&mut stream, &format!("{head}\"<>\""), " \"<>\"").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n/?m={%22a%22:%22%3Cb%3E%22} \"<>\""), "{answer}");
    }
}

#[tokio::test]
async fn a_slow_head_and_an_idle_connection_are_closed() {
    let limits = ServeLimits { head_timeout: Duration::from_millis(100), ..LIMITS };
    let server = Server::start(limits).await;
    let mut slow = server.connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    assert_eq!(rest(&mut slow).await, "");
    let mut idle = server.connect().await;
    ask(&mut idle, "GET /a HTTP/1.1\r\nhost: x\r\n\r\n", "/a ").await;
    assert_eq!(rest(&mut idle).await, "");
}

#[tokio::test]
async fn a_head_over_the_limit_is_answered_with_431() {
    let server = Server::start(LIMITS).await;
    for fill in ["", "\r\n\r\n"] {
        let mut stream = server.connect().await;
        let head = format!("GET /?\" HTTP/1.1\r\na: {}{fill}", "x".repeat(LIMITS.head_bytes_max));
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}

#[tokio::test]
async fn a_caller_who_sends_more_than_is_read_still_gets_the_answer() {
    let server = Server::start(LIMITS).await;
    server.answer.notify_one();
    let mut stream = server.connect().await;
    let head = "POST /wait HTTP/1.1\r\nhost: x\r\ncontent-length: 30000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    timeout(SOON, stream.write_all(&vec![b'x'; 30_000_000])).await.expect("room soon").unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("waited"), "{answer}");
}

#[tokio::test]
async fn more_connections_than_the_limit_wait_for_their_turn() {
    let server = Server::start(ServeLimits { connections_max: 1, ..LIMITS }).await;
    let mut first = server.connect().await;
    ask(&mut first, "GET /first HTTP/1.1\r\nhost: x\r\n\r\n", "/first ").await;
    let mut second = server.connect().await;
    second.write_all(b"GET /second HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let early = timeout(Duration::from_millis(100), second.read_u8()).await;
    assert!(early.is_err(), "the second connection was served beside the first");
    drop(first);
    ask(&mut second, "", "/second ").await;
}

#[tokio::test]
async fn after_the_shutdown_signal_requests_in_flight_end_and_no_new_ones_begin() {
    let server = Server::start(LIMITS).await;
    let mut idle = server.connect().await;
    ask(&mut idle, "GET /a HTTP/1.1\r\nhost: x\r\n\r\n", "/a ").await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    timeout(SOON, server.asked.notified()).await.expect("a request soon");
    server.shutdown.send(()).unwrap();
    assert_eq!(rest(&mut idle).await, "");
    let refused = TcpStream::connect(server.address).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(!server.ended.is_finished());
    server.answer.notify_one();
    let answer = rest(&mut busy).await;
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("waited"), "{answer}");
    timeout(SOON, server.ended).await.expect("an end soon").unwrap().unwrap();
}

#[tokio::test]
async fn what_does_not_end_while_draining_is_dropped() {
    let server = Server::start(ServeLimits { drain: Duration::from_millis(50), ..LIMITS }).await;
    let mut stuck = server.connect().await;
    stuck.write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    ask(&mut server.connect().await, "GET /b HTTP/1.1\r\nhost: x\r\n\r\n", "/b ").await;
    server.shutdown.send(()).unwrap();
    timeout(SOON, server.ended).await.expect("an end soon").unwrap().unwrap();
    assert_eq!(rest(&mut stuck).await, "");
}

#[test]
fn failed_accepts_are_waited_out_ever_longer() {
    let after = |code, before| pause_after(&io::Error::from_raw_os_error(code), before);
    let (no_file_descriptors, aborted, not_listening) = (24, 103, 22);
    let (shortest, longest) = ACCEPT_PAUSES;
    let mut pause = None;
    for expected in [shortest, shortest * 2, shortest * 4] {
        pause = after(no_file_descriptors, pause).unwrap();
        assert_eq!(pause, Some(expected));
    }
    assert_eq!(after(no_file_descriptors, Some(longest)).unwrap(), Some(longest));
    assert_eq!(after(aborted, Some(longest)).unwrap(), None);
    assert!(after(not_listening, None).is_err());
}
