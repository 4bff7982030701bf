//! The wire contract (docs/CONTRACT.md) as a table: at least one case for each row, with the expected response.
//! Other modules test the rows in depth; this one ensures that no row is missing.

use std::collections::BTreeSet;
use std::ops::Deref;

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Answer, Call, Client, Gateway, Setup, agent};

/// Every row. X14 and X15 are about files, which this version refuses by name (X13).
const ROWS: &str = "X1 X2 X3 X4 X5 X6 X7 X8 X9 X10 X11 X12 X13 X16 X20 X21 X22 X23 X24 \
                    R-agents R-invoke R-tasks R-sdk R-graph R-body R-stream R-activity \
                    D1 D2 D3 D4 D5 D6 S4";

/// A gateway with two agents. The model of the second one, which belongs to another tenant, never responds, so its
/// runs have certainly not ended.
struct Fixture {
    gateway: Gateway,
    unanswered: Client,
    _model: ModelServer,
}

impl Deref for Fixture {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

impl Fixture {
    async fn start() -> Self {
        let model = ModelServer::start([Reply::Silence]).await;
        let gateway =
            Setup::new().settings(|settings| model.add_to_settings(settings)).start().await;
        let mut definition = agent("unanswered");
        definition.model = "scripted".to_owned();
        let tenant = gateway.new_tenant("unanswered").await;
        let unanswered = gateway.new_agent(tenant, definition).await;
        Self { gateway, unanswered, _model: model }
    }
}

/// One case of a row: a request, the expected status, and further checks of the response.
struct Case {
    row: &'static str,
    request: fn(&Fixture) -> Call,
    status: u16,
    check: fn(&Answer),
}

/// `POST /` with the key, the agent, these query parameters and this JSON.
fn ask(gateway: &Client, more: &str, body: Value) -> Call {
    gateway.webhook(more).json(&body)
}

/// A GET of the REST API with the key.
fn get(gateway: &Client, target: &str) -> Call {
    gateway.get(&target.replace("{agent}", &gateway.agent)).key(&gateway.key)
}

/// An invocation of the agent over REST.
fn invoke(gateway: &Client, how: &str) -> Call {
    let target = format!("/v1/agents/{}/{how}", gateway.agent);
    let input = json!({"text": "hi", "user": {"id": "u", "email": "a@b.c"}});
    gateway.post(&target).key(&gateway.key).json(&json!({"id": "t", "input": input}))
}

fn nothing(_: &Answer) {}

/// Parameters, body and refusals of `POST /` (section 1, first part).
const REQUESTS: &[Case] = &[
    Case {
        row: "X1",
        request: |g| {
            ask(
                g,
                r#"&prompt=query&params_mapping={"prompt":"m"}"#,
                json!({"m": "mapped", "prompt": "body"}),
            )
        },
        status: 200,
        check: |a| assert_eq!(a.report()["received"], "mapped"),
    },
    Case {
        row: "X2",
        request: |g| g.webhook("").text("application/x-www-form-urlencoded", r#" {"prompt":"hi"}"#),
        status: 200,
        check: |a| assert_eq!(a.report()["received"], "hi"),
    },
    Case {
        row: "X3",
        request: |g| g.post("/").key(&g.key).json(&json!({"prompt": "hi"})),
        status: 400,
        check: |a| assert_eq!(a.text, r#"{"detail":"agent_id is required"}"#),
    },
    Case {
        row: "X4",
        request: |g| g.post(&format!("/?agent_id={}", g.agent)).json(&json!({})),
        status: 401,
        check: |a| assert_eq!(a.text, r#"{"detail":"API key not specified"}"#),
    },
    Case {
        row: "X4",
        request: |g| g.post(&format!("/?agent_id={}", g.agent)).key("wgk_wrong").json(&json!({})),
        status: 403,
        check: |a| assert_eq!(a.text, r#"{"detail":"Invalid API key"}"#),
    },
    Case {
        row: "X5",
        request: |g| ask(g, "&asynchronous=perhaps", json!({})),
        status: 400,
        check: |a| assert!(a.detail().contains("asynchronous")),
    },
    Case {
        row: "X6",
        request: |g| {
            let tester = json!({"message": "Hello, webhook!", "asynchronous": false, "task_id": "", "getter": "result.received"});
            g.webhook("").json(&tester)
        },
        status: 200,
        check: |a| assert_eq!(a.json(), r#"{"message":"Hello, webhook!"}"#),
    },
    Case {
        row: "X7",
        request: |g| ask(g, "", json!({"prompt": "hi", "task_id": 123_456_789})),
        status: 200,
        check: nothing,
    },
    Case {
        row: "X8",
        request: |g| ask(g, "", json!({"prompt": "hi", "user_tokens": "no object"})),
        status: 400,
        check: |a| assert!(a.detail().contains("user_tokens")),
    },
    Case {
        row: "X9",
        request: |g| ask(g, r#"&params_mapping={"agent_id":"a"}"#, json!({"a": 1})),
        status: 400,
        check: |a| assert!(a.detail().contains("agent_id")),
    },
    Case {
        row: "X10",
        request: |g| ask(g, r#"&params_mapping={"prompt":"list.1"}"#, json!({"list": ["a", "b"]})),
        status: 200,
        check: |a| assert_eq!(a.report()["received"], "b"),
    },
    Case {
        row: "X11",
        request: |g| ask(g, "&getter=result.nowhere", json!({"prompt": "hi"})),
        status: 404,
        check: |a| assert!(a.detail().contains("result.nowhere")),
    },
    Case {
        row: "X12",
        request: |g| ask(g, "&json=true", json!({"prompt": "hi"})),
        status: 200,
        check: |a| assert_eq!(a.json()["result"]["received"], "hi"),
    },
    Case {
        row: "X13",
        request: |g| {
            g.webhook("").multipart(Form::new().part("prompt", Part::text("x").file_name("a.txt")))
        },
        status: 415,
        check: |a| assert!(a.detail().contains("a.txt")),
    },
    Case {
        row: "X16",
        request: |g| g.webhook("").text("application/json", "{"),
        status: 400,
        check: nothing,
    },
];

/// The responses of `POST /` (section 1, second part).
const ANSWERS: &[Case] = &[
    Case {
        row: "X20",
        request: |g| ask(g, "", json!({"prompt": "hi"})),
        status: 200,
        check: |a| {
            let fields: Vec<_> = a.json().as_object().unwrap().keys().cloned().collect();
            assert_eq!(
                fields.join(" "),
                "id agent_id status result created_at finished_at source execution_attempts"
            );
        },
    },
    Case {
        row: "X21",
        request: |g| ask(g, "&asynchronous=true", json!({"prompt": "hi"})),
        status: 200,
        check: |a| {
            assert_eq!(a.text, r#"{"status":"Started"}"#);
            assert_eq!(a.header("location"), Some(&*format!("/v1/tasks/{}", a.task_id())));
        },
    },
    Case {
        row: "X22",
        request: |g| {
            ask(&g.unanswered, "", json!({"prompt": "hi"})).header("prefer", "respond-async")
        },
        status: 202,
        check: |a| assert_eq!(a.json()["id"], a.task_id()),
    },
    Case {
        row: "X23",
        request: |g| ask(g, "", json!({"prompt": "hi"})),
        status: 200,
        check: |a| assert_eq!(a.json()["status"], "completed"),
    },
    Case {
        row: "X24",
        request: |g| ask(g, "", json!({"prompt": "hi"})).idempotent(&"k".repeat(257)),
        status: 400,
        check: |a| assert!(a.detail().contains("Idempotency-Key")),
    },
];

/// The REST subset (section 2).
const REST: &[Case] = &[
    Case {
        row: "R-agents",
        request: |g| get(g, "/v1/agents"),
        status: 200,
        check: |a| assert_eq!(a.json()["total"], 1),
    },
    Case {
        row: "R-graph",
        request: |g| get(g, "/v1/agents/{agent}"),
        status: 200,
        check: |a| assert!(a.json()["graph"].is_array()),
    },
    Case {
        row: "R-invoke",
        request: |g| invoke(g, "invoke-async"),
        status: 200,
        check: |a| assert_eq!(a.json()["status"], "pending"),
    },
    Case {
        row: "R-body",
        request: |g| invoke(g, "invoke"),
        status: 200,
        check: |a| {
            let task = a.json();
            assert_eq!((&task["source"], &task["thread_id"]), (&json!("api"), &json!("t")));
            assert_eq!(task["input"]["user"]["email"], "a@b.c");
        },
    },
    Case {
        row: "R-stream",
        request: |g| invoke(g, "invoke/stream"),
        status: 200,
        check: |a| {
            let last = a.text.lines().rfind(|line| line.starts_with("data: ")).unwrap();
            assert!(last.contains(r#""type":"task_finished""#), "{last}");
        },
    },
    Case {
        row: "R-tasks",
        request: |g| get(g, "/v1/tasks?agent_id={agent}&user_id=u&status=completed"),
        status: 200,
        check: |a| assert!(a.json()["total"].as_u64().unwrap() >= 2),
    },
    Case {
        row: "R-tasks",
        request: |g| get(g, "/v1/tasks/t/thread/full"),
        status: 200,
        check: nothing,
    },
    Case {
        row: "R-sdk",
        request: |g| get(g, "/agents/list"),
        status: 200,
        check: |a| assert!(a.json()[0]["icon"].is_string()),
    },
    Case {
        row: "R-sdk",
        request: |g| get(g, "/agent-execution/t/status"),
        status: 200,
        check: nothing,
    },
    Case {
        row: "R-sdk",
        request: |g| get(g, "/agent-execution/executions/history/{agent}"),
        status: 200,
        check: |a| assert!(a.json().is_array()),
    },
    Case {
        row: "R-activity",
        request: |g| get(g, "/activity/{agent}/t"),
        status: 200,
        check: |a| assert_eq!(a.json()["messages"][0]["role"], "user"),
    },
];

/// The DocsGPT-compatible webhooks (section 3), and durability (section 4).
const DOCSGPT: &[Case] = &[
    Case {
        row: "D1",
        request: |g| g.trigger().json(&json!({"q": 1})),
        status: 200,
        check: |a| assert_eq!(a.json()["success"], true),
    },
    Case {
        row: "D2",
        request: |g| g.get(&format!("/api/webhooks/agents/{}?q=1&q=2", g.token)),
        status: 200,
        check: |a| assert_eq!(a.json()["task_id"], a.task_id()),
    },
    Case {
        row: "D3",
        request: |g| g.post("/api/webhooks/agents/nobody").json(&json!({})),
        status: 404,
        check: |a| assert_eq!(a.text, r#"{"success":false,"message":"Agent not found"}"#),
    },
    Case {
        row: "D4",
        request: |g| g.get("/api/task_status?task_id=00000000-0000-4000-8000-000000000000"),
        status: 200,
        check: |a| assert_eq!(a.json(), json!({"status": "PENDING", "result": null})),
    },
    Case {
        row: "D5",
        request: |g| get(g, "/api/agent_webhook?id={agent}"),
        status: 200,
        check: |a| {
            assert!(a.json()["webhook_url"].as_str().unwrap().contains("/api/webhooks/agents/"))
        },
    },
    Case {
        row: "D6",
        request: |g| g.trigger().json(&json!({"q": 1})).idempotent("a key"),
        status: 400,
        check: |a| assert!(a.json()["message"].as_str().unwrap().contains("visible ASCII")),
    },
    Case {
        row: "S4",
        request: |g| get(g, "/v1/tasks/t"),
        status: 200,
        check: |a| assert_eq!(a.json()["execution_attempts"], 1),
    },
];

#[tokio::test]
async fn every_row_of_the_contract_holds() {
    let fixture = Fixture::start().await;
    let mut held = BTreeSet::new();
    for case in [REQUESTS, ANSWERS, REST, DOCSGPT].into_iter().flatten() {
        let answer = (case.request)(&fixture).send().await;
        assert_eq!(answer.status, case.status, "{}: {}", case.row, answer.text);
        (case.check)(&answer);
        assert!(answer.header("x-request-id").is_some(), "{}", case.row);
        held.insert(case.row);
    }
    assert_eq!(held, ROWS.split_whitespace().collect());
}
