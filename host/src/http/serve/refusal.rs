//! Connections over a client's bound: told why, and closed.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long a refused client may take to ask; many take an answer that comes before for a broken connection.
const ASKING_MAX: Duration = Duration::from_secs(1);

/// How long he may take to read why. A socket that is closed on unread bytes is reset, and many a system
/// throws the answer away then.
const LINGER: Duration = Duration::from_secs(1);

/// Clients that are given that time at once. Further ones are closed at once, answered all the same.
const LINGERING_MAX: usize = 64;

/// What they are told, whatever they were about to send.
static ANSWER: LazyLock<String> = LazyLock::new(|| {
    let body = r#"{"detail":"this address has as many connections open as it may","retry":"safe"}"#;
    let length = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nretry-after: 1\r\nx-wardgate-fault: policy\r\n\
         x-wardgate-retry: safe\r\nconnection: close\r\n\r\n{body}"
    )
});

/// Refuses connections at little cost.
#[derive(Debug)]
pub(super) struct Refusals(Arc<Semaphore>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LINGERING_MAX)))
    }
}

impl Refusals {
    /// Answers a connection. What is left to do then, where there is time for it, waits for the client.
    pub(super) fn refuse(&self, mut stream: TcpStream) -> Option<impl Future<Output = ()> + use<>> {
        let Ok(turn) = Arc::clone(&self.0).try_acquire_owned() else {
            // A new connection has room for this; where it has not, it is closed without a word.
            let _ = stream.try_write(ANSWER.as_bytes());
            return None;
        };
        Some(async move {
            let _turn = turn;
            let _ = timeout(ASKING_MAX, stream.readable()).await;
            let lingering = async {
                stream.write_all(ANSWER.as_bytes()).await?;
                stream.shutdown().await?;
                let mut forgotten = [0; 1_024];
                while stream.read(&mut forgotten).await? > 0 {}
                Ok::<(), std::io::Error>(())
            };
            // Whether he has read it is his business.
            let _ = timeout(LINGER, lingering).await;
        })
    }
}
