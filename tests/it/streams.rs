//! Server-sent events of a task: live for connected clients, from the beginning for later ones, and the same for all.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::events::{EventStream, event_types};
use crate::support::model_server::{MODEL_KEY, ModelServer, Reply};
use crate::support::{Client, Gateway, Setup, agent, poll_until};

const ENDLESS_TOOL: &str = "[limits]\ntool_cpu_ms = 600000\ntool_wall_ms = 600000\n";

const CALCULATE: Reply = Reply::Tool("calculate", r#"{"expression":"6*7"}"#);

/// The event types of a run that calls one tool.
const WHOLE: [&str; 6] = [
    "task_created", "task_updated", "tool_call_request", "tool_call_result", "chunk",
    "task_finished",
];

async fn with_model(replies: impl IntoIterator<Item = Reply>) -> (Gateway, ModelServer) {
    let server = ModelServer::start(replies).await;
    (Setup::new().model(&server).start().await, server)
}

async fn follow(gateway: &Gateway, caller: &Client, id: &str) -> EventStream {
    EventStream::follow(caller, gateway.tenant, id).await
}

#[tokio::test]
async fn a_run_is_told_in_order_and_each_event_has_its_data() {
    let (gateway, _server) = with_model([CALCULATE, Reply::Text("It is\n42\r\n é")]).await;
    let events = EventStream::open(gateway.invoke("invoke/stream", "six times seven?")).await;
    let id = events.response.headers()["x-task-id"].to_str().unwrap().to_owned();
    assert_eq!(events.response.headers()["location"], format!("/v1/tasks/{id}"));
    let events = events.remaining_events().await;
    assert_eq!(event_types(&events), WHOLE);
    for event in &events {
        assert_eq!(event["task_id"], id);
        assert_eq!(event["organization_id"], gateway.tenant.to_string());
    }
    let data = |place: usize| &events[place]["data"];
    assert_eq!((&data(0)["status"], &data(0)["started_at"]), (&json!("pending"), &Value::Null));
    assert_eq!((&data(1)["status"], &data(1)["result"]), (&json!("executing"), &Value::Null));
    assert_eq!(data(2)["tool_name"], "calculate");
    assert_eq!(data(2)["payload"], json!({"expression": "6*7"}));
    assert_eq!((&data(3)["result"]["value"], &data(3)["is_error"]), (&json!(42), &json!(false)));
    assert_eq!(data(3)["tool_call_id"], data(2)["tool_call_id"]);
    assert_eq!(*data(4), json!("It is\n42\r\n é"), "text, and still one line");
    assert_eq!(*data(5), gateway.task(&id).await, "the task as it can be read");
    let times: Vec<_> = events.iter().map(|event| event["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[tokio::test]
async fn a_run_is_streamed_under_all_its_names() {
    let gateway = Gateway::start().await;
    let prefixes = ["/v1/agents", "/agents"];
    for (prefix, route) in
        prefixes.iter().flat_map(|prefix| ["invoke/stream", "invoke-stream"].map(|r| (prefix, r)))
    {
        let target = format!("{prefix}/{}/{route}", gateway.agent);
        let call = gateway.post(&target).key(&gateway.key).json(&json!({"input": {"text": "x"}}));
        let events = EventStream::open(call).await.remaining_events().await;
        assert_eq!(
            event_types(&events),
            ["task_created", "task_updated", "chunk", "task_finished"]
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_call_is_told_while_the_tool_runs_and_a_stop_ends_the_stream() {
    let gateway = Gateway::start().await;
    let spinning = gateway.agent_with_tool("spin_in_tool", ENDLESS_TOOL).await;
    let mut events = EventStream::open(spinning.invoke("invoke/stream", "spin {\"n\": 1}")).await;
    events.expect("task_created").await;
    events.expect("task_updated").await;
    let request = events.expect("tool_call_request").await;
    assert_eq!(
        (&request["data"]["tool_name"], &request["data"]["payload"]["n"]),
        (&json!("spin"), &json!(1))
    );
    let id = request["task_id"].as_str().unwrap();
    assert_eq!(spinning.task(id).await["status"], "executing");

    spinning.stop_task(id).await;
    let result = events.expect("tool_call_result").await;
    assert_eq!(result["data"]["tool_call_id"], request["data"]["tool_call_id"]);
    assert_eq!(result["data"]["is_error"], true);
    let finished = events.expect("task_finished").await;
    assert_eq!(finished["data"]["status"], "stopped");
    assert_eq!(events.next().await, None, "nothing follows");
}

#[tokio::test]
async fn who_comes_in_the_middle_gets_everything_from_the_beginning() {
    let (gateway, server) = with_model([CALCULATE, Reply::Silence]).await;
    let mut live = EventStream::open(gateway.invoke("invoke/stream", "six times seven?")).await;
    server.wait_for_requests(2).await;
    let first = live.expect("task_created").await;
    let id = first["task_id"].as_str().unwrap();
    let mut later = follow(&gateway, &gateway, id).await;
    assert_eq!(later.next().await.unwrap(), first);
    for kind in &WHOLE[1..4] {
        let event = later.expect(kind).await;
        assert_eq!(event, live.expect(kind).await);
    }
    assert_eq!(gateway.task(id).await["status"], "executing", "all of it came while it runs");
    gateway.stop_task(id).await;
    let ends = (live.remaining_events().await, later.remaining_events().await);
    assert_eq!((event_types(&ends.0), &ends.0), (vec!["task_finished"], &ends.1));
}

#[tokio::test]
async fn who_comes_after_the_end_gets_what_was_told_live() {
    let (gateway, server) = with_model([CALCULATE, Reply::Text("It is 42")]).await;
    let mut reported = Vec::new();
    reported.push(
        EventStream::open(gateway.invoke("invoke/stream", "completes"))
            .await
            .remaining_events()
            .await,
    );
    server.set_reply(Reply::Error(500, "out of order"));
    reported.push(
        EventStream::open(gateway.invoke("invoke/stream", "fails")).await.remaining_events().await,
    );
    server.set_reply(Reply::Silence);
    let live = EventStream::open(gateway.invoke("invoke/stream", "is stopped")).await;
    server.wait_for_requests(6).await;
    gateway.stop_task(live.response.headers()["x-task-id"].to_str().unwrap()).await;
    reported.push(live.remaining_events().await);
    let spinning = gateway.agent_with_tool("spin_in_tool", ENDLESS_TOOL).await;
    let mut live = EventStream::open(spinning.invoke("invoke/stream", "spin {}")).await;
    let mut events = Vec::new();
    while events.len() < 3 {
        events.push(live.next().await.unwrap());
    }
    gateway.stop_task(events[0]["task_id"].as_str().unwrap()).await;
    events.extend(live.remaining_events().await);
    reported.push(events);

    let ends: Vec<_> =
        reported.iter().map(|events| &events[events.len() - 1]["data"]["status"]).collect();
    assert_eq!(ends, ["completed", "failed", "stopped", "stopped"]);
    assert_eq!((reported[0].len(), reported[3].len()), (6, 5), "with the call that was under way");
    for events in &reported {
        let later = follow(&gateway, &gateway, events[0]["task_id"].as_str().unwrap()).await;
        assert_eq!(later.remaining_events().await, *events);
    }
    let restarted = Setup::new().model(&server).home(gateway.stop().await).start().await;
    for events in &reported {
        let later = follow(&restarted, &restarted, events[0]["task_id"].as_str().unwrap()).await;
        assert_eq!(later.remaining_events().await, *events, "after a restart");
    }
}

#[tokio::test]
async fn the_text_comes_while_the_model_writes_it() {
    let (gateway, server) = with_model([Reply::Paused("Let me ", "think.")]).await;
    let mut live = EventStream::open(gateway.invoke("invoke/stream", "hello")).await;
    for kind in ["task_created", "task_updated"] {
        live.expect(kind).await;
    }
    let first = live.expect("chunk").await;
    assert_eq!(first["data"], "Let me ");
    let id = first["task_id"].as_str().unwrap().to_owned();
    let mut later = follow(&gateway, &gateway, &id).await;
    for kind in ["task_created", "task_updated", "chunk"] {
        later.expect(kind).await;
    }
    server.release(1);
    for stream in [live, later] {
        let rest = stream.remaining_events().await;
        assert_eq!(event_types(&rest), ["chunk", "task_finished"]);
        assert_eq!(
            (&rest[0]["data"], &rest[1]["data"]["result"]),
            (&json!("think."), &json!("Let me think."))
        );
    }
}

/// A run whose first text has broken off after the client received its beginning, and whose second one is whole.
async fn after_a_text_broke_off() -> (Gateway, EventStream) {
    let replies = [Reply::BrokenLater("Half an ä"), Reply::Text("ö, a whole one")];
    let (gateway, server) = with_model(replies).await;
    let mut events = EventStream::open(gateway.invoke("invoke/stream", "hello")).await;
    for kind in ["task_created", "task_updated"] {
        events.expect(kind).await;
    }
    assert_eq!(events.expect("chunk").await["data"], "Half an ä");
    server.release(1);
    // The second turn is answered at once.
    server.wait_for_requests(2).await;
    (gateway, events)
}

#[tokio::test]
async fn a_text_that_broke_off_begins_anew() {
    let (_gateway, events) = after_a_text_broke_off().await;
    let rest = events.remaining_events().await;
    assert_eq!(event_types(&rest), ["task_updated", "chunk", "task_finished"]);
    assert_eq!(rest[1]["data"], "ö, a whole one");
}

#[tokio::test]
async fn who_comes_again_after_a_text_broke_off_gets_the_new_one_whole() {
    let (gateway, events) = after_a_text_broke_off().await;
    let (id, task) = (events.last_id().to_owned(), events.response.headers()["x-task-id"].clone());
    drop(events);
    let task = task.to_str().unwrap();
    gateway.wait_for_end(task).await;
    let target = format!("/{}/agent-execution/{task}/events", gateway.tenant);
    let call = gateway.get(&target).key(&gateway.key).header("last-event-id", &id);
    let rest = EventStream::open(call).await.remaining_events().await;
    assert_eq!(event_types(&rest), ["task_updated", "chunk", "task_finished"]);
    assert_eq!(rest[1]["data"], "ö, a whole one");
}

#[tokio::test]
async fn a_task_that_fails_ends_its_stream() {
    let (gateway, _server) = with_model([Reply::Error(429, "slow down")]).await;
    let events =
        EventStream::open(gateway.invoke("invoke/stream", "hello")).await.remaining_events().await;
    assert_eq!(event_types(&events), ["task_created", "task_updated", "task_finished"]);
    assert_eq!(events[2]["data"]["status"], "failed");
    assert!(events[2]["data"]["result"].as_str().unwrap().contains("slow down"), "{}", events[2]);
}

#[tokio::test]
async fn who_hangs_up_stops_nothing() {
    let (gateway, server) = with_model([Reply::Held(&Reply::Text("done"))]).await;
    let mut events = EventStream::open(gateway.invoke("invoke/stream", "hello")).await;
    let id = events.expect("task_created").await["task_id"].as_str().unwrap().to_owned();
    server.wait_for_requests(1).await;
    drop(events);
    server.release(1);
    let task = gateway.wait_for_end(&id).await;
    assert_eq!((&task["status"], &task["result"]), (&json!("completed"), &json!("done")));
    assert_eq!((&task["execution_attempts"], server.requests().len()), (&json!(1), 1));
}

#[tokio::test]
async fn a_task_that_waits_for_a_worker_can_be_followed() {
    let setup = Setup::new().settings(|settings| settings.queue.runs_max = 0);
    let gateway = setup.start().await;
    let mut events = EventStream::open(gateway.invoke("invoke/stream", "hello")).await;
    let created = events.expect("task_created").await;
    gateway.stop_task(created["task_id"].as_str().unwrap()).await;
    let rest = events.remaining_events().await;
    assert_eq!(event_types(&rest), ["task_finished"], "it was never begun");
    assert_eq!(rest[0]["data"]["status"], "stopped");
}

#[tokio::test]
async fn a_task_that_is_deleted_ends_its_stream() {
    let (gateway, server) = with_model([CALCULATE, Reply::Silence]).await;
    let live = EventStream::open(gateway.invoke("invoke/stream", "hello")).await;
    let id = live.response.headers()["x-task-id"].to_str().unwrap().to_owned();
    server.wait_for_requests(2).await;
    gateway.delete(&format!("/v1/tasks/{id}")).key(&gateway.key).expect(204).await;
    let events = live.remaining_events().await;
    assert_eq!(events.last().unwrap()["type"], "task_finished", "{:?}", event_types(&events));
    assert_eq!(events.last().unwrap()["data"]["status"], "stopped");
    let target = format!("/{}/agent-execution/{id}/events", gateway.tenant);
    gateway.get(&target).key(&gateway.key).expect(404).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_who_follow_one_task_get_the_same() {
    let (gateway, server) =
        with_model([Reply::Held(&CALCULATE), Reply::Held(&Reply::Text("42"))]).await;
    let id = gateway.start_run("six times seven?").await;
    let mut following = Vec::new();
    // Half of them before the run's first step, the others in the middle of it.
    for turn in 1..=2 {
        server.wait_for_requests(turn).await;
        following.extend(join_all((0..25).map(|_| follow(&gateway, &gateway, &id))).await);
        server.release(1);
    }
    let reported = join_all(following.into_iter().map(EventStream::remaining_events)).await;
    assert_eq!(event_types(&reported[0]), WHOLE);
    assert!(reported.iter().all(|events| *events == reported[0]));
}

#[tokio::test]
async fn nobody_follows_what_is_not_his() {
    let gateway = Gateway::start().await;
    let id = gateway.invoke("invoke", "hello").expect(200).await.task_id();
    let tenant = gateway.new_tenant("stranger").await;
    let stranger = gateway.new_agent(tenant, agent("theirs")).await;
    let target = |organization: &dyn ToString, id: &str| {
        format!("/{}/agent-execution/{id}/events", organization.to_string())
    };
    let mine = target(&gateway.tenant, &id);
    gateway.get(&mine).expect(401).await;
    gateway.get(&mine).key("wgk_wrong").expect(403).await;
    let absent = stranger.get(&target(&tenant, "nothing")).key(&stranger.key).expect(404).await;
    for (target, key) in [
        (mine, &stranger.key),
        (target(&tenant, &id), &stranger.key),
        (target(&tenant, &id), &gateway.key),
        (target(&"no-organization", &id), &gateway.key),
    ] {
        let foreign = gateway.get(&target).key(key).expect(404).await;
        assert_eq!(foreign.text, absent.text, "they cannot be told apart");
    }
}

#[tokio::test]
async fn a_stream_under_a_key_that_was_used_is_the_first_one_again() {
    let gateway = Gateway::start().await;
    let call = |text| gateway.invoke("invoke/stream", text).idempotent("k");
    let first = EventStream::open(call("hello")).await.remaining_events().await;
    let again = EventStream::open(call("hello")).await;
    assert_eq!(again.response.headers()["idempotent-replayed"], "true");
    assert_eq!(again.remaining_events().await, first);
    call("something else").expect(422).await;
    assert_eq!(gateway.stored_task_count().await, 1);
}

#[tokio::test]
async fn no_secret_is_streamed() {
    let arguments = r#"{"expression":"sk-test-model-key-0123456789"}"#;
    let replies =
        [Reply::Tool("calculate", arguments), Reply::Text("sk-test-model-key-0123456789")];
    let (gateway, _server) = with_model(replies).await;
    let events =
        EventStream::open(gateway.invoke("invoke/stream", "hello")).await.remaining_events().await;
    assert_eq!(event_types(&events), WHOLE);
    assert!(events[2]["data"]["payload"]["expression"] == "[redacted]", "{}", events[2]);
    assert!(events.iter().all(|event| !event.to_string().contains(MODEL_KEY)));
}

#[tokio::test]
async fn a_tenant_has_as_many_streams_open_as_it_may_and_others_have_theirs() {
    let server = ModelServer::start([Reply::Silence]).await;
    let setup = Setup::new().settings(|settings| settings.http.streams_per_tenant_max = 1);
    let gateway = setup.model(&server).start().await;
    let id = gateway.trigger().json(&json!({"q": 1})).expect(200).await.task_id();
    let first = follow(&gateway, &gateway, &id).await;
    let target = format!("/{}/agent-execution/{id}/events", gateway.tenant);
    let refused = gateway.get(&target).key(&gateway.key).expect(429).await;
    assert_eq!(refused.header("retry-after"), Some("1"));
    // A run whose stream is refused has started all the same, and the answer has its id.
    let invoke = format!("/v1/agents/{}/invoke/stream", gateway.agent);
    let accepted = gateway.post(&invoke).key(&gateway.key).json(&json!({"input": {"text": "hi"}}));
    let accepted = accepted.expect(429).await;
    assert_eq!(accepted.header("x-wardgate-retry"), Some("never"));
    gateway.task(&accepted.task_id()).await;
    let other = gateway.new_tenant("other").await;
    let stranger = gateway.new_agent(other, agent("another")).await;
    let done = stranger.ask(json!({"prompt": "hi"})).await.task_id();
    let theirs = format!("/{other}/agent-execution/{done}/events");
    stranger.get(&theirs).key(&stranger.key).expect(200).await;
    drop(first);
    let stop = format!("/v1/tasks/{id}/stop");
    gateway.post(&stop).key(&gateway.key).expect(200).await;
    poll_until("room for a stream", async || {
        (gateway.get(&target).key(&gateway.key).send().await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn whoever_waits_when_the_gateway_stops_is_answered_and_not_cut_off() {
    let server = ModelServer::start([Reply::Silence]).await;
    // Waiting callers are answered after four fifths of this time.
    let setup =
        Setup::new().settings(|settings| settings.http.drain_time_max = Duration::from_secs(10));
    let gateway = setup.model(&server).start().await;
    let caller = gateway.caller.clone();
    let waiting =
        tokio::spawn(
            async move { caller.webhook("").json(&json!({"prompt": "hi"})).expect(202).await },
        );
    server.wait_for_requests(1).await;
    let home = gateway.stop().await;
    let answer = waiting.await.unwrap();
    assert_eq!(answer.json()["id"], answer.task_id());
    // The run continues after the next start.
    server.set_reply(Reply::Text("at last"));
    let again = Setup::new().home(home).model(&server).start().await;
    assert_eq!(again.wait_for_end(&answer.task_id()).await["result"], "at last");
}

#[tokio::test]
async fn whoever_comes_again_is_told_what_came_after_and_after_the_end_nothing() {
    let (gateway, _server) = with_model([CALCULATE, Reply::Text("It is 42")]).await;
    let id = gateway.ask(json!({"prompt": "six times seven?"})).await.task_id();
    let target = format!("/{}/agent-execution/{id}/events", gateway.tenant);
    let follow = async |after: Option<&str>, status: u16| {
        let call = gateway.get(&target).key(&gateway.key);
        let call = match after {
            Some(after) => call.header("last-event-id", after),
            None => call,
        };
        let text = call.expect(status).await.text;
        let events = text.split("\n\n").filter(|event| event.contains("data:"));
        let of = |event: &str, field: &str| {
            let mut lines = event.lines().filter_map(|line| line.strip_prefix(field));
            lines.next().unwrap_or_else(|| panic!("{event}")).trim().to_owned()
        };
        events.map(|event| (of(event, "id:"), of(event, "data:"))).collect::<Vec<_>>()
    };
    let all = follow(None, 200).await;
    assert_eq!(all.len(), WHOLE.len());
    for (place, (id, _)) in all.iter().enumerate().take(all.len() - 1) {
        assert_eq!(follow(Some(id), 200).await, all[place + 1..], "after {id}");
    }
    let (end, _) = all.last().unwrap();
    assert!(follow(Some(end), 204).await.is_empty());
    // The id of another attempt covers `task_created` only, and an invalid id covers no event: the rest is resent.
    for other in ["9-4", "1", "x-y", "1-99999999999999999999"] {
        let again = follow(Some(other), 200).await;
        assert!(again.len() >= all.len() - 1, "{other}: {again:?}");
    }
}
