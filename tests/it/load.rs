//! Ten thousand requests over 256 connections, one in twenty of them malformed: every acknowledged task is stored
//! once and ends, every malformed request gets an error that says what is wrong, and no other task exists (rows X16,
//! X20, X21 and D1 under load). The test does not measure speed.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{Client, GatewayProcess, Home, poll_until};

const REQUESTS: usize = 10_000;
const CONNECTIONS: usize = 256;
/// One of this many requests is malformed.
const MALFORMED_EVERY: usize = 20;

/// The time limit. The test takes seconds; minutes are for a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// The bytes of a request, and the expected response.
struct Request {
    bytes: Vec<u8>,
    expected: Expected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// The task with its result.
    Task,
    /// `Started`.
    Started,
    /// The envelope of the agent's own webhook.
    Envelope,
    /// This error. If the gateway has not read the whole request, it closes the connection.
    Refusal { status: u16, closes_connection: bool },
}

/// A request with this request line, these headers and this body.
fn request(line: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("{line} HTTP/1.1\r\nhost: wardgate\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
        .into_bytes()
}

impl Request {
    fn valid(agent: &Client, number: usize) -> Self {
        let Client { agent, key, token, .. } = agent;
        let post = format!("POST /?agent_id={agent}");
        let hook = format!("POST /api/webhooks/agents/{token}");
        let json = "content-type: application/json\r\n";
        let with_key = format!("{json}x-api-key: {key}\r\n");
        let body = json!({"n": number}).to_string();
        let (bytes, expected) = match number % 3 {
            0 => (request(&post, &with_key, &body), Expected::Task),
            1 => {
                let line = format!("{post}&asynchronous=true");
                (request(&line, &with_key, &body), Expected::Started)
            }
            _ => (request(&hook, json, &body), Expected::Envelope),
        };
        Self { bytes, expected }
    }

    /// These in turn: errors in the parameters, the body, the credentials, the target, and the HTTP itself.
    fn malformed(agent: &Client, number: usize) -> Self {
        let Client { agent, key, token, .. } = agent;
        let post = format!("POST /?agent_id={agent}");
        let hook = format!("POST /api/webhooks/agents/{token}");
        let key = format!("x-api-key: {key}\r\n");
        let json = "content-type: application/json\r\n";
        let head = |line: &str, headers: &str| {
            format!("{line} HTTP/1.1\r\nhost: wardgate\r\n{headers}\r\n").into_bytes()
        };
        let malformed = [
            (400, request("POST /", &key, "{}")),
            (401, request(&post, "", "{}")),
            (403, request(&post, "x-api-key: wrong\r\n", "{}")),
            (400, request(&post, &format!("{json}{key}"), "{\"n\":")),
            (400, request(&post, &format!("{json}{key}"), "{\"json\":\"maybe\"}")),
            (400, request(&format!("{post}&params_mapping={{"), &key, "{}")),
            (400, request(&format!("{post}&prompt=%FF"), &key, "{}")),
            (400, request(&post, &format!("{key}idempotency-key: two words\r\n"), "{}")),
            (415, request(&post, &format!("{key}content-type: image/png\r\n"), "{}")),
            (400, request(&hook, json, "")),
            (415, request(&hook, "content-type: text/plain\r\n", "a=b")),
            (404, request(&format!("{hook}x"), json, "{}")),
            (404, request("POST /nowhere", &key, "{}")),
            (405, request(&format!("PUT /?agent_id={agent}"), &key, "{}")),
            (413, head(&post, &format!("{key}content-length: 99999999\r\n"))),
            (400, head(&post, &format!("{key}content-length: many\r\n"))),
            (400, b"what is this?\r\n\r\n".to_vec()),
            (431, head(&post, &format!("{key}x: {}\r\n", "x".repeat(70_000)))),
        ];
        let at = number / MALFORMED_EVERY % malformed.len();
        let closes_connection = at + 4 >= malformed.len();
        let (status, bytes) = malformed.into_iter().nth(at).unwrap();
        Self { bytes, expected: Expected::Refusal { status, closes_connection } }
    }

    fn numbered(agent: &Client, number: usize) -> Self {
        if number % MALFORMED_EVERY == MALFORMED_EVERY - 1 {
            Self::malformed(agent, number)
        } else {
            Self::valid(agent, number)
        }
    }
}

/// The parts of a response that this test checks.
struct Reply {
    status: u16,
    task: Option<String>,
    body: String,
}

/// Sends a request and reads the response, whose length the gateway always declares.
async fn exchange(stream: &mut BufReader<TcpStream>, bytes: &[u8]) -> Reply {
    // The write fails if the request is refused before it has been read completely.
    let _ = stream.get_mut().write_all(bytes).await;
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no answer: {line:?}"));
    let (mut task, mut length) = (None, 0);
    loop {
        line.clear();
        stream.read_line(&mut line).await.unwrap();
        match line.trim_end().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(("x-task-id", value)) => task = Some(value.to_owned()),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    Reply { status, task, body: String::from_utf8(body).unwrap() }
}

/// The task that a response acknowledges; `None` for a refusal. Panics if the response is not as expected.
fn acknowledged_task(number: usize, expected: Expected, reply: Reply) -> Option<String> {
    let Reply { status, task, body } = reply;
    if let Expected::Refusal { status: refusal, closes_connection } = expected {
        assert_eq!((status, &task), (refusal, &None), "{number}: {body}");
        let explains = ["{\"detail\":", "{\"success\":false,\"message\":"];
        // The HTTP library responds to invalid HTTP, with a short body or none.
        let explained = explains.iter().any(|words| body.starts_with(words)) || closes_connection;
        assert!(explained, "{number}: {body}");
        return None;
    }
    assert_eq!(status, 200, "{number}: {body}");
    let task = task.unwrap_or_else(|| panic!("{number}: no task in {body}"));
    let body: Value = serde_json::from_str(&body).unwrap();
    match expected {
        Expected::Task => {
            let result = body["result"].as_str().unwrap_or_default();
            let result: Value = serde_json::from_str(result).unwrap_or_default();
            assert_eq!((&body["id"], &body["status"]), (&json!(task), &json!("completed")));
            // The result is that of this request, not of another.
            assert_eq!(result["received"], json!({"n": number}).to_string(), "{body}");
        }
        Expected::Started => assert_eq!(body, json!({"status": "Started"})),
        _ => assert_eq!(body, json!({"success": true, "task_id": task})),
    }
    Some(task)
}

/// Sends one connection's share of the requests in sequence. Returns the acknowledged tasks with the numbers of their
/// requests.
async fn run_connection(agent: Client, first: usize) -> Vec<(usize, String)> {
    let connect = async || BufReader::new(TcpStream::connect(&agent.listen).await.unwrap());
    let (mut stream, mut tasks) = (connect().await, Vec::new());
    for number in (first..REQUESTS).step_by(CONNECTIONS) {
        let Request { bytes, expected } = Request::numbered(&agent, number);
        let reply = exchange(&mut stream, &bytes).await;
        tasks.extend(acknowledged_task(number, expected, reply).map(|task| (number, task)));
        if matches!(expected, Expected::Refusal { closes_connection: true, .. }) {
            stream = connect().await;
        }
    }
    tasks
}

/// Every task in the store: the number in its payload, its id and its status.
async fn stored_tasks(database: &mut SqliteConnection) -> Vec<(usize, String, String)> {
    let rows = sqlx::query(
        "SELECT lower(hex(id)), coalesce(ended, 'open'), payload ->> 'n' FROM tasks \
         JOIN bodies ON task_sequence = sequence",
    );
    let rows = rows.fetch_all(database).await.unwrap();
    rows.iter().map(|row| (row.get::<i64, _>(2) as usize, row.get(0), row.get(1))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_lose_nothing_and_invent_nothing() {
    let home = Home::new();
    // Long enough that synchronous callers get the finished task even on a slow machine.
    let settings = home.write("settings.toml", "[http]\nsync_wait_seconds_max = 600\n");
    let gateway = GatewayProcess::serve(&home, &["--settings", settings.to_str().unwrap()]);
    let connections: JoinSet<_> =
        (0..CONNECTIONS).map(|first| run_connection((*gateway).clone(), first)).collect();
    let connections = tokio::time::timeout(TIME_LIMIT, connections.join_all()).await;
    let connections = connections.expect("some of the requests were never answered");
    let tasks: BTreeMap<usize, String> = connections.into_iter().flatten().collect();
    assert_eq!(tasks.len(), REQUESTS - REQUESTS / MALFORMED_EVERY);

    let database = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(home.path().join("wardgate.db"))
        .read_only(true);
    let mut database = database.connect().await.unwrap();
    poll_until("the end of every task", async || {
        let open = "SELECT count(*) FROM tasks WHERE finished_at IS NULL";
        let open: i64 = sqlx::query_scalar(open).fetch_one(&mut database).await.unwrap();
        (open == 0).then_some(())
    })
    .await;
    let stored = stored_tasks(&mut database).await;
    let numbers: HashSet<_> = stored.iter().map(|(number, ..)| number).collect();
    assert_eq!((stored.len(), numbers.len()), (tasks.len(), tasks.len()), "each of them once");
    for (number, id, status) in &stored {
        let acknowledged = tasks.get(number).map(|task| task.replace('-', ""));
        assert_eq!((acknowledged.as_ref(), status.as_str()), (Some(id), "completed"), "{number}");
    }
    database.close().await.unwrap();
    assert_eq!(gateway.get("/healthz").expect(200).await.json()["status"], "ok");
}
