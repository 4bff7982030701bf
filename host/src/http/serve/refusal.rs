//! Refuses connections beyond a client's limit: sends the reason, and closes them.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long to wait for the request of a refused client. Many clients treat a response that precedes the request as a
/// broken connection.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long a refused client may take to read the response. Closing a socket with unread bytes resets the connection,
/// and many systems then discard the response.
const LINGER: Duration = Duration::from_secs(1);

/// The most clients that are waited for at once. Further ones get the response too, and are closed immediately.
const LINGERING_MAX: usize = 64;

/// The response, whatever the request would have been.
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
    /// Refuses a connection. Returns the future that waits for the client and then responds. None if too many clients
    /// are waited for: the response has been sent then.
    pub(super) fn refuse(&self, mut stream: TcpStream) -> Option<impl Future<Output = ()> + use<>> {
        let Ok(permit) = Arc::clone(&self.0).try_acquire_owned() else {
            // A new connection has room for this. If it does not, it is closed without a response.
            let _ = stream.try_write(ANSWER.as_bytes());
            return None;
        };
        Some(async move {
            let _permit = permit;
            let _ = timeout(REQUEST_WAIT_MAX, stream.readable()).await;
            let lingering = async {
                stream.write_all(ANSWER.as_bytes()).await?;
                stream.shutdown().await?;
                let mut discarded = [0; 1_024];
                while stream.read(&mut discarded).await? > 0 {}
                Ok::<(), std::io::Error>(())
            };
            // It does not matter whether the client has read it.
            let _ = timeout(LINGER, lingering).await;
        })
    }
}
