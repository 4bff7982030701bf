//! HTTP/2 by prior knowledge (RFC 9113 section 3.3), as proxies speak it to what is behind them. TLS, with which
//! browsers speak it, is a proxy's.
//!
//! A connection carries many requests at once, so what one of HTTP/1.1 may hold is divided among them.

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

/// How a connection of HTTP/2 begins, and none of HTTP/1: there is no such method (RFC 9113 section 3.4).
const PREFACE_BEGIN: &[u8] = b"PRI ";

/// How long to wait for more of it.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);

/// Most requests at once on a connection: as few as RFC 9113 section 6.5.2 advises.
const STREAMS_MAX: u32 = 100;

/// Longest request head, in bytes: each of the requests of a connection may have one.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Most bytes that are received of a request before anybody wants them, and of all requests of a connection.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 128 << 10;

/// Most bytes of an answer that wait to be sent.
const SEND_BYTES_MAX: usize = 64 << 10;

/// Parts in which an answer is handed over to be sent, in bytes: a frame's.
const PART_BYTES: usize = 16 << 10;

/// What serves connections of HTTP/2.
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

/// Whether the first bytes of a connection begin HTTP/2. They stay to be read.
///
/// # Errors
/// When the connection is gone.
pub(super) async fn is_begun(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; PREFACE_BEGIN.len()];
    loop {
        let read = stream.peek(&mut first).await?;
        match first.get(..read) {
            Some(PREFACE_BEGIN) => return Ok(true),
            Some(begin) if !begin.is_empty() && PREFACE_BEGIN.starts_with(begin) => {}
            _ => return Ok(false),
        }
        // What was seen already is no reason to be woken.
        sleep(PREFACE_PAUSE).await;
    }
}

/// Gives a request of HTTP/2 the form that those of HTTP/1.1 have: the host stands in the header `Host`, and not in
/// the target.
///
/// # Errors
/// What is wrong with its host, for the caller; it is to be answered with 400.
pub(super) fn as_http1<B>(request: &mut Request<B>) -> Result<(), &'static str> {
    let Some(authority) = request.uri().authority() else {
        // Without `:authority` there is to be the header, which is checked like that of HTTP/1.1.
        return Ok(());
    };
    let host = HeaderValue::try_from(authority.as_str())
        .ok()
        .filter(|host| is_host(host.as_bytes()))
        .ok_or("the pseudo-header :authority holds no host")?;
    if !is_alone(request.headers(), &host) {
        return Err("the header host is not what :authority is");
    }
    request.headers_mut().insert(HOST, host);
    if let Some(target) = request.uri().path_and_query() {
        *request.uri_mut() = Uri::from(target.clone());
    }
    Ok(())
}

/// Whether no header names another host (RFC 9113 section 8.3.1).
fn is_alone(headers: &HeaderMap, host: &HeaderValue) -> bool {
    headers.get_all(HOST).iter().all(|other| other == host)
}

/// The requests of a connection that are not answered yet. Cloning gives another handle.
#[derive(Debug, Clone)]
pub(super) struct Unanswered(watch::Sender<Counts>);

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    /// Those whose answer, or the next part of it, is still being made.
    working: usize,
    /// Those of whose answer there is a part that has to be taken.
    sending: usize,
}

impl Unanswered {
    pub(super) fn none() -> Self {
        Self(watch::Sender::new(Counts::default()))
    }

    /// One more, until this is dropped, which holds its place.
    pub(super) fn one(&self, permit: impl Send + 'static) -> OneUnanswered {
        self.0.send_modify(|counts| counts.working += 1);
        OneUnanswered { of: self.0.clone(), is_sending: false, _permit: Box::new(permit) }
    }

    /// Ready once there has been none for so long, or nothing was taken of any for [`STALL_MAX`].
    pub(super) async fn idle_for(&self, time: Duration) {
        let mut counts = self.0.subscribe();
        loop {
            let now = *counts.borrow_and_update();
            // There is a sender, ourselves.
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

/// See [`Unanswered::one`].
pub(super) struct OneUnanswered {
    of: watch::Sender<Counts>,
    is_sending: bool,
    _permit: Box<dyn Send>,
}

impl OneUnanswered {
    /// The response with which it ends: as soon as its body has been taken, or is dropped.
    pub(super) fn until_taken(self, response: Response) -> Response {
        response.map(|body| {
            let is_long = body.size_hint().upper().is_none_or(|max| max > PART_BYTES as u64);
            let (hint, is_end) = (body.size_hint(), body.is_end_stream());
            let taken = Instant::now();
            let held = Held { body, given: Bytes::new(), one: self, taken };
            let held = Arc::new(Mutex::new(Some(held)));
            if is_long {
                tokio::spawn(drop_stalled(Arc::downgrade(&held)));
            }
            Body::new(Answering { held, hint, is_end })
        })
    }

    /// Whether there is a part to be taken. Each time one is, that is heard of.
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

impl Drop for OneUnanswered {
    fn drop(&mut self) {
        self.of.send_modify(|counts| counts.leave(self.is_sending));
    }
}

impl Counts {
    fn of(&mut self, is_sending: bool) -> &mut usize {
        if is_sending { &mut self.sending } else { &mut self.working }
    }

    fn enter(&mut self, is_sending: bool) {
        *self.of(is_sending) += 1;
    }

    fn leave(&mut self, is_sending: bool) {
        let count = self.of(is_sending);
        *count = count.saturating_sub(1);
    }
}

/// A body on its way out, in parts that are small enough to tell whether somebody takes them.
struct Answering {
    /// None once it is let go.
    held: Arc<Mutex<Option<Held>>>,
    /// What is left of it.
    hint: SizeHint,
    is_end: bool,
}

/// What an answer holds.
struct Held {
    body: Body,
    /// What the body gave and nobody has taken yet.
    given: Bytes,
    one: OneUnanswered,
    /// When a part of it was taken last.
    taken: Instant,
}

/// Lets go of an answer of which nobody takes a part for too long: the library asks for the next one only once there
/// is room for it, so that nothing else would. The others of the connection go on.
async fn drop_stalled(held: Weak<Mutex<Option<Held>>>) {
    let mut pause = STALL_MAX;
    loop {
        sleep(pause).await;
        let Some(held) = held.upgrade() else { return };
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(answer) = held.as_ref() else { return };
        let stalled = if answer.one.is_sending { answer.taken.elapsed() } else { Duration::ZERO };
        if stalled >= STALL_MAX {
            *held = None;
            return;
        }
        pause = STALL_MAX - stalled;
    }
}

impl Held {
    fn poll_part(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.taken = Instant::now();
        if self.given.is_empty() {
            let polled = Pin::new(&mut self.body).poll_frame(context);
            self.one.set_sending(polled.is_ready());
            match ready!(polled).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.given = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        } else {
            self.one.set_sending(true);
        }
        let part = self.given.split_to(self.given.len().min(PART_BYTES));
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn size_hint(&self) -> SizeHint {
        let given = u64::try_from(self.given.len()).unwrap_or(u64::MAX);
        let rest = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(given));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(given)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let mut held = this.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(answer) = held.as_mut() else {
            return Poll::Ready(Some(Err(axum::Error::new(io::Error::from(
                io::ErrorKind::TimedOut,
            )))));
        };
        let part = answer.poll_part(context);
        this.hint = answer.size_hint();
        this.is_end = answer.given.is_empty() && answer.body.is_end_stream();
        part
    }

    fn is_end_stream(&self) -> bool {
        self.is_end
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}
