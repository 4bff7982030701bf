//! A web server on this machine, for tools that fetch.

use std::time::Duration;

use axum::Router;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

/// How long `/open/slow` takes.
const SLOW: Duration = Duration::from_secs(600);

/// So long a machine may stall, and it is still seen that nobody waited for `/open/slow`.
pub(crate) const FAR_LESS_THAN_SLOW: Duration = Duration::from_secs(50);

/// A server that is gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Web {
    pub(crate) port: u16,
    served: JoinHandle<()>,
}

impl Web {
    /// Serves these routes.
    pub(crate) async fn serve(router: Router) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { port, served }
    }

    /// The places that the tests of egress go to.
    pub(crate) async fn places() -> Self {
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

/// A port of this machine that nobody listens on, and that nobody else is given as long as this lives.
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
