//! A caller ends a task (stops, updates or deletes it) at any point of its run: the run's steps so far are stored,
//! waiting callers are answered, and the run's slot is free again.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::events::EventStream;
use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Client, EVENT_TIMEOUT, Gateway, Setup, agent, poll_until};

/// A stop takes milliseconds. Without it, the runs of these tests would last [`FOREVER`].
const HANG_THRESHOLD: Duration = Duration::from_secs(50);
const FOREVER: Duration = Duration::from_secs(600);

/// One call of the calculator, then a model that never answers.
const TOOL_CALL_THEN_SILENCE: [Reply; 2] =
    [Reply::Tool("calculate", r#"{"expression":"6*7"}"#), Reply::Silence];

/// A gateway that executes one run at a time, whose agent's model gives these replies.
async fn gateway_with_one_slot(replies: impl IntoIterator<Item = Reply>) -> (Gateway, ModelServer) {
    let server = ModelServer::start(replies).await;
    let setup = Setup::new().model(&server).settings(|settings| {
        settings.queue.runs_max = 1;
        // Without the stop signal, a run would notice only when its lease ends that it has lost its task.
        settings.queue.lease = FOREVER;
    });
    (setup.start().await, server)
}

/// Waits until the model has received this many requests.
async fn wait_for_request_count(server: &ModelServer, times: usize) {
    poll_until("the model's turn", async || (server.requests().len() == times).then_some(())).await;
}

/// Asserts that the only slot is free: another run completes.
async fn assert_slot_is_free(caller: &Client, server: &ModelServer) {
    server.set_reply(Reply::Text("there is room"));
    let started = Instant::now();
    let task = caller.invoke("invoke", "next").expect(200).await.json();
    assert_eq!((&task["status"], &task["result"]), (&json!("completed"), &json!("there is room")));
    assert!(started.elapsed() < HANG_THRESHOLD, "{:?}", started.elapsed());
}

fn is_stopped(task: &Value) -> bool {
    task["status"] == "stopped" && task["is_manually_stopped"] == true
}

#[tokio::test]
async fn a_task_that_waits_for_a_worker_never_runs() {
    let home = {
        let accepting = Setup::new().settings(|settings| settings.queue.runs_max = 0).start().await;
        let id = accepting.start_run("hello").await;
        let task = accepting.stop_task(&id).await;
        assert!(is_stopped(&task), "{task}");
        assert_eq!((&task["started_at"], &task["execution_attempts"]), (&Value::Null, &json!(0)));
        assert_eq!(task["result"], "stopped on request");
        (accepting.stop().await, id, task)
    };
    // The task is the same after a restart, and with workers.
    let (home, id, task) = home;
    let running = Setup::new().home(home).start().await;
    running.invoke("invoke", "another one").expect(200).await;
    assert_eq!(running.task(&id).await, task);
}

#[tokio::test]
async fn a_run_that_waits_for_its_model_is_stopped() {
    let (gateway, server) = gateway_with_one_slot([Reply::Silence]).await;
    let id = gateway.start_run("hello").await;
    wait_for_request_count(&server, 1).await;
    let started = Instant::now();
    let task = gateway.stop_task(&id).await;
    assert!(started.elapsed() < HANG_THRESHOLD, "{:?}", started.elapsed());
    assert!(is_stopped(&task) && task["finished_at"].is_string(), "{task}");
    assert_eq!(gateway.task(&id).await, task);
    assert_slot_is_free(&gateway, &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_that_computes_is_stopped_and_its_computing_ends() {
    // The sandbox has one slot for the calls of all plugins: a call that continued would hold it.
    let gateway = Setup::new().settings(|settings| settings.sandbox.calls_max = 1).start().await;
    let limits = "[limits]\nconcurrency = 1\ntool_cpu_ms = 600000\ntool_wall_ms = 600000\n";
    let spinning = gateway.agent_with_tool("spin_in_tool", limits).await;
    let id = EventStream::start_run_until_tool_call(&spinning, "spin {}").await;
    let waiting = spinning.start_run("no tool").await;
    poll_until("a call that found no room", async || {
        let state = gateway.admin_request("GET", "/plugins/spin-in-tool").expect(200).await.json();
        (state["calls"]["refused"]["busy"].as_u64() > Some(0)).then_some(())
    })
    .await;
    assert!(is_stopped(&spinning.stop_task(&id).await));
    // The slot is free again: the waiting run continues.
    assert_eq!(spinning.wait_for_end(&waiting).await["status"], "completed");
}

#[tokio::test]
async fn what_a_run_did_until_it_was_stopped_is_kept() {
    let (gateway, server) = gateway_with_one_slot(TOOL_CALL_THEN_SILENCE).await;
    let id = gateway.start_run("six times seven?").await;
    wait_for_request_count(&server, 2).await;
    gateway.stop_task(&id).await;
    let thread = gateway.thread(&id).await;
    let roles: Vec<_> = thread.iter().map(|step| step["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "system"]);
    assert_eq!(thread[2]["content"]["value"], 42);
    assert_eq!(
        (&thread[3]["content"], &thread[3]["is_error"]),
        (&json!("stopped on request"), &json!(true))
    );
}

#[tokio::test]
async fn a_call_that_was_under_way_is_in_the_trace_of_a_stopped_run() {
    let gateway = Gateway::start().await;
    let limits = "[limits]\nconcurrency = 1\ntool_cpu_ms = 600000\ntool_wall_ms = 600000\n";
    let spinning = gateway.agent_with_tool("spin_in_tool", limits).await;
    let id = EventStream::start_run_until_tool_call(&spinning, "spin {\"n\": 1}").await;
    spinning.stop_task(&id).await;
    let thread = spinning.thread(&id).await;
    let [.., call, end] = thread.as_slice() else { panic!("{thread:?}") };
    assert_eq!((&call["tool_name"], &call["plugin"]), (&json!("spin"), &json!("spin-in-tool")));
    assert_eq!((&call["arguments"], &call["is_error"]), (&json!({"n": 1}), &json!(true)));
    assert!(call["content"].as_str().unwrap().contains("did not answer"), "{call}");
    assert_eq!(end["content"], "stopped on request");
}

#[tokio::test]
async fn x20_who_waits_for_a_task_that_is_stopped_gets_it_stopped() {
    let (gateway, server) = gateway_with_one_slot([Reply::Silence]).await;
    let body = json!({"prompt": "hello", "task_id": "webhook's"});
    let of_rest = json!({"id": "rest's", "input": {"text": "hello"}});
    let calls = [
        (1, "webhook's", gateway.webhook("").json(&body)),
        (2, "rest's", gateway.post_to_agent("invoke").json(&of_rest)),
    ];
    for (times, thread, call) in calls {
        let (answer, stopped) = tokio::join!(call.send(), async {
            wait_for_request_count(&server, times).await;
            gateway.stop_task(thread).await
        });
        assert_eq!(answer.status, 200, "{}", answer.text);
        let answer = answer.json();
        assert_eq!((&answer["status"], &answer["id"]), (&json!("stopped"), &stopped["id"]));
        assert_eq!(answer["result"], "stopped on request");
    }
}

#[tokio::test]
async fn d4_who_polls_for_a_task_that_is_stopped_sees_a_failure() {
    let (gateway, server) = gateway_with_one_slot([Reply::Silence]).await;
    let id = gateway.trigger().json(&json!({"event": "deploy"})).expect(200).await.task_id();
    wait_for_request_count(&server, 1).await;
    gateway.stop_task(&id).await;
    let polled = gateway.wait_for_final_status(&id).await;
    assert_eq!(polled, json!({"status": "FAILURE", "result": "stopped on request"}));
}

#[tokio::test]
async fn a_task_that_has_ended_stays_as_it_is() {
    let gateway = Gateway::start().await;
    let completed = gateway.invoke("invoke", "hello").expect(200).await.json();
    let broken = gateway.agent_with(|agent| agent.model = "gone".to_owned()).await;
    let failed = broken.invoke("invoke", "hello").expect(200).await.json();
    assert_eq!(failed["status"], "failed");
    for task in [completed, failed] {
        for _ in 0..2 {
            assert_eq!(gateway.stop_task(task["id"].as_str().unwrap()).await, task);
        }
    }
}

#[tokio::test]
async fn a_task_is_stopped_under_all_its_names() {
    let (gateway, server) = gateway_with_one_slot([Reply::Silence]).await;
    for (times, (method, target)) in (1..).zip([
        (reqwest::Method::POST, "/v1/tasks/{id}/stop"),
        (reqwest::Method::POST, "/tasks/{id}/stop"),
        (reqwest::Method::DELETE, "/agent-execution/{id}"),
        (reqwest::Method::POST, "/v1/tasks/the%20thread/stop"),
    ]) {
        let body = json!({"id": "the thread", "input": {"text": "hello"}});
        let id = gateway.post_to_agent("invoke/async").json(&body).expect(200).await.task_id();
        wait_for_request_count(&server, times).await;
        let url = gateway.url(&target.replace("{id}", &id));
        let call = crate::support::Call::new(gateway.http.request(method, url)).key(&gateway.key);
        let task = call.expect(200).await.json();
        assert!(is_stopped(&task) && task["id"] == id, "{target}: {task}");
    }
}

#[tokio::test]
async fn nobody_stops_what_is_not_his() {
    let (gateway, server) = gateway_with_one_slot([Reply::Silence]).await;
    let id = gateway.start_run("hello").await;
    wait_for_request_count(&server, 1).await;
    let stranger = gateway.new_agent(gateway.new_tenant("stranger").await, agent("theirs")).await;
    let target = format!("/v1/tasks/{id}/stop");
    gateway.post(&target).expect(401).await;
    gateway.post(&target).key("wgk_wrong").expect(403).await;
    let foreign = gateway.post(&target).key(&stranger.key).expect(404).await;
    let unknown = gateway.post("/v1/tasks/nothing/stop").key(&stranger.key).expect(404).await;
    assert_eq!(foreign.text, unknown.text, "the two cannot be told apart");
    gateway.delete(&format!("/v1/tasks/{id}")).key(&stranger.key).expect(404).await;
    let target = format!("/agent-execution/{id}/update");
    let ended = json!({"status": "completed"});
    gateway.patch(&target).key(&stranger.key).json(&ended).expect(404).await;
    assert_eq!(gateway.task(&id).await["status"], "executing");
}

#[tokio::test]
async fn a_task_that_runs_can_be_deleted() {
    let (gateway, server) = gateway_with_one_slot([Reply::Silence]).await;
    let id = gateway.start_run("hello").await;
    wait_for_request_count(&server, 1).await;
    let target = format!("/v1/tasks/{id}");
    let started = Instant::now();
    assert_eq!(gateway.delete(&target).key(&gateway.key).expect(204).await.text, "");
    assert!(started.elapsed() < HANG_THRESHOLD, "{:?}", started.elapsed());
    for call in
        [gateway.get(&target), gateway.delete(&target), gateway.post(&format!("{target}/stop"))]
    {
        call.key(&gateway.key).expect(404).await;
    }
    assert_eq!(gateway.stored_task_count().await, 0);
    assert_slot_is_free(&gateway, &server).await;
}

#[tokio::test]
async fn a_task_that_runs_can_be_completed_from_outside() {
    let (gateway, server) = gateway_with_one_slot(TOOL_CALL_THEN_SILENCE).await;
    let update = json!({"status": "completed", "result": "a human did it"});
    let (answer, updated) =
        tokio::join!(gateway.invoke("invoke", "six times seven?").send(), async {
            wait_for_request_count(&server, 2).await;
            let id = gateway.recent_tasks().await[0]["id"].as_str().unwrap().to_owned();
            let target = format!("/agent-execution/{id}/update");
            gateway.patch(&target).key(&gateway.key).json(&update).expect(200).await.json()
        });
    assert_eq!((answer.status, &answer.json()), (200, &updated), "who waits gets the same");
    assert_eq!(updated["status"], "completed");
    assert_eq!(updated["result"], "a human did it");
    assert_eq!(updated["is_manually_stopped"], false);
    let thread = gateway.thread(updated["id"].as_str().unwrap()).await;
    assert_eq!(thread[2]["content"]["value"], 42, "what the run did is kept: {thread:?}");
    assert_slot_is_free(&gateway, &server).await;
    assert_eq!(gateway.task(updated["id"].as_str().unwrap()).await, updated);
}

#[tokio::test]
async fn a_task_that_runs_can_be_stopped_with_a_result() {
    let (gateway, server) = gateway_with_one_slot([Reply::Silence]).await;
    let id = gateway.start_run("hello").await;
    wait_for_request_count(&server, 1).await;
    let update = json!({"status": "stopped", "result": "not needed any more"});
    let target = format!("/agent-execution/{id}/update");
    let task = gateway.patch(&target).key(&gateway.key).json(&update).expect(200).await.json();
    assert!(is_stopped(&task), "{task}");
    assert_eq!(task["result"], "not needed any more");
    assert_slot_is_free(&gateway, &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_stop_at_once_it_is_one_stop() {
    let (gateway, server) = gateway_with_one_slot([Reply::Silence]).await;
    let id = gateway.start_run("hello").await;
    wait_for_request_count(&server, 1).await;
    let mut stops = JoinSet::new();
    for _ in 0..50 {
        let (caller, id) = (gateway.caller.clone(), id.clone());
        stops.spawn(async move { caller.stop_task(&id).await });
    }
    let answers = stops.join_all().await;
    assert!(is_stopped(&answers[0]), "{}", answers[0]);
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(gateway.thread(&id).await.len(), 2, "the prompt and one end");
    assert_slot_is_free(&gateway, &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_meets_the_end_of_a_run_has_one_outcome() {
    let (gateway, server) = gateway_with_one_slot([Reply::Text("done")]).await;
    let mut outcomes = std::collections::BTreeMap::<String, u32>::new();
    const LAST: u64 = 59;
    for round in 0..=LAST {
        // The first run is certainly stopped, and the last has certainly ended; in between, either side may win.
        server.set_reply(match round {
            0 => Reply::Silence,
            _ => Reply::Delayed(Duration::from_millis(30), "done"),
        });
        let thread = format!("round {round}");
        let body = json!({"id": thread, "input": {"text": "hello"}});
        let (answer, stopped) =
            tokio::join!(gateway.post_to_agent("invoke").json(&body).send(), async {
                wait_for_request_count(&server, usize::try_from(round).unwrap() + 1).await;
                if round == LAST {
                    gateway.wait_for_end(&thread).await;
                }
                tokio::time::sleep(Duration::from_millis(round)).await;
                gateway.stop_task(&thread).await
            });
        let seen = gateway.task(stopped["id"].as_str().unwrap()).await;
        assert_eq!((&answer.json(), &stopped), (&seen, &seen), "round {round}");
        let status = seen["status"].as_str().unwrap().to_owned();
        assert_eq!(seen["result"] == "done", status == "completed", "{seen}");
        *outcomes.entry(status).or_default() += 1;
    }
    // Both outcomes of the race occurred, and no other.
    assert_eq!(outcomes.keys().collect::<Vec<_>>(), ["completed", "stopped"], "{outcomes:?}");
    assert_slot_is_free(&gateway, &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_stopped_while_a_worker_takes_it_leaves_no_run_behind() {
    let (gateway, server) = gateway_with_one_slot([Reply::Silence]).await;
    for round in 0..200 {
        let id = gateway.start_run("hello").await;
        let task = gateway.stop_task(&id).await;
        assert!(is_stopped(&task), "round {round}: {task}");
    }
    let rooms = tokio::time::timeout(EVENT_TIMEOUT, assert_slot_is_free(&gateway, &server)).await;
    rooms.expect("a run goes on whose task was stopped");
}
