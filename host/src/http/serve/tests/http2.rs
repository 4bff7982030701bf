//! Tests connections of HTTP/2: how they begin, how many requests they carry, and when they end.

use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use tokio::task::JoinHandle;

use super::*;

/// Connects a client. Returns its handle, and the task of the connection, which ends when the server closes it.
async fn connect(server: &Server) -> (SendRequest<Full<Bytes>>, JoinHandle<()>) {
    let stream = TokioIo::new(server.connect().await);
    let (send, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
    // It does not matter how it ends.
    (send, tokio::spawn(async { drop(connection.await) }))
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://x{path}")).body(Full::default()).unwrap()
}

/// Sends a request, and returns the status and the body of the response.
async fn ask(send: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> (u16, String) {
    let response =
        timeout(SOON, send.send_request(request)).await.expect("an answer soon").unwrap();
    let status = response.status().as_u16();
    let body = timeout(SOON, response.into_body().collect()).await.expect("a body soon").unwrap();
    (status, String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn a_connection_carries_many_requests_at_once() {
    let server = Server::start(LIMITS).await;
    let (mut send, _connection) = connect(&server).await;
    let waiting = tokio::spawn(send.send_request(get("/wait")));
    timeout(SOON, server.asked.notified()).await.expect("a request soon");
    for number in 0..20 {
        let request = Request::post(format!("http://x/a/{number}")).body("body".into()).unwrap();
        assert_eq!(ask(&mut send, request).await, (200, format!("/a/{number} body")));
    }
    assert!(!waiting.is_finished());
    server.answer.notify_one();
    let answer = timeout(SOON, waiting).await.expect("an answer soon").unwrap().unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "waited");
}

#[tokio::test]
async fn its_host_stands_where_that_of_http_1_stands_and_is_checked_like_it() {
    let server = Server::start(LIMITS).await;
    let (mut send, _connection) = connect(&server).await;
    let with = |authority: &str, hosts: &[&str]| {
        let mut request = Request::get(format!("http://{authority}/?a=b//c"));
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(Full::default()).unwrap()
    };
    for good in [with("x", &[]), with("x", &["x"]), with("x:80", &[]), with("[::1]:80", &[])] {
        assert_eq!(ask(&mut send, good).await, (200, "/?a=b//c ".into()));
    }
    for wrong in [with("a@x", &[]), with("x", &["y"]), with("x", &["x", "y"]), with("x", &["x:80"])]
    {
        let (status, body) = ask(&mut send, wrong).await;
        assert_eq!(status, 400, "{body}");
        assert!(body.contains("host"), "{body}");
    }
}

#[tokio::test]
async fn a_head_over_the_limit_is_answered_with_431_and_the_connection_goes_on() {
    let server = Server::start(LIMITS).await;
    let (mut send, _connection) = connect(&server).await;
    let mut long = get("/a");
    let value = "x".repeat(LIMITS.head_bytes_max).parse().unwrap();
    long.headers_mut().insert("a", value);
    assert_eq!(ask(&mut send, long).await.0, 431);
    assert_eq!(ask(&mut send, get("/a")).await, (200, "/a ".into()));
}

#[tokio::test]
async fn a_slow_beginning_and_an_idle_connection_are_closed_and_a_long_request_is_not() {
    let limits = ServeLimits { head_timeout: Duration::from_millis(100), ..LIMITS };
    let server = Server::start(limits).await;
    for begin in ["", "PR", "PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = server.connect().await;
        stream.write_all(begin.as_bytes()).await.unwrap();
        let mut left = Vec::new();
        let read = timeout(SOON, stream.read_to_end(&mut left)).await.expect("an end soon");
        assert!(
            read.is_ok() || read.unwrap_err().kind() == ErrorKind::ConnectionReset,
            "{begin:?}"
        );
    }
    let (mut send, mut connection) = connect(&server).await;
    let waiting = tokio::spawn(send.send_request(get("/wait")));
    timeout(SOON, server.asked.notified()).await.expect("a request soon");
    let early = timeout(Duration::from_millis(500), &mut connection).await;
    assert!(early.is_err(), "a connection ended that somebody was to be answered on");
    server.answer.notify_one();
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    timeout(SOON, connection).await.expect("an end soon").unwrap();
}

#[tokio::test]
async fn after_the_shutdown_signal_requests_in_flight_end_and_no_new_ones_begin() {
    let server = Server::start(LIMITS).await;
    let (_idle, ends) = connect(&server).await;
    let (mut busy, busy_ends) = connect(&server).await;
    let waiting = tokio::spawn(busy.send_request(get("/wait")));
    timeout(SOON, server.asked.notified()).await.expect("a request soon");
    server.shutdown.send(()).unwrap();
    timeout(SOON, ends).await.expect("an end soon").unwrap();
    assert!(!server.ended.is_finished());
    server.answer.notify_one();
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    timeout(SOON, busy_ends).await.expect("an end soon").unwrap();
    timeout(SOON, server.ended).await.expect("an end soon").unwrap().unwrap();
}

#[tokio::test]
async fn whoever_takes_thousands_of_requests_back_is_cut_off() {
    let server = Server::start(LIMITS).await;
    let (mut send, connection) = connect(&server).await;
    let flood = async {
        for _ in 0..10_000 {
            if send.ready().await.is_err() {
                break;
            }
            let mut asked = Box::pin(send.send_request(get("/never")));
            // Sent, then cancelled.
            let _ = futures::poll!(&mut asked);
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, flood).await.expect("an end soon");
    timeout(SOON, connection).await.expect("an end soon").unwrap();
    let (mut send, _connection) = connect(&server).await;
    assert_eq!(ask(&mut send, get("/a")).await, (200, "/a ".into()));
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_let_go_and_one_that_is_taken_slowly_is_not() {
    let pending = PendingResponses::new();
    let whole = vec![b'x'; 100_000];
    let response = Response::new(axum::body::Body::from(whole.clone()));
    let mut body = pending.track(()).track_body(response).into_body();
    assert_eq!(hyper::body::Body::size_hint(&body).exact(), Some(100_000));
    tokio::time::pause();
    let idle = pending.idle_for(Duration::from_secs(1));
    let mut idle = std::pin::pin!(idle);
    let mut taken = Vec::new();
    while let Some(frame) = body.frame().await {
        taken.extend_from_slice(&frame.unwrap().into_data().unwrap());
        assert!(timeout(Duration::from_secs(20), &mut idle).await.is_err());
        if taken.len() > 50_000 {
            break;
        }
    }
    assert!(whole.starts_with(&taken) && taken.len() < whole.len());
    let started_at = tokio::time::Instant::now();
    idle.await;
    // Twenty seconds have passed since the last chunk was taken.
    assert!((10..=11).contains(&started_at.elapsed().as_secs()), "{:?}", started_at.elapsed());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(
        body.frame().await.unwrap().is_err(),
        "it was let go, whatever else the connection carries"
    );
}

#[tokio::test]
async fn requests_of_one_client_are_no_more_at_once_than_its_connections() {
    let limits = ServeLimits { connections_per_address_max: 5, ..LIMITS };
    let server = Server::start(limits).await;
    let (mut send, _connection) = connect(&server).await;
    let waiting: Vec<_> = (0..5).map(|_| tokio::spawn(send.send_request(get("/never")))).collect();
    let refused = loop {
        let (status, body) = ask(&mut send, get("/a")).await;
        if status != 200 {
            break (status, body);
        }
    };
    assert_eq!(refused.0, 503, "{}", refused.1);
    for one in waiting {
        one.abort();
    }
    while ask(&mut send, get("/a")).await.0 != 200 {}
}
