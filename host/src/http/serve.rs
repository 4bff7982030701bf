//! Serves connections: accepts them, limits their number and duration, and drains them at shutdown.
//!
//! This accept loop replaces the framework's, which lacks: a limit on connections, in total and for each client
//! (`refusal`), a timeout for request heads, a deadline for draining, support for raw quotes in request targets
//! (`request_line`), and rejection of requests without a valid `Host` (`host_header`).

mod framing;
mod host_header;
mod http2;
pub(super) mod plain_path;
mod refusal;
mod request_line;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use futures::future::{BoxFuture, Either};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2 as hyper_http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::client::ClientNetwork;
use super::concurrency::{ConcurrencyLimit, Permit};
use super::error::ApiError;
use http2::PendingResponses;
use plain_path::{ArrivedPath, without_empty_segments};
use refusal::Refusals;
use request_line::TargetEncoder;

/// Shortest and longest pause after a failed accept. Most such failures (no file descriptor left) last until a
/// connection ends, and retrying at once would take a whole core until then.
const ACCEPT_PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Maximum size of a connection's read buffer, in bytes, unless the limit on heads is larger. The library's own limit
/// is six times that, and thousands of connections would hold gigabytes.
const READ_BUFFER_BYTES_MAX: usize = 64 << 10;

/// Limits on connections.
#[derive(Debug, Clone)]
pub struct ServeLimits {
    /// Maximum length of a request head, in bytes, after its target has been percent-encoded. A longer head gets 431.
    /// An incomplete head is held in memory up to this size. In HTTP/2 the limit is 16 KiB at most.
    pub head_bytes_max: usize,
    /// Maximum time from the moment a connection is ready for a request until that request's head is complete. After
    /// that, the connection is closed without a response. The time between two requests counts, so this is also the
    /// idle timeout. A new connection is ready once its first bytes show which HTTP version it uses, which may take
    /// as long again.
    pub head_timeout: Duration,
    /// Maximum number of connections, at least one. Further ones wait in the operating system's backlog.
    pub connections_max: usize,
    /// Maximum number of connections of one client: an IPv4 address, or an IPv6 network of 64 bits. Further ones get
    /// 503 and are closed. 0 means no limit.
    pub connections_per_address_max: usize,
    /// How long requests in flight may continue after the shutdown signal. The rest are dropped then.
    pub drain: Duration,
}

/// Serves HTTP/1.1, and HTTP/2 by prior knowledge, until `shutdown` completes. Then no more connections are accepted,
/// idle ones are closed, and the others end with their current requests, or after [`ServeLimits::drain`].
///
/// # Errors
/// If the listener is not valid, or no longer. All other failures to accept are retried after a pause.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ServeLimits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let protocols = Arc::new(Protocols::new(router, &limits));
    let per_client_max = Some(limits.connections_per_address_max).filter(|max| *max > 0);
    let by_client = per_client_max.map(ConcurrencyLimit::new);
    let refusals = Refusals::default();
    let mut acceptor = Acceptor::new(listener, limits.connections_max);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, client, permit) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => {
                log_end(ended);
                continue;
            }
            accepted = acceptor.accept() => accepted?,
        };
        let of_client = by_client.as_ref().map(|by_client| by_client.acquire(client));
        if let Some(None) = of_client {
            if let Some(refusing) = refusals.refuse(stream) {
                connections.spawn(async move {
                    let _permit = permit;
                    refusing.await;
                    Ok(())
                });
            }
            continue;
        }
        let protocols = Arc::clone(&protocols);
        connections.spawn(async move {
            let _held = (permit, of_client);
            protocols.serve(stream, client).await
        });
    }
    // Clients that are still in the backlog learn at once that they will not be served.
    drop(acceptor);
    protocols.closing.cancel();
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            log_end(ended);
        }
    };
    if timeout(limits.drain, drained).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            drain_ms = limits.drain.as_millis(),
            "dropping connections whose requests did not end in time"
        );
    }
    connections.abort_all();
    while let Some(ended) = connections.join_next().await {
        log_end(ended);
    }
    Ok(())
}

