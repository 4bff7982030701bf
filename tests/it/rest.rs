//! The REST surface: agents, runs and tasks, under each of their names (contract section 2).

mod agents;
mod invoke;
mod tasks;

use reqwest::Method;

use crate::support::{Call, Gateway, agent};

/// Every route of the surface. `{agent}` and `{task}` stand for existing ids, `{organization}` for the tenant.
const ROUTES: [(Method, &str); 26] = [
    (Method::GET, "/v1/agents"),
    (Method::GET, "/agents"),
    (Method::GET, "/agents/list"),
    (Method::GET, "/v1/agents/{agent}"),
    (Method::GET, "/agents/{agent}"),
    (Method::POST, "/v1/agents/{agent}/invoke"),
    (Method::POST, "/agents/{agent}/invoke"),
    (Method::POST, "/v1/agents/{agent}/invoke/async"),
    (Method::POST, "/v1/agents/{agent}/invoke-async"),
    (Method::POST, "/v1/agents/{agent}/invoke/stream"),
    (Method::POST, "/v1/agents/{agent}/invoke-stream"),
    (Method::POST, "/agent-execution/{agent}"),
    (Method::POST, "/agents/{agent}/operations/calculate"),
    (Method::GET, "/v1/tasks"),
    (Method::GET, "/tasks"),
    (Method::GET, "/v1/tasks/{task}"),
    (Method::GET, "/tasks/{task}"),
    (Method::GET, "/agent-execution/{task}/status"),
    (Method::GET, "/v1/tasks/{task}/thread"),
    (Method::GET, "/v1/tasks/{task}/thread/full"),
    (Method::GET, "/activity/{agent}/{task}"),
    (Method::GET, "/agent-execution/executions/history/{agent}"),
    (Method::GET, "/{organization}/agent-execution/{task}/events"),
    (Method::POST, "/v1/tasks/{task}/stop"),
    (Method::PATCH, "/agent-execution/{task}/update"),
    (Method::DELETE, "/v1/tasks/{task}"),
];

const UNKNOWN: &str = "00000000-0000-4000-8000-000000000000";

/// A call of a route with a body that would be refused if it were read.
fn call(gateway: &Gateway, method: &Method, target: &str) -> Call {
    Call::new(gateway.http.request(method.clone(), gateway.url(target))).body("no JSON")
}

#[tokio::test]
async fn who_has_no_key_learns_nothing_more() {
    let gateway = Gateway::start().await;
    for (method, route) in &ROUTES {
        // Neither whether something exists, nor what is wrong with the body.
        for name in [gateway.agent.as_str(), UNKNOWN, "no id"] {
            let target = route.replace("{agent}", name).replace("{task}", name);
            let target = target.replace("{organization}", &gateway.tenant.to_string());
            let absent = call(&gateway, method, &target).expect(401).await;
            assert_eq!(absent.text, r#"{"detail":"API key not specified"}"#, "{method} {target}");
            let wrong = call(&gateway, method, &target).key("wgk_wrong").expect(403).await;
            assert_eq!(wrong.text, r#"{"detail":"Invalid API key"}"#, "{method} {target}");
            let query = format!("{target}?x-api-key={}", gateway.key);
            call(&gateway, method, &query).expect(401).await;
        }
    }
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn what_is_not_there_is_404_whoever_has_it() {
    let gateway = Gateway::start().await;
    let stranger = gateway.new_agent(gateway.new_tenant("stranger").await, agent("theirs")).await;
    let task = stranger.invoke("invoke", "theirs").expect(200).await.task_id();
    let named = ROUTES.iter().filter(|(_, route)| route.contains('{'));
    for (method, route) in named {
        let mut answers = Vec::new();
        for (agent, task) in [(UNKNOWN, UNKNOWN), (&stranger.agent, &task), ("no id", "no id")] {
            let target = route.replace("{agent}", agent).replace("{task}", task);
            let target = target.replace("{organization}", &gateway.tenant.to_string());
            let answer = call(&gateway, method, &target).key(&gateway.key).expect(404).await;
            assert!(answer.detail().ends_with(" not found"), "{method} {target}: {}", answer.text);
            answers.push(answer.text);
        }
        assert!(answers.iter().all(|text| *text == answers[0]), "{method} {route}: {answers:?}");
    }
    assert_eq!(stranger.task(&task).await["status"], "completed", "and nothing was done to it");
    assert_eq!(gateway.stored_task_count().await, 1);
}
