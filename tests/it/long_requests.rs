//! Long requests are read, mapped, stored and run on low-priority threads, with tenants taking turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use wardgate::settings::Settings;

use crate::support::{Client, GatewayProcess, Home, Setup, agent};

/// The name of the threads with low priority.
const LOW_PRIORITY_THREADS: &str = "bulk";

#[tokio::test]
async fn long_requests_and_their_runs_compute_at_low_priority_and_short_ones_do_not() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &[]);
    let send = async |bytes: usize| {
        let call = gateway.webhook("").json(&json!({"text": "x".repeat(bytes)}));
        call.expect(200).await;
        gateway.cpu_nanos(LOW_PRIORITY_THREADS)
    };
    let at_start = gateway.cpu_nanos(LOW_PRIORITY_THREADS);
    for _ in 0..10 {
        send(1_000).await;
    }
    // Apart from their start, these threads have not run.
    let after_short = send(200_000).await;
    assert!(after_short - at_start < 10_000_000, "{at_start} and {after_short} ns");
    // Nine megabytes cannot be read, let alone stored, in a millisecond.
    let after_long = send(9_000_000).await;
    assert!(after_long - after_short > 1_000_000, "{after_short} and {after_long} ns");
    assert!(
        gateway.niceness(LOW_PRIORITY_THREADS).iter().all(|nice| *nice == 10),
        "they are nicer"
    );
}

/// Sends a request except for the last byte of its body, which the test sends later.
async fn send_all_but_last_byte(agent: &Client, bytes: usize) -> TcpStream {
    let target = format!("/?agent_id={}&asynchronous=true", agent.agent);
    let head = format!(
        "POST {target} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-type: application/json\r\n\
         content-length: {bytes}\r\nconnection: close\r\n\r\n",
        agent.key
    );
    let padding = "x".repeat(bytes - r#"{"pad":""}"#.len());
    agent.send_raw(format!(r#"{head}{{"pad":"{padding}""#).as_bytes()).await
}

/// How many long requests of one tenant were answered before the other tenant's request was sent, and before it was
/// answered.
async fn answered_before(many: &Client, other: &Client, count: usize) -> (usize, usize) {
    let mut sent = Vec::new();
    for _ in 0..count {
        sent.push(send_all_but_last_byte(many, 8_000_000).await);
    }
    let mut one = send_all_but_last_byte(other, 1_000_000).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let mut answers = JoinSet::new();
    for mut connection in sent {
        connection.write_all(b"}").await.unwrap();
        let answered = Arc::clone(&answered);
        answers.spawn(async move {
            let answer = read_answer(&mut connection).await;
            answered.fetch_add(1, Ordering::SeqCst);
            answer
        });
    }
    one.write_all(b"}").await.unwrap();
    let at_start = answered.load(Ordering::SeqCst);
    let answer = read_answer(&mut one).await;
    let at_end = answered.load(Ordering::SeqCst);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    while let Some(answer) = answers.join_next().await {
        let answer = answer.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    (at_start, at_end)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_request_does_not_wait_behind_all_those_of_another_tenant() {
    const MANY: usize = 24;
    let setup = Setup::new().settings(|settings: &mut Settings| {
        settings.http.held_body_bytes_max = 1 << 30;
        settings.http.held_body_bytes_per_tenant_max = 300 << 20;
        settings.http.held_body_bytes_per_address_max = 0;
    });
    let gateway = setup.start().await;
    let other = gateway.new_tenant("other").await;
    let other = gateway.new_agent(other, agent("theirs")).await;
    let many = gateway.new_agent(gateway.tenant, agent("many")).await;
    // On a machine with other work, most of the many can be answered before this test has sent the one: such a round
    // shows nothing.
    for _round in 0..10 {
        let (at_start, at_end) = answered_before(&many, &other, MANY).await;
        let ahead = MANY - at_start;
        if ahead >= MANY / 2 {
            // In order of arrival, all that were ahead would come first.
            let first = at_end - at_start;
            assert!(first <= ahead * 2 / 3, "{first} of {ahead} long requests came first");
            return;
        }
    }
    panic!("in no round were {} long requests ahead of the one", MANY / 2);
}

async fn read_answer(connection: &mut TcpStream) -> String {
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}
