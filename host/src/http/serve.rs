//! Connections: accepted, bounded in number and time, and let go of without breaking a request.
//!
//! An accept loop of our own instead of the framework's, for what that has not: a bound on connections, of
//! each client too (`refusal`), and on the time a head may take, an end to draining, request targets with
//! raw quotes (`request_line`), and requests without a good `Host` refused (`host_header`).

mod framing;
mod host_header;
pub(super) mod plain_path;
mod refusal;
mod request_line;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use futures::future::Either;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::client::ClientNetwork;
use super::error::ApiError;
use super::places::Places;
use plain_path::{ArrivedPath, without_empty_segments};
use refusal::Refusals;
use request_line::TargetEncoder;

/// Shortest and longest pause after a failed accept. Most such failures (no file descriptor left) end
/// when a connection does, and trying again at once would take a whole core until then.
const ACCEPT_PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// What a connection reads before anybody wants it, in bytes, where a head may not be longer: the library's
/// own bound is six times that, of which thousands of connections would hold gigabytes.
const READ_BUFFER_BYTES_MAX: usize = 64 << 10;

/// What connections may take.
#[derive(Debug, Clone)]
pub struct ServeLimits {
    /// Longest request head, in bytes, counted after its target has been encoded. Longer ones are
    /// answered with 431. A head in the making is held in memory up to this size.
    pub head_bytes_max: usize,
    /// Longest time from the moment a connection is ready for a request until that request's head is
    /// complete. Past it the connection is closed without a word. The waiting between two requests
    /// counts: this is how long an idle connection is kept, too.
    pub head_timeout: Duration,
    /// Most connections at a time, at least one. Further ones wait in the operating system's backlog.
    pub connections_max: usize,
    /// Most connections of one client: an IPv4 address, or an IPv6 network of 64 bits. Further ones are
    /// answered with 503 and closed. 0: no bound.
    pub connections_per_address_max: usize,
    /// How long requests in flight may go on after the shutdown signal. What is left then is dropped.
    pub drain: Duration,
}

/// Serves HTTP/1.1 until `shutdown` is ready. Then no connection is accepted any more, idle ones are
/// closed, and the others end with their current request, or with [`ServeLimits::drain`].
///
/// # Errors
/// When the listener is none (any more). All other failures of accepting are waited out.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ServeLimits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_header_size(limits.head_bytes_max)
        .max_buf_size(limits.head_bytes_max.max(READ_BUFFER_BYTES_MAX));
    let routes = TowerToHyperService::new(router);
    let (clients, refusals) = (Places::default(), Refusals::default());
    let mut acceptor = Acceptor::new(listener, limits.connections_max);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
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
        let most = Some(limits.connections_per_address_max).filter(|most| *most > 0);
        let place = most.map(|most| clients.enter(client, most));
        if let Some(None) = place {
            if let Some(refusing) = refusals.refuse(stream) {
                connections.spawn(async move {
                    let _permit = permit;
                    refusing.await;
                    Ok(())
                });
            }
            continue;
        }
        let stream = TokioIo::new(TargetEncoder::new(stream, limits.head_bytes_max));
        let service = FromClient { routes: routes.clone(), client };
        let connection = graceful.watch(http.serve_connection(stream, service));
        connections.spawn(async move {
            let _held = (permit, place);
            connection.await
        });
    }
    // Whoever is still in the backlog learns at once that nobody will answer.
    drop(acceptor);
    if timeout(limits.drain, graceful.shutdown()).await.is_err() {
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

/// The routes, for the requests of one connection.
#[derive(Debug, Clone)]
struct FromClient {
    routes: TowerToHyperService<Router>,
    client: ClientNetwork,
}

impl Service<Request<Incoming>> for FromClient {
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

fn log_end(ended: Result<hyper::Result<()>, tokio::task::JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        // Bad requests and lost callers; the library's text quotes nothing of what they sent.
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended early"),
        Err(error) if error.is_panic() => tracing::error!("a connection's task panicked"),
        Err(_) => {}
    }
}

/// A listener that gives out as many connections as there are permits.
struct Acceptor {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    /// How long to wait before the next try.
    pause: Option<Duration>,
}

impl Acceptor {
    fn new(listener: TcpListener, connections_max: usize) -> Self {
        let permits = Semaphore::new(connections_max.clamp(1, Semaphore::MAX_PERMITS));
        Self { listener, permits: Arc::new(permits), pause: None }
    }

    /// The next connection. No connection is lost when this is dropped before it is ready.
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

/// How long to wait after a failed accept, or the error where waiting does not help.
fn pause_after(error: &io::Error, before: Option<Duration>) -> io::Result<Option<Duration>> {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput};
    match error.kind() {
        // The caller went away between its connecting and our accepting.
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
