//! Known mistakes of other gateways, one test each. Other modules cover the topics in depth. Two mistakes concern
//! signatures (two `v1=` in one header, stale timestamps) and are tested with those.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::web::Web;
use crate::support::{Call, Gateway, Setup, agent};

/// A gateway whose agent's model gives this reply.
async fn replying(reply: Reply) -> (Gateway, ModelServer) {
    let server = ModelServer::start([reply]).await;
    (Setup::new().model(&server).start().await, server)
}

#[tokio::test]
async fn a_key_never_points_at_a_task_that_does_not_exist() {
    let waiting = Setup::new().settings(|settings| settings.queue.runs_max = 0).start().await;
    let trigger = |gateway: &Gateway| gateway.trigger().json(&json!({"q": 1})).idempotent("k");
    let first = trigger(&waiting).expect(200).await.task_id();
    // The key and the task are committed together: after a restart both exist, and the task runs.
    let gateway = Setup::new().home(waiting.stop().await).start().await;
    assert_eq!(trigger(&gateway).expect(200).await.task_id(), first);
    assert_eq!(gateway.wait_for_end(&first).await["status"], "completed");
    // Deleting a task deletes its key.
    let delete = gateway.http.delete(gateway.url(&format!("/v1/tasks/{first}")));
    Call::new(delete).key(&gateway.key).expect(204).await;
    assert_ne!(trigger(&gateway).expect(200).await.task_id(), first);
}

