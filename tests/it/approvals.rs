//! A tool call that a person has to approve is made once, as it was shown, or not at all. The task is paused meanwhile,
//! and holds no place of the queue.

use std::time::Duration;

use serde_json::{Value, json};
use wardgate::clock::{Clock, Timestamp};
use wardgate::tenants::{KeyHolder, OnTimeout, Policy, ToolPolicy};

use crate::support::events::{EventStream, event_types};
use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Answer, Client, Setup, guest_path, poll_until};

const CALL: Reply = Reply::Tool("calculate", r#"{"expression":"6*7"}"#);

fn asking(server: &ModelServer) -> Setup {
    Setup::new().model(server).agent(|agent| {
        agent.tool_policies.insert("calculate".to_owned(), Policy::Ask.into());
    })
}

/// Waits until a task is paused, and returns its pending approvals.
async fn pending(caller: &Client, task: &str) -> Vec<Value> {
    poll_until("the pause of a task", async || {
        let is_paused = caller.task(task).await["status"] == "paused";
        is_paused.then_some(())
    })
    .await;
    let target = format!("/v1/approvals?status=pending&task_id={task}");
    let listed = caller.get(&target).key(&caller.key).expect(200).await.json();
    listed.as_array().unwrap().clone()
}

async fn decide(caller: &Client, approval: &Value, decision: &str, body: Value) -> Answer {
    let target = format!("/v1/approvals/{}/{decision}", approval["id"].as_str().unwrap());
    caller.post(&target).key(&caller.key).json(&body).send().await
}

/// The path and query of a link.
fn path(url: &Value) -> &str {
    let url = url.as_str().unwrap();
    &url[url.find("/approvals/").unwrap()..]
}

/// The messages of a task's trace that tell of decisions.
async fn decisions(caller: &Client, task: &str) -> Vec<Value> {
    let thread = caller.thread(task).await;
    thread.into_iter().filter(|message| message.get("decision").is_some()).collect()
}

#[tokio::test]
async fn an_approved_call_is_made_and_the_run_goes_on() {
    let server = ModelServer::start([CALL, Reply::Text("It is 42.")]).await;
    let gateway = asking(&server).start().await;
    let task = gateway.start_run("Six times seven?").await;
    let [approval] = &pending(&gateway, &task).await[..] else { panic!("one call, one approval") };
    assert_eq!(approval["tool_name"], "calculate");
    assert_eq!(approval["arguments"], json!({"expression": "6*7"}));
    assert_eq!(approval["outcome_is_unknown"], false);
    assert_eq!(gateway.task(&task).await["execution_attempts"], 1);

    let answer = decide(&gateway, approval, "approve", json!({"comment": "fine"})).await;
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("approved")));
    assert_eq!(answer.json()["approve_url"], Value::Null);
    let ended = gateway.wait_for_end(&task).await;
    assert_eq!((&ended["status"], &ended["result"]), (&json!("completed"), &json!("It is 42.")));
    assert_eq!(ended["execution_attempts"], 1, "a pause is not an attempt");
    assert_eq!(server.requests().len(), 2, "the turn before the pause is not asked for again");
    let (request, _) = server.requests().remove(1);
    let result = request["messages"].as_array().unwrap().last().unwrap()["content"].clone();
    assert_eq!(result, r#"{"expression":"6*7","value":42}"#);
    let [decision] = &decisions(&gateway, &task).await[..] else { panic!("one decision") };
    assert_eq!(
        (&decision["decision"], &decision["decided_by"]),
        (&json!("approved"), &json!("key"))
    );
    assert_eq!(decision["comment"], "fine");

    for again in ["approve", "deny"] {
        let answer = decide(&gateway, approval, again, json!({})).await;
        assert_eq!(answer.status, 409, "{}", answer.text);
        assert!(answer.detail().contains("decided before: approved"), "{}", answer.detail());
    }
}

