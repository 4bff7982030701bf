//! Acknowledged work is done, whatever happens to the process (contract section 4). The tests kill and terminate
//! the real program on a real folder.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Client, GatewayProcess, Home, poll_until, wardgate};

/// A data folder whose settings name a model server, for a gateway with an agent that uses it.
struct Fixture {
    home: Home,
    model: ModelServer,
}

impl Fixture {
    async fn new(reply: Reply, more_settings: &str) -> Self {
        let (home, model) = (Home::new(), ModelServer::start([reply]).await);
        home.write("settings.toml", &format!("{more_settings}\n{}", model.as_toml()));
        Self { home, model }
    }

    fn settings(&self) -> String {
        self.home.path().join("settings.toml").to_str().unwrap().to_owned()
    }

    fn serve(&self) -> GatewayProcess {
        GatewayProcess::serve(&self.home, &["--settings", &self.settings()])
    }

    /// The agent that uses the model; created by the first call.
    fn agent(&self, gateway: &GatewayProcess) -> Client {
        let file = self.home.write("agent.toml", "name = \"modelled\"\nmodel = \"scripted\"\n");
        let data = self.home.path().to_str().unwrap();
        let arguments = [
            "agent",
            "apply",
            file.to_str().unwrap(),
            "--data",
            data,
            "--settings",
            &self.settings(),
        ];
        let output = wardgate(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let applied: Value = serde_json::from_slice(&output.stdout).unwrap();
        let (_, token) = applied["webhook_path"].as_str().unwrap().rsplit_once('/').unwrap();
        let agent = applied["agent_id"].as_str().unwrap();
        Client::new(&gateway.listen, agent, &gateway.key, token)
    }
}

async fn accepted(agent: &Client, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        let call = agent.webhook("&asynchronous=true").json(&json!({"n": n}));
        ids.push(call.expect(200).await.task_id());
    }
    ids
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let fixture = Fixture::new(Reply::Silence, "[queue]\nruns_max = 8").await;
    let gateway = fixture.serve();
    let agent = fixture.agent(&gateway);
    let ids = accepted(&agent, 12).await;
    poll_until("four runs", async || (fixture.model.requests().len() == 4).then_some(())).await;
    gateway.kill();

    fixture.model.set_reply(Reply::Text("done at last"));
    let gateway = fixture.serve();
    let agent = fixture.agent(&gateway);
    let mut attempts = Vec::new();
    for id in &ids {
        let task = agent.wait_for_end(id).await;
        assert_eq!(
            (&task["status"], &task["result"]),
            (&json!("completed"), &json!("done at last"))
        );
        attempts.push(task["execution_attempts"].as_u64().unwrap());
    }
    attempts.sort_unstable();
    // Four had started before the kill, the others were waiting.
    assert_eq!(attempts, [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2]);
    assert_eq!(fixture.model.requests().len(), 4 + 12, "none ran twice to its end");
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_burst_loses_nothing_that_was_acknowledged() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &[]);
    let (mut burst, count) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for n in 0..8 {
        let (agent, count) = ((*gateway).clone(), Arc::clone(&count));
        burst.spawn(async move {
            let mut acknowledged = Vec::new();
            for m in 0.. {
                let call = agent.webhook("&asynchronous=true").json(&json!({"n": n, "m": m}));
                let key = format!("{n}-{m}");
                // The kill shows as a broken connection, which alone ends the burst.
                let Ok(response) = call.idempotent(&key).request.send().await else { break };
                assert_eq!(response.status().as_u16(), 200);
                let id = response.headers()["x-task-id"].to_str().unwrap().to_owned();
                acknowledged.push((key, id));
                count.fetch_add(1, Relaxed);
            }
            acknowledged
        });
    }
    poll_until("a burst under way", async || (count.load(Relaxed) > 40).then_some(())).await;
    gateway.kill();
    let acknowledged: Vec<_> = burst.join_all().await.into_iter().flatten().collect();
    assert!(acknowledged.len() > 40);

    let gateway = GatewayProcess::serve(&home, &[]);
    for (key, id) in &acknowledged {
        let task = gateway.wait_for_end(id).await;
        assert_eq!(task["status"], "completed", "{task}");
        assert!((1..=2).contains(&task["execution_attempts"].as_u64().unwrap()), "{task}");
        // The idempotency key still maps to its task: sending it again creates no second one.
        let (n, m) = key.split_once('-').unwrap();
        let body = json!({"n": n.parse::<u64>().unwrap(), "m": m.parse::<u64>().unwrap()});
        let call = gateway.webhook("&asynchronous=true").json(&body).idempotent(key);
        let replayed = call.expect(200).await;
        assert_eq!(
            (replayed.task_id().as_str(), replayed.header("idempotent-replayed")),
            (id.as_str(), Some("true"))
        );
    }
}

#[tokio::test]
async fn a_task_that_always_takes_its_worker_along_is_given_up() {
    let fixture = Fixture::new(Reply::Silence, "[queue]\nattempts_max = 2").await;
    let mut id = None;
    for attempt in 1..=2 {
        let gateway = fixture.serve();
        let agent = fixture.agent(&gateway);
        if id.is_none() {
            id = accepted(&agent, 1).await.pop();
        }
        poll_until("the run", async || (fixture.model.requests().len() == attempt).then_some(()))
            .await;
        gateway.kill();
    }
    let gateway = fixture.serve();
    let task = gateway.wait_for_end(&id.unwrap()).await;
    assert_eq!(task["status"], "error");
    assert!(task["result"].as_str().unwrap().contains("given up after 2 attempts"), "{task}");
    let thread = gateway.thread(task["id"].as_str().unwrap()).await;
    assert_eq!(thread.last().unwrap()["content"], task["result"]);
    assert_eq!(fixture.model.requests().len(), 2);
}

