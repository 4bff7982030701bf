//! A local web server, for tests of egress.

use std::time::Duration;

use axum::Router;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

/// How long `/open/slow` takes.
const SLOW: Duration = Duration::from_secs(600);

/// An elapsed time below this proves that the caller did not wait for `/open/slow`, and tolerates a machine that
/// stalls.
pub(crate) const FAR_LESS_THAN_SLOW: Duration = Duration::from_secs(50);

/// A running web server. It stops when dropped.
#[derive(Debug)]
pub(crate) struct Web {
    pub(crate) port: u16,
    served: JoinHandle<()>,
}

impl Web {
    /// Starts a server with these routes.
    pub(crate) async fn serve(router: Router) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { port, served }
    }

    /// Starts a server with the routes that the egress tests request.
    pub(crate) async fn serve_egress_targets() -> Self {
        let found = |to: &'static str| async move { (StatusCode::FOUND, [(LOCATION, to)]) };
        Self::serve(
            Router::new()
                .route("/open/hello", get(async || "hello"))
                .route("/open/large", get(async || "x".repeat(100_000)))
                .route("/open/slow", get(async || tokio::time::sleep(SLOW).await))
                .route("/open/near", get(move || found("/open/hello")))
                .route("/open/far", get(move || found("/closed")))
                .route("/open/round", get(move || found("/open/round")))
                .route("/open/echo", post(async |body: String| body))
                .route("/open/headers", get(async |headers: HeaderMap| format!("{headers:?}")))
                .route("/closed", get(async || "you should not see this")),
        )
        .await
    }
}

/// A local port without a listener. While this value lives, the operating system assigns the port to no other socket.
#[derive(Debug)]
pub(crate) struct ClosedPort {
    pub(crate) port: u16,
    _bound: TcpSocket,
}

impl ClosedPort {
    pub(crate) fn new() -> Self {
        let bound = TcpSocket::new_v4().unwrap();
        bound.bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self { port: bound.local_addr().unwrap().port(), _bound: bound }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.served.abort();
    }
}