#[tokio::test]
async fn a_denied_call_is_not_made_and_the_model_is_told_why() {
    let server = ModelServer::start([CALL, Reply::Text("Then not.")]).await;
    let gateway = asking(&server).start().await;
    let task = gateway.start_run("Six times seven?").await;
    let approval = pending(&gateway, &task).await.remove(0);
    let answer = decide(&gateway, &approval, "deny", json!({"comment": "use your head"})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(gateway.wait_for_end(&task).await["result"], "Then not.");
    let (request, _) = server.requests().remove(1);
    let told = request["messages"].as_array().unwrap().last().unwrap()["content"].clone();
    assert_eq!(told, "calculate: it was not called: a person denied it: use your head");
}

#[tokio::test]
async fn whoever_decides_first_decides() {
    let server = ModelServer::start([CALL, Reply::Text("done")]).await;
    let gateway = asking(&server).start().await;
    let task = gateway.start_run("Six times seven?").await;
    let approval = pending(&gateway, &task).await.remove(0);
    let decisions = ["approve", "deny", "approve", "deny", "approve", "deny"];
    let answers = decisions.map(|decision| decide(&gateway, &approval, decision, json!({})));
    let mut statuses: Vec<u16> =
        futures::future::join_all(answers).await.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409, 409, 409]);
    assert_eq!(gateway.wait_for_end(&task).await["status"], "completed");
}