/// The protocols that connections use, and the state that all connections share.
struct Protocols {
    http1: http1::Builder,
    http2: hyper_http2::Builder<TokioExecutor>,
    routes: TowerToHyperService<Router>,
    head_bytes_max: usize,
    head_timeout: Duration,
    /// Cancelled when no further requests are accepted.
    closing: CancellationToken,
    /// Permits for concurrent HTTP/2 requests: as many as for connections, in total and for each client. Otherwise
    /// each connection could have a hundred.
    requests: Arc<Semaphore>,
    /// `None` if there is no limit for each client.
    requests_by_client: Option<ConcurrencyLimit<ClientNetwork>>,
}

impl Protocols {
    fn new(router: Router, limits: &ServeLimits) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_header_size(limits.head_bytes_max)
            .max_buf_size(limits.head_bytes_max.max(READ_BUFFER_BYTES_MAX));
        Self {
            http1,
            http2: http2::builder(limits),
            routes: TowerToHyperService::new(router),
            head_bytes_max: limits.head_bytes_max,
            head_timeout: limits.head_timeout,
            closing: CancellationToken::new(),
            requests: Arc::new(Semaphore::new(
                limits.connections_max.clamp(1, Semaphore::MAX_PERMITS),
            )),
            requests_by_client: Some(limits.connections_per_address_max)
                .filter(|max| *max > 0)
                .map(ConcurrencyLimit::new),
        }
    }

    /// Acquires a permit for an HTTP/2 request. `None` if there are too many.
    fn permit(&self, client: ClientNetwork) -> Option<RequestPermit> {
        let all = Arc::clone(&self.requests).try_acquire_owned().ok()?;
        let of_client = match &self.requests_by_client {
            Some(by_client) => Some(by_client.acquire(client)?),
            None => None,
        };
        Some(RequestPermit { _all: all, _of_client: of_client })
    }

    /// Serves a connection until it ends.
    async fn serve(self: Arc<Self>, stream: TcpStream, client: ClientNetwork) -> hyper::Result<()> {
        let is_http2 = tokio::select! {
            is_http2 = timeout(self.head_timeout, http2::is_http2_preface(&stream)) => is_http2,
            () = self.closing.cancelled() => return Ok(()),
        };
        let requests = ClientService { routes: self.routes.clone(), client };
        match is_http2 {
            Ok(Ok(true)) => self.serve_http2(stream, requests).await,
            Ok(Ok(false)) => {
                let stream = TokioIo::new(TargetEncoder::new(stream, self.head_bytes_max));
                let connection = pin!(self.http1.serve_connection(stream, requests));
                serve_until(self.closing.cancelled(), connection).await
            }
            // The connection ended, or timed out, before it sent a request.
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    /// Serves an HTTP/2 connection. It does not end by itself, so it is closed after the same idle time as an
    /// HTTP/1.1 connection.
    async fn serve_http2(
        self: &Arc<Self>,
        stream: TcpStream,
        requests: ClientService,
    ) -> hyper::Result<()> {
        let pending = PendingResponses::new();
        let protocols = Arc::clone(self);
        let requests = Http2Service { protocols, requests, pending: pending.clone() };
        let mut connection = pin!(self.http2.serve_connection(TokioIo::new(stream), requests));
        let idle = || pending.idle_for(self.head_timeout);
        let closing = async {
            tokio::select! {
                () = self.closing.cancelled() => {}
                () = idle() => {}
            }
        };
        // A client that does not respond to the graceful shutdown has the same time again.
        tokio::select! {
            ended = serve_until(closing, connection.as_mut()) => ended,
            () = async { idle().await; idle().await } => Ok(()),
        }
    }
}

/// Serves a connection until it ends, or until `closing` completes and its requests in flight are answered.
async fn serve_until<C: GracefulConnection>(
    closing: impl Future<Output = ()>,
    mut connection: Pin<&mut C>,
) -> C::Output {
    tokio::select! {
        ended = &mut connection => return ended,
        () = closing => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// The service for the requests of one connection.
#[derive(Debug, Clone)]
struct ClientService {
    routes: TowerToHyperService<Router>,
    client: ClientNetwork,
}

impl Service<Request<Incoming>> for ClientService {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<
        Ready<Result<Response, Infallible>>,
        <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future,
    >;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if let Err(wrong) = host_header::check(&request) {
            return Either::Left(ready(Ok(ApiError::caller(400, wrong).into_response())));
        }
        request.extensions_mut().insert(self.client);
        if let Some(plain) = without_empty_segments(request.uri()) {
            let arrived = std::mem::replace(request.uri_mut(), plain);
            request.extensions_mut().insert(ArrivedPath(arrived.path().to_owned()));
        }
        Either::Right(self.routes.call(request))
    }
}

/// Counts an HTTP/2 request until dropped.
#[derive(Debug)]
struct RequestPermit {
    _all: OwnedSemaphorePermit,
    _of_client: Option<Permit<ClientNetwork>>,
}

/// The service for the requests of one HTTP/2 connection, which are counted.
struct Http2Service {
    protocols: Arc<Protocols>,
    requests: ClientService,
    pending: PendingResponses,
}

impl Service<Request<Incoming>> for Http2Service {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if let Err(wrong) = http2::as_http1(&mut request) {
            return Box::pin(ready(Ok(ApiError::caller(400, wrong).into_response())));
        }
        let Some(permit) = self.protocols.permit(self.requests.client) else {
            let detail = "too many requests of this address, or of all, are under way";
            return Box::pin(ready(Ok(ApiError::unavailable(detail).into_response())));
        };
        let pending_response = self.pending.track(permit);
        let answer = self.requests.call(request);
        Box::pin(async move { answer.await.map(|response| pending_response.track_body(response)) })
    }
}

fn log_end(ended: Result<hyper::Result<()>, tokio::task::JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        // Malformed requests and lost connections. The library's message quotes nothing that the client sent.
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended early"),
        Err(error) if error.is_panic() => tracing::error!("a connection's task panicked"),
        Err(_) => {}
    }
}

