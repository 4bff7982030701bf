//! HTTP/2 by prior knowledge (RFC 9113 section 3.3), as proxies use it towards their backends. TLS, which browsers
//! require for it, is the proxy's task.
//!
//! A connection carries many requests at once, so they share what one connection of HTTP/1.1 may hold.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{HOST, HeaderValue};
use hyper::server::conn::http2;
use hyper::{HeaderMap, Request, Uri};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::ServeLimits;
use super::host_header::is_host;
use super::request_line::STALL_MAX;

/// The first bytes of a connection of HTTP/2. No connection of HTTP/1 begins with them: there is no such method (RFC
/// 9113 section 3.4).
const PREFACE_BEGIN: &[u8] = b"PRI ";

/// How long to wait for more bytes of the preface.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);

/// The most concurrent requests of a connection: the smallest value that RFC 9113 section 6.5.2 recommends.
const STREAMS_MAX: u32 = 100;

/// The longest request head, in bytes. Each of a connection's concurrent requests may have one of this length.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// The flow-control windows: the most bytes that are received before a handler reads them, of one request and of all
/// requests of a connection.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 128 << 10;

/// The most bytes of one response that are buffered for sending.
const SEND_BYTES_MAX: usize = 64 << 10;

/// The size of the chunks in which a response is handed over for sending, in bytes: that of a frame.
const CHUNK_BYTES: usize = 16 << 10;

/// Builds the server for connections of HTTP/2.
pub(super) fn builder(limits: &ServeLimits) -> http2::Builder<TokioExecutor> {
    let head_bytes_max = limits.head_bytes_max.min(HEAD_BYTES_MAX);
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(head_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BYTES_MAX);
    http
}

/// Whether the first bytes of a connection begin HTTP/2. They are peeked at, not consumed.
///
/// # Errors
/// If the connection is lost.
pub(super) async fn is_http2_preface(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; PREFACE_BEGIN.len()];
    loop {
        let read = stream.peek(&mut first).await?;
        match first.get(..read) {
            Some(PREFACE_BEGIN) => return Ok(true),
            Some(begin) if !begin.is_empty() && PREFACE_BEGIN.starts_with(begin) => {}
            _ => return Ok(false),
        }
        // Bytes that are peeked at keep the socket readable, so there is no event to wait for.
        sleep(PREFACE_PAUSE).await;
    }
}

/// Gives a request of HTTP/2 the form of one of HTTP/1.1: the host is in the header `Host`, not in the target.
///
/// # Errors
/// If the host is malformed or contradicts the header: the reason, for a response with 400.
pub(super) fn as_http1<B>(request: &mut Request<B>) -> Result<(), &'static str> {
    let Some(authority) = request.uri().authority() else {
        // Without `:authority` the header is required, and is checked like that of HTTP/1.1.
        return Ok(());
    };
    let host = HeaderValue::try_from(authority.as_str())
        .ok()
        .filter(|host| is_host(host.as_bytes()))
        .ok_or("the pseudo-header :authority holds no host")?;
    if !hosts_agree(request.headers(), &host) {
        return Err("the header host is not what :authority is");
    }
    request.headers_mut().insert(HOST, host);
    if let Some(target) = request.uri().path_and_query() {
        *request.uri_mut() = Uri::from(target.clone());
    }
    Ok(())
}

/// Whether no header `Host` names a different host (RFC 9113 section 8.3.1).
fn hosts_agree(headers: &HeaderMap, host: &HeaderValue) -> bool {
    headers.get_all(HOST).iter().all(|other| other == host)
}

/// Counts the requests of a connection whose response is not complete. Clones share the counts.
#[derive(Debug, Clone)]
pub(super) struct PendingResponses(watch::Sender<Counts>);

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    /// Requests whose response, or its next chunk, is still being produced.
    working: usize,
    /// Requests whose response has a chunk that the client has not taken yet.
    sending: usize,
}

impl PendingResponses {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Counts::default()))
    }

    /// Counts one more request until the returned value is dropped, which also releases the permit.
    pub(super) fn track(&self, permit: impl Send + 'static) -> PendingResponse {
        self.0.send_modify(|counts| counts.working += 1);
        PendingResponse { of: self.0.clone(), is_sending: false, _permit: Box::new(permit) }
    }

    /// Resolves once there has been no such request for this long, or once all of them wait for the client and no
    /// chunk of any response has been taken for [`STALL_MAX`].
    pub(super) async fn idle_for(&self, time: Duration) {
        let mut counts = self.0.subscribe();
        loop {
            let now = *counts.borrow_and_update();
            // Cannot fail: this value is a sender.
            let changed = counts.changed();
            let quiet = match now {
                Counts { working: 0, sending: 0 } => timeout(time, changed).await.is_err(),
                Counts { working: 0, .. } => timeout(STALL_MAX, changed).await.is_err(),
                _ => changed.await.is_err(),
            };
            if quiet {
                return;
            }
        }
    }
}