#[tokio::test]
async fn all_calls_of_a_turn_are_decided_before_the_first_is_made() {
    let arguments = [r#"{"expression":"1+1"}"#, r#"{"expression":"2+2"}"#];
    let calls = arguments.map(|arguments| ("calculate".to_owned(), arguments.to_owned()));
    let server = ModelServer::start([Reply::Calls(calls.into()), Reply::Text("done")]).await;
    let gateway = asking(&server).start().await;
    let task = gateway.start_run("Add.").await;
    let approvals = pending(&gateway, &task).await;
    assert_eq!(approvals.len(), 2);
    assert_eq!(decide(&gateway, &approvals[1], "approve", json!({})).await.status, 200);
    assert_eq!(gateway.task(&task).await["status"], "paused");
    assert_eq!(decide(&gateway, &approvals[0], "deny", json!({})).await.status, 200);
    assert_eq!(gateway.wait_for_end(&task).await["status"], "completed");
    let (request, _) = server.requests().remove(1);
    let results = request["messages"].as_array().unwrap().iter().rev().take(2);
    let results: Vec<_> = results.map(|result| result["content"].as_str().unwrap()).collect();
    assert_eq!(
        results,
        [r#"{"expression":"2+2","value":4}"#, "calculate: it was not called: a person denied it"]
    );
}

#[tokio::test]
async fn nobody_decides_after_the_time_is_up() {
    for (on_timeout, status, result) in [
        (OnTimeout::Deny, "completed", "Then not."),
        (
            OnTimeout::Fail,
            "failed",
            "the time to approve a call of calculate ended without a decision (approvals)",
        ),
    ] {
        let server = ModelServer::start([CALL, Reply::Text("Then not.")]).await;
        let clock = Clock::manual(Timestamp::parse_rfc3339("2026-12-01T00:00:00Z").unwrap());
        let setup = asking(&server).clock(&clock).agent(|agent| {
            (agent.approvals.seconds_max, agent.approvals.on_timeout) = (60, on_timeout);
        });
        let gateway = setup.start().await;
        let task = gateway.start_run("Six times seven?").await;
        let approval = pending(&gateway, &task).await.remove(0);
        assert_eq!(approval["expires_at"], "2026-12-01T00:01:00.000000+00:00");
        clock.advance(Duration::from_secs(61));
        let answer = decide(&gateway, &approval, "approve", json!({})).await;
        assert_eq!(answer.status, 409, "{}", answer.text);
        let ended = gateway.wait_for_end(&task).await;
        assert_eq!((&ended["status"], &ended["result"]), (&json!(status), &json!(result)));
        if on_timeout == OnTimeout::Deny {
            let (request, _) = server.requests().remove(1);
            assert!(request.to_string().contains("the time to approve it ended"), "{request}");
            assert_eq!(decisions(&gateway, &task).await[0]["decision"], "expired");
        }
    }
}

#[tokio::test]
async fn a_signed_link_shows_a_page_and_decides_only_when_its_button_is_pressed() {
    let call = Reply::Tool("calculate", r#"{"expression":"<script>\"6*7\u202e"}"#);
    let server = ModelServer::start([call, Reply::Text("done")]).await;
    let gateway = asking(&server).start().await;
    let task = gateway.start_run("Six times seven?").await;
    let approval = pending(&gateway, &task).await.remove(0);
    let (approve, deny) = (path(&approval["approve_url"]), path(&approval["deny_url"]));
    let browser = "text/html,application/xhtml+xml";

    let page = gateway.get(approve).header("accept", browser).expect(200).await;
    assert!(page.text.contains("Approve this call"), "{}", page.text);
    assert!(
        page.text.contains("&lt;script&gt;") && !page.text.contains("<script"),
        "{}",
        page.text
    );
    assert!(!page.text.contains('\u{202e}'));
    assert!(page.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(gateway.task(&task).await["status"], "paused", "reading decides nothing");

    // A signature holds for its decision and its approval only.
    let (_, signature) = approve.split_once("signature=").unwrap();
    let (denial, _) = deny.split_once('?').unwrap();
    let foreign =
        approve.replace(approval["id"].as_str().unwrap(), "00000000-0000-4000-8000-000000000000");
    for wrong in [
        format!("{denial}?signature={signature}"),
        format!("{approve}A"),
        format!("{denial}?signature="),
        foreign,
    ] {
        gateway.get(&wrong).expect(404).await;
        gateway.post(&wrong).expect(404).await;
    }
    gateway.post(denial).expect(422).await;

    let page = gateway.post(deny).header("accept", browser).expect(200).await;
    assert!(page.text.contains("The call is denied."), "{}", page.text);
    let page = gateway.post(approve).header("accept", browser).expect(200).await;
    assert!(page.text.contains("decided before: denied"), "{}", page.text);
    gateway.post(approve).expect(409).await;
    let page = gateway.get(approve).header("accept", browser).expect(200).await;
    assert!(!page.text.contains("<button"), "{}", page.text);
    assert_eq!(gateway.wait_for_end(&task).await["status"], "completed");
    assert_eq!(decisions(&gateway, &task).await[0]["decided_by"], "link");
}

#[tokio::test]
async fn a_follower_gets_the_request_with_its_links_and_no_event_twice() {
    let server = ModelServer::start([CALL, Reply::Text("It is 42.")]).await;
    let gateway = asking(&server).start().await;
    let mut events = EventStream::open(gateway.invoke("invoke/stream", "Six times seven?")).await;
    let created = events.expect("task_created").await;
    events.expect("task_updated").await;
    let request = events.expect("approval_request").await;
    let task = created["task_id"].as_str().unwrap();
    // One that comes later is told too.
    let mut late = EventStream::follow(&gateway, gateway.tenant, task).await;
    late.expect("task_created").await;
    late.expect("task_updated").await;
    assert_eq!(late.expect("approval_request").await["data"]["id"], request["data"]["id"]);
    gateway.post(path(&request["data"]["approve_url"])).expect(200).await;
    let rest = events.remaining_events().await;
    let expected = ["tool_call_request", "tool_call_result", "chunk", "task_finished"];
    assert_eq!(event_types(&rest), expected);
    assert_eq!(event_types(&late.remaining_events().await), expected);
}

#[tokio::test]
async fn a_sender_of_webhooks_gets_no_link() {
    let server = ModelServer::start([CALL, Reply::Text("done")]).await;
    let gateway = asking(&server).start().await;
    let answer = gateway.trigger().json(&json!({"prompt": "Six times seven?"})).expect(200).await;
    let task = answer.json()["task_id"].as_str().unwrap().to_owned();
    let approval = pending(&gateway, &task).await.remove(0);
    let status = gateway.get(&format!("/api/task_status?task_id={task}")).expect(200).await;
    assert_eq!(status.json()["status"], "STARTED");
    assert!(!status.text.contains("approv"), "{}", status.text);
    assert_eq!(decide(&gateway, &approval, "deny", json!({})).await.status, 200);
    assert_eq!(gateway.wait_for_end(&task).await["status"], "completed");
}

#[tokio::test]
async fn a_call_that_cannot_be_shown_is_not_asked_about() {
    const TOKEN: &str = "hunter2hunter2";
    let long = format!(r#"{{"expression":"{}"}}"#, "1+".repeat(10_000));
    let secret = format!(r#"{{"expression":"{TOKEN}"}}"#);
    let twice = r#"{"expression":"1","expression":"2"}"#.to_owned();
    for (arguments, why) in [
        (long, "too long to be read"),
        (secret, "contains a secret"),
        (twice, "could be read in two ways"),
    ] {
        let call = Reply::Calls([("calculate".to_owned(), arguments)].into());
        let server = ModelServer::start([call, Reply::Text("done")]).await;
        let gateway = asking(&server).start().await;
        let body = json!({"prompt": "Six times seven?", "user_tokens": {"m": TOKEN}});
        assert_eq!(gateway.ask(body).await.json()["status"], "completed");
        let (request, _) = server.requests().remove(1);
        let told = request["messages"].as_array().unwrap().last().unwrap()["content"].to_string();
        assert!(told.contains(why), "{told}");
    }
}

#[tokio::test]
async fn a_paused_task_that_is_stopped_or_deleted_leaves_nothing_to_decide() {
    let server = ModelServer::start([CALL]).await;
    let gateway = asking(&server).start().await;
    let task = gateway.start_run("Six times seven?").await;
    let approval = pending(&gateway, &task).await.remove(0);
    assert_eq!(gateway.stop_task(&task).await["status"], "stopped");
    let answer = decide(&gateway, &approval, "approve", json!({})).await;
    assert_eq!((answer.status, answer.detail().as_str()), (409, "the task has ended"));
    gateway.delete(&format!("/v1/tasks/{task}")).key(&gateway.key).expect(204).await;
    assert_eq!(decide(&gateway, &approval, "approve", json!({})).await.status, 404);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn paused_tasks_hold_no_place_of_the_queue() {
    let server = ModelServer::start([CALL]).await;
    let setup = asking(&server).settings(|settings| {
        (settings.queue.runs_max, settings.queue.runs_per_tenant_max) = (1, 1);
    });
    let gateway = setup.start().await;
    let first = gateway.start_run("Six times seven?").await;
    pending(&gateway, &first).await;
    let second = gateway.start_run("Six times seven?").await;
    assert_eq!(pending(&gateway, &second).await.len(), 1);
    let admin = gateway.new_key(KeyHolder::Admin(gateway.tenant)).await;
    let listed = format!("/admin/tenants/{}/approvals?status=pending", gateway.tenant);
    let listed = gateway.get(&listed).key(&admin).expect(200).await.json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_policy_allows_asks_or_denies_and_holds_for_the_tool_as_it_was() {
    let server = ModelServer::start([CALL, Reply::Text("done")]).await;
    let gateway = Setup::new().model(&server).start().await;
    let agent = gateway.get(&format!("/v1/agents/{}", gateway.agent)).key(&gateway.key);
    let agent = agent.expect(200).await.json();
    let digest = agent["tools"][0]["digest"].as_str().unwrap().to_owned();
    for (policy, digest, result) in [
        (Policy::Allow, Some(digest.clone()), "42"),
        (Policy::Allow, None, "42"),
        (Policy::Allow, Some("blake3:0".to_owned()), "the tool calculate has changed since"),
        (Policy::Ask, Some("blake3:0".to_owned()), "the tool calculate has changed since"),
        (Policy::Deny, Some(digest), "does not let runs call the tool calculate"),
    ] {
        let server_requests = server.requests().len();
        server.set_script([CALL, Reply::Text("done")]);
        let caller = gateway.agent_with(|agent| {
            agent.model = "scripted".to_owned();
            agent.tools = vec!["calculator".parse().unwrap()];
            agent
                .tool_policies
                .insert("calculate".to_owned(), ToolPolicy { digest, ..policy.into() });
        });
        caller.await.ask(json!({"prompt": "Six times seven?"})).await;
        let (request, _) = server.requests().remove(server_requests + 1);
        let told = request["messages"].as_array().unwrap().last().unwrap()["content"].clone();
        assert!(told.as_str().unwrap().contains(result), "{policy:?}: {told}");
    }
    let caller = gateway.agent_with(|agent| {
        agent.tools = vec!["calculator".parse().unwrap()];
        agent.tool_policies.insert("calculate".to_owned(), Policy::Ask.into());
    });
    let caller = caller.await;
    let target = format!("/agents/{}/operations/calculate", caller.agent);
    let direct = caller.post(&target).key(&caller.key).json(&json!({"expression": "1+1"}));
    assert!(direct.expect(403).await.detail().contains("a person has to approve"));
}

#[tokio::test]
async fn what_was_decided_counts_whatever_the_policy_is_by_then() {
    let server = ModelServer::start([CALL, Reply::Text("Then not.")]).await;
    let gateway = Setup::new().model(&server).start().await;
    let asking = |policy: Policy| {
        json!({
            "name": "changing", "model": "scripted", "tools": ["calculator"],
            "tool_policies": {"calculate": {"policy": policy}},
        })
    };
    let made =
        gateway.admin_request("POST", "/agents").json(&asking(Policy::Ask)).expect(201).await;
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let caller = Client { agent: id.clone(), ..gateway.caller.clone() };
    let task = caller.start_run("Six times seven?").await;
    let approval = pending(&caller, &task).await.remove(0);
    let change = gateway.admin_request("PUT", &format!("/agents/{id}"));
    change.json(&asking(Policy::Allow)).expect(200).await;
    assert_eq!(decide(&caller, &approval, "deny", json!({})).await.status, 200);
    caller.wait_for_end(&task).await;
    let (request, _) = server.requests().remove(1);
    let told = request["messages"].as_array().unwrap().last().unwrap()["content"].clone();
    assert_eq!(told, "calculate: it was not called: a person denied it");
    let listed = |agent: &str| {
        caller.get(&format!("/v1/approvals?agent_id={agent}")).key(&caller.key).expect(200)
    };
    assert_eq!(listed(&id).await.json().as_array().unwrap().len(), 1);
    for other in [gateway.agent.as_str(), "nobody"] {
        assert_eq!(listed(other).await.json(), json!([]));
    }
}

#[tokio::test]
async fn a_tool_that_takes_the_name_of_a_missing_one_keeps_its_own_policy() {
    let call = Reply::Tool("much", r#"{"bytes":1}"#);
    let server = ModelServer::start([call, Reply::Text("done")]).await;
    let gateway = Setup::new().model(&server).start().await;
    let component = std::fs::read(guest_path("answers_much")).unwrap();
    for name in ["first", "second"] {
        let plugins = &gateway.services.plugins;
        let name = name.parse().unwrap();
        plugins.install(gateway.tenant, &name, component.clone(), Some("")).await.unwrap();
    }
    let caller = gateway.agent_with(|agent| {
        agent.model = "scripted".to_owned();
        agent.tools = ["first", "second"].map(|name| name.parse().unwrap()).into();
        agent.tool_policies.insert("much".to_owned(), Policy::Allow.into());
        agent.tool_policies.insert("second__much".to_owned(), Policy::Deny.into());
    });
    let caller = caller.await;
    gateway.admin_request("DELETE", "/plugins/first").expect(204).await;
    caller.ask(json!({"prompt": "x"})).await;
    let (request, _) = server.requests().remove(1);
    let told = request["messages"].as_array().unwrap().last().unwrap()["content"].to_string();
    assert!(told.contains("does not let runs call the tool second__much"), "{told}");
}