/// A listener that accepts only as many connections as there are permits.
struct Acceptor {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    /// How long to wait before the next attempt.
    pause: Option<Duration>,
}

impl Acceptor {
    fn new(listener: TcpListener, connections_max: usize) -> Self {
        let permits = Semaphore::new(connections_max.clamp(1, Semaphore::MAX_PERMITS));
        Self { listener, permits: Arc::new(permits), pause: None }
    }

    /// Accepts the next connection. Cancel safe: no connection is lost if the future is dropped.
    async fn accept(&mut self) -> io::Result<(TcpStream, ClientNetwork, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(io::Error::other)?;
        loop {
            if let Some(pause) = self.pause {
                sleep(pause).await;
            }
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    self.pause = None;
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a connection keeps its delay");
                    }
                    return Ok((stream, from.ip().into(), permit));
                }
                Err(error) => self.pause = pause_after(&error, self.pause)?,
            }
        }
    }
}

/// Returns how long to wait after a failed accept.
///
/// # Errors
/// If waiting does not help.
fn pause_after(error: &io::Error, before: Option<Duration>) -> io::Result<Option<Duration>> {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput};
    match error.kind() {
        // The client disconnected before its connection was accepted.
        ConnectionAborted | ConnectionRefused | ConnectionReset => Ok(None),
        InvalidInput => Err(io::Error::new(InvalidInput, format!("cannot accept: {error}"))),
        _ => {
            let (shortest, longest) = ACCEPT_PAUSES;
            let pause = before.map_or(shortest, |pause| (pause * 2).min(longest));
            tracing::warn!(%error, pause_ms = pause.as_millis(), "accepting connections fails");
            Ok(Some(pause))
        }
    }
}

#[cfg(test)]
mod tests;