#[tokio::test]
async fn sigterm_lets_runs_and_their_callers_end_and_exits_with_0() {
    let fixture = Fixture::new(Reply::Held(&Reply::Text("in time")), "").await;
    let gateway = fixture.serve();
    let agent = fixture.agent(&gateway);
    let waiting = tokio::spawn({
        let agent = agent.clone();
        async move { agent.ask(json!({"prompt": "x"})).await }
    });
    let polled = accepted(&agent, 1).await.remove(0);
    poll_until("two runs", async || (fixture.model.requests().len() == 2).then_some(())).await;
    gateway.send_sigterm();
    // Both runs are in progress when the gateway stops accepting requests, and end after that.
    poll_until("the end of listening", async || TcpStream::connect(&gateway.listen).await.err())
        .await;
    fixture.model.release(2);
    let (status, logs) =
        tokio::task::spawn_blocking(move || gateway.wait_for_exit()).await.unwrap();
    assert!(status.success(), "{status} {logs}");
    assert_eq!(waiting.await.unwrap().json()["result"], "in time");

    let gateway = fixture.serve();
    let task = gateway.task(&polled).await;
    assert_eq!((&task["result"], &task["execution_attempts"]), (&json!("in time"), &json!(1)));
}

#[tokio::test]
async fn a_run_that_outlasts_the_drain_goes_on_after_the_next_start() {
    let fixture = Fixture::new(Reply::Silence, "[http]\ndrain_seconds_max = 1").await;
    let gateway = fixture.serve();
    let id = accepted(&fixture.agent(&gateway), 1).await.remove(0);
    poll_until("the run", async || (fixture.model.requests().len() == 1).then_some(())).await;
    let (status, logs) = tokio::task::spawn_blocking(move || gateway.terminate()).await.unwrap();
    assert!(status.success(), "{status} {logs}");
    fixture.model.set_reply(Reply::Text("second time"));
    let task = fixture.serve().wait_for_end(&id).await;
    assert_eq!((&task["status"], &task["execution_attempts"]), (&json!("completed"), &json!(2)));
}

#[tokio::test]
async fn a_folder_is_served_by_one_process_at_a_time() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &[]);
    let id = accepted(&gateway, 1).await.remove(0);
    let data = home.path().to_str().unwrap();
    let second = wardgate(&["serve", "--data", data, "--listen", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(second.stdout.is_empty(), "it must not say that it serves");
    let message = String::from_utf8(second.stderr).unwrap();
    assert!(message.contains("another gateway serves"), "{message}");
    assert_eq!(gateway.wait_for_end(&id).await["status"], "completed");
    gateway.kill();
    // The lock ends with its process.
    drop(GatewayProcess::serve(&home, &[]));
}

#[tokio::test]
async fn commands_and_a_busy_gateway_do_not_disturb_each_other() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &[]);
    let mut burst = JoinSet::new();
    for _ in 0..8 {
        let agent = (*gateway).clone();
        burst.spawn(async move { accepted(&agent, 60).await.len() });
    }
    let data = home.path().to_str().unwrap().to_owned();
    let commands = tokio::task::spawn_blocking(move || {
        let keys = (0..8).map(|_| wardgate(&["key", "create", "--data", &data]));
        keys.map(|output| {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        })
        .collect::<Vec<_>>()
    });
    assert_eq!(burst.join_all().await, [60; 8], "every one of them was accepted");
    for key in commands.await.unwrap() {
        gateway.webhook("").json(&json!({})).expect(200).await;
        gateway.get("/v1/tasks/00000000-0000-4000-8000-000000000000").key(&key).expect(404).await;
    }
}

#[tokio::test]
async fn the_line_on_stdout_is_the_promised_one() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &[]);
    let fields: Vec<_> =
        gateway.startup_line.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        fields,
        [
            "listen", "organization_id", "agent_id", "api_key", "operator_key", "webhook_url",
            "task_status_url",
        ]
    );
    assert_eq!(gateway.get("/healthz").expect(200).await.json()["status"], "ok");
    let url = gateway.startup_line["webhook_url"].as_str().unwrap();
    assert!(url.starts_with(&format!("http://{}/api/webhooks/agents/", gateway.listen)), "{url}");
    let (first, listen) = (gateway.startup_line.clone(), gateway.listen.clone());
    gateway.kill();
    let again = GatewayProcess::serve(&home, &[]).startup_line.clone();
    let port = again["listen"].as_str().unwrap();
    assert_eq!(again.to_string().replace(port, &listen), first.to_string(), "but for the port");
}

#[test]
fn a_wrong_settings_file_is_refused_by_the_key_and_exits_with_a_code_of_its_own() {
    let home = Home::new();
    let misspelt = home.write("settings.toml", "[http]\nbody_byte_max = 5\n");
    let arguments = ["settings", "--settings", misspelt.to_str().unwrap()];
    let output = wardgate(&arguments);
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr).unwrap().contains("body_byte_max"));
}

#[tokio::test]
async fn a_log_that_cannot_be_written_costs_log_lines_only() {
    let home = Home::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let gateway = GatewayProcess::serve_logging_to(&home, full.into());
    gateway.ask(json!({"prompt": "hello"})).await;
    let (status, _) = gateway.terminate();
    assert_eq!(status.code(), Some(0));
}