/// A counted request: see [`PendingResponses::track`].
pub(super) struct PendingResponse {
    of: watch::Sender<Counts>,
    is_sending: bool,
    _permit: Box<dyn Send>,
}

impl PendingResponse {
    /// Wraps the response, so that the request counts until the response's body has been taken or is dropped.
    pub(super) fn track_body(self, response: Response) -> Response {
        response.map(|body| {
            let is_long = body.size_hint().upper().is_none_or(|max| max > CHUNK_BYTES as u64);
            let (hint, is_end) = (body.size_hint(), body.is_end_stream());
            let last_polled_at = Instant::now();
            let state = ResponseState { body, unsent: Bytes::new(), pending: self, last_polled_at };
            let state = Arc::new(Mutex::new(Some(state)));
            if is_long {
                tokio::spawn(drop_stalled(Arc::downgrade(&state)));
            }
            Body::new(TrackedBody { state, hint, is_end })
        })
    }

    /// Sets whether a chunk of the response waits for the client. Each chunk that is taken wakes
    /// [`PendingResponses::idle_for`].
    fn set_sending(&mut self, is_sending: bool) {
        let was_sending = std::mem::replace(&mut self.is_sending, is_sending);
        if was_sending || is_sending {
            self.of.send_modify(|counts| {
                counts.leave(was_sending);
                counts.enter(is_sending);
            });
        }
    }
}

impl Drop for PendingResponse {
    fn drop(&mut self) {
        self.of.send_modify(|counts| counts.leave(self.is_sending));
    }
}

impl Counts {
    fn count_mut(&mut self, is_sending: bool) -> &mut usize {
        if is_sending { &mut self.sending } else { &mut self.working }
    }

    fn enter(&mut self, is_sending: bool) {
        *self.count_mut(is_sending) += 1;
    }

    fn leave(&mut self, is_sending: bool) {
        let count = self.count_mut(is_sending);
        *count = count.saturating_sub(1);
    }
}

/// A response body, in chunks that are small enough to show whether the client takes them.
struct TrackedBody {
    /// None once the response was dropped because the client stalled.
    state: Arc<Mutex<Option<ResponseState>>>,
    /// The size of the rest.
    hint: SizeHint,
    is_end: bool,
}

/// What a response holds in memory until it is sent.
struct ResponseState {
    body: Body,
    /// Bytes that the body has produced and that have not been taken yet.
    unsent: Bytes,
    pending: PendingResponse,
    /// When a chunk was last taken.
    last_polled_at: Instant,
}

/// Drops a response of which the client takes no chunk for [`STALL_MAX`]. Nothing else would: the library polls for
/// the next chunk only when there is room for it. Other requests of the connection continue.
async fn drop_stalled(state: Weak<Mutex<Option<ResponseState>>>) {
    let mut pause = STALL_MAX;
    loop {
        sleep(pause).await;
        let Some(state) = state.upgrade() else { return };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(answer) = state.as_ref() else { return };
        let stalled = if answer.pending.is_sending {
            answer.last_polled_at.elapsed()
        } else {
            Duration::ZERO
        };
        if stalled >= STALL_MAX {
            *state = None;
            return;
        }
        pause = STALL_MAX - stalled;
    }
}

impl ResponseState {
    fn poll_chunk(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.last_polled_at = Instant::now();
        if self.unsent.is_empty() {
            let polled = Pin::new(&mut self.body).poll_frame(context);
            self.pending.set_sending(polled.is_ready());
            match ready!(polled).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.unsent = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        } else {
            self.pending.set_sending(true);
        }
        let chunk = self.unsent.split_to(self.unsent.len().min(CHUNK_BYTES));
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn size_hint(&self) -> SizeHint {
        let unsent = u64::try_from(self.unsent.len()).unwrap_or(u64::MAX);
        let rest = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(unsent));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(unsent)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let mut state = this.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(answer) = state.as_mut() else {
            return Poll::Ready(Some(Err(axum::Error::new(io::Error::from(
                io::ErrorKind::TimedOut,
            )))));
        };
        let chunk = answer.poll_chunk(context);
        this.hint = answer.size_hint();
        this.is_end = answer.unsent.is_empty() && answer.body.is_end_stream();
        chunk
    }

    fn is_end_stream(&self) -> bool {
        self.is_end
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}
