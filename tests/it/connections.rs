//! Connections are shared fairly: no client address can take all of them.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{EVENT_TIMEOUT, Gateway, Setup, poll_until};

/// Opens a connection from this local address.
async fn connect(gateway: &Gateway, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    socket.connect(gateway.listen.parse().unwrap()).await.unwrap()
}

/// Sends a request and reads the response up to this ending.
async fn ask(stream: &mut TcpStream, end: &str) -> String {
    // The write may fail, because refused connections are closed at once.
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut answer = Vec::new();
    while !answer.ends_with(end.as_bytes()) {
        let read = tokio::time::timeout(EVENT_TIMEOUT, stream.read_buf(&mut answer)).await;
        let read = read.expect("neither answered nor closed").unwrap_or(0);
        if read == 0 {
            break;
        }
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn one_address_has_its_share_of_them_and_others_have_theirs() {
    let setup = Setup::new().settings(|settings| settings.http.connections_per_address_max = 3);
    let gateway = setup.start().await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(&gateway, [127, 0, 0, 3]).await;
        assert!(ask(&mut stream, "}").await.starts_with("HTTP/1.1 200 "));
        open.push(stream);
    }
    for _ in 0..2 {
        let refused = ask(&mut connect(&gateway, [127, 0, 0, 3]).await, "}").await;
        assert!(refused.starts_with("HTTP/1.1 503 "), "{refused:?}");
        for line in ["retry-after: 1\r\n", "connection: close\r\n", "x-wardgate-retry: safe\r\n"] {
            assert!(refused.contains(line), "{refused}");
        }
        let (_, body) = refused.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(body["detail"].as_str().unwrap().contains("this address"), "{body}");
    }
    // Open connections still work, and so do other addresses.
    assert!(ask(&mut open[0], "}").await.starts_with("HTTP/1.1 200 "));
    let mut elsewhere = connect(&gateway, [127, 0, 0, 4]).await;
    assert!(ask(&mut elsewhere, "}").await.starts_with("HTTP/1.1 200 "));
    // Closing a connection makes room for another.
    drop(open.pop());
    poll_until("room for a connection", async || {
        let mut stream = connect(&gateway, [127, 0, 0, 3]).await;
        ask(&mut stream, "}").await.starts_with("HTTP/1.1 200 ").then_some(())
    })
    .await;
}
