//! A minimal HTTP connection, which costs little and discards responses of any length.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// Largest response head, and the size of a read, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
const PIECE_BYTES: usize = 64 << 10;

/// A connection that reconnects after an error.
pub(super) struct Connection {
    from: SocketAddr,
    to: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    /// A connection from a loopback address to the gateway, opened with the first request.
    pub(super) fn new(from: [u8; 4], to: SocketAddr) -> Self {
        Self { from: (from, 0).into(), to, stream: None, buffer: Vec::new() }
    }

    /// Sends a request, reads the whole response and returns its status.
    pub(super) async fn exchange(&mut self, head: &[u8], body: &[u8]) -> anyhow::Result<u16> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.from, self.to).await?,
        };
        stream.write_all(head).await?;
        stream.write_all(body).await?;
        let status = self.read(&mut stream).await?;
        self.stream = Some(stream);
        Ok(status)
    }

    async fn read(&mut self, stream: &mut TcpStream) -> anyhow::Result<u16> {
        self.buffer.clear();
        let head = loop {
            let end = memchr::memmem::find(&self.buffer, b"\r\n\r\n");
            if let Some(end) = end {
                break end;
            }
            anyhow::ensure!(self.buffer.len() < HEAD_BYTES_MAX, "the head has no end");
            self.buffer.reserve(PIECE_BYTES);
            anyhow::ensure!(stream.read_buf(&mut self.buffer).await? > 0, "the gateway hung up");
        };
        let text =
            String::from_utf8_lossy(self.buffer.get(..head).unwrap_or_default()).into_owned();
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let mut lines = text.split("\r\n");
        let length = lines.find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map(str::parse::<usize>).transpose()?;
        let mut read = self.buffer.len() - head - 4;
        self.buffer.drain(..head + 4);
        let is_whole = |read: usize, last: &[u8]| match length {
            Some(length) => read >= length,
            None => last.ends_with(b"0\r\n\r\n"),
        };
        while !is_whole(read, &self.buffer) {
            // The end of a chunked body may arrive in two reads.
            let kept = self.buffer.len().saturating_sub(5);
            self.buffer.drain(..kept);
            self.buffer.reserve(PIECE_BYTES);
            let more = stream.read_buf(&mut self.buffer).await?;
            anyhow::ensure!(more > 0, "the gateway hung up");
            read += more;
        }
        status.context("an answer without a status")
    }
}

async fn connect(from: SocketAddr, to: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(from)?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