#[tokio::test]
async fn a_key_that_is_used_while_its_task_runs_does_not_run_it_twice() {
    let (gateway, server) = replying(Reply::Held(&Reply::Text("done"))).await;
    let trigger = || gateway.trigger().json(&json!({"q": 1})).idempotent("k");
    let first = trigger().expect(200).await.task_id();
    for _ in 0..5 {
        assert_eq!(trigger().expect(200).await.task_id(), first);
    }
    server.release(1);
    assert_eq!(gateway.wait_for_end(&first).await["execution_attempts"], 1);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn equal_bodies_without_a_key_are_two_requests() {
    let gateway = Gateway::start().await;
    let ids = [
        gateway.trigger().json(&json!({"q": 1})).expect(200).await.task_id(),
        gateway.trigger().json(&json!({"q": 1})).expect(200).await.task_id(),
    ];
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_chunked_body_is_refused_at_the_limit_and_not_cut() {
    let setup = Setup::new().settings(|settings| settings.http.body_bytes_max = 1_000);
    let gateway = setup.start().await;
    let chunks = |count: usize| {
        let chunk = Ok::<_, std::io::Error>(" ".repeat(100));
        futures::stream::iter(std::iter::once(Ok("{}".to_owned())).chain((0..count).map(
            move |_| chunk.as_ref().map(Clone::clone).map_err(|_| std::io::Error::other("never")),
        )))
    };
    let send = |count| {
        gateway.trigger().text("application/json", reqwest::Body::wrap_stream(chunks(count)))
    };
    send(9).expect(200).await;
    send(11).expect(413).await;
    assert_eq!(gateway.stored_task_count().await, 1);
}

#[tokio::test]
async fn head_starts_no_run() {
    let gateway = Gateway::start().await;
    let hook = format!("/api/webhooks/agents/{}?q=1", gateway.token);
    Call::new(gateway.http.head(gateway.url(&hook))).expect(405).await;
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn a_token_in_another_case_is_another_token() {
    let gateway = Gateway::start().await;
    for wrong in [gateway.token.to_lowercase(), gateway.token.to_uppercase()] {
        assert_ne!(wrong, gateway.token);
        gateway.post(&format!("/api/webhooks/agents/{wrong}")).json(&json!({})).expect(404).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_polls_do_not_block_a_trigger() {
    let (gateway, _server) = replying(Reply::Silence).await;
    let id = gateway.trigger().json(&json!({"q": 1})).expect(200).await.task_id();
    let mut polls = JoinSet::new();
    for _ in 0..500 {
        let (caller, target) = (gateway.caller.clone(), format!("/api/task_status?task_id={id}"));
        polls.spawn(async move {
            for _ in 0..4 {
                caller.get(&target).expect(200).await;
            }
        });
    }
    // Each of these would hang, as in other gateways, if polls held a resource that a trigger needs.
    for n in 0..20 {
        gateway.trigger().json(&json!({"n": n})).expect(200).await;
    }
    polls.join_all().await;
    assert_eq!(gateway.stored_task_count().await, 21);
}

#[tokio::test]
async fn a_backlog_of_one_tenant_delays_no_other() {
    let (gateway, _server) = replying(Reply::Silence).await;
    for _ in 0..200 {
        gateway.trigger().json(&json!({"q": 1})).expect(200).await;
    }
    let other = gateway.new_tenant("other").await;
    let other = gateway.new_agent(other, agent("quick")).await;
    assert_eq!(other.ask(json!({"prompt": "hi"})).await.report()["received"], "hi");
}

#[tokio::test]
async fn calls_of_a_plugin_share_nothing() {
    let gateway = Gateway::start().await;
    let counting = gateway.agent_with_mapper("counts_calls", "").await;
    for _ in 0..2 {
        assert_eq!(counting.ask(json!({})).await.report()["received"], "1");
    }
}

#[tokio::test]
async fn a_limit_that_is_granted_is_enforced() {
    let gateway = Gateway::start().await;
    let greedy = gateway
        .agent_with_mapper(
            "eat_memory",
            "[limits]\nmemory_mib = 8\ncpu_ms = 5000\nwall_ms = 10000\n",
        )
        .await;
    let refused = greedy.webhook("").json(&json!({})).expect(502).await;
    assert!(refused.detail().contains("8 MiB"), "{}", refused.text);
}

#[tokio::test]
async fn an_allow_list_matches_more_than_the_hosts_name() {
    let (gateway, web) = (Gateway::start().await, Web::serve_egress_targets().await);
    let rule = "[[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nport = 1\nnetworks = [\"127.0.0.0/8\"]\n";
    gateway.write_grants("http-fetch", rule);
    let url = format!("http://127.0.0.1:{}/open/hello", web.port);
    let answer =
        gateway.ask(json!({"prompt": format!("http_fetch {}", json!({"url": url}))})).await;
    assert_eq!(answer.report()["tools"][0]["is_error"], true, "another port");
}

#[tokio::test]
async fn the_answer_of_a_caller_who_waited_too_long_is_not_lost() {
    let (gateway, server) = replying(Reply::Held(&Reply::Text("found"))).await;
    let call = gateway.webhook("").header("prefer", "wait=0").json(&json!({"prompt": "hi"}));
    let id = call.expect(202).await.task_id();
    server.release(1);
    assert_eq!(gateway.wait_for_end(&id).await["result"], "found");
}

#[tokio::test]
async fn a_silent_failure_is_no_success() {
    let (gateway, _server) = replying(Reply::Text("")).await;
    let task = gateway.ask(json!({"prompt": "hi"})).await.json();
    assert_eq!(task["status"], "failed");
    let polled = gateway.wait_for_final_status(task["id"].as_str().unwrap()).await;
    assert_eq!(polled["status"], "FAILURE");
}

#[tokio::test]
async fn absurd_input_is_the_callers_fault() {
    let gateway = Gateway::start().await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    gateway.webhook("").text("application/json", deep.clone()).expect(400).await;
    gateway.trigger().text("application/json", deep).expect(400).await;
    for path in ["/api/webhooks/agents/%00", "/v1/tasks/%00", "/v1/agents/%00", "/activity/%00/%00"]
    {
        let call = if path.starts_with("/api") { gateway.post(path) } else { gateway.get(path) };
        call.key(&gateway.key).expect(404).await;
    }
    let status = gateway.get("/api/task_status?task_id=%00").expect(400).await.json();
    assert_eq!(status["success"], Value::Bool(false));
    assert_eq!(gateway.stored_task_count().await, 0);
}
