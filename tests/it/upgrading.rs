//! A data folder of an earlier version opens with all of its data, and its work continues. The folders are in
//! `tests/stores`.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{GatewayProcess, Home, poll_until, relax_tenant_time_limits};

/// The ids and credentials of the folder `072a4e4`, from its README.md.
const TENANT: &str = "687f49b4-0003-4422-9378-4760616b4589";
const AGENT: &str = "32d2d7d1-603b-49d1-a499-3913af149527";
const KEY: &str = "wgk_TU-wLQF4ksVEEqw_aX5Q-Oq8G0TSVfzrb4msdQxns5s";
const WEBHOOK: &str = "/api/webhooks/agents/ypfTiNK9-gHtEvpMBkg_1tlEkISJk7aSflG3njsIgeM";
const HOOK: &str = "/hooks/8a85fc83-507d-409c-a67d-a7b07a997a37";
const CALCULATED: &str = "01a22d30-59b4-72a0-b609-127b71ad11fc";
const BY_WEBHOOK: &str = "01a22d30-5a69-761c-a62a-5f2f2a790e41";
const WAITING: &str = "01a22d30-9ac9-702f-8ead-9c3b8c61e65f";
const WAITING_OF_CHANNEL: &str = "01a22d30-9ad9-7a29-8b13-1fc0c7f4d521";

/// A copy of the data folder of an earlier version.
fn earlier(version: &str) -> Home {
    let home = Home::new();
    // Compiled code is sealed with its folder's host key, and this folder gets another one.
    home.detach_code_cache();
    let stores = Path::new(env!("CARGO_MANIFEST_DIR")).join("stores").join(version);
    for file in ["wardgate.db", "host.key"] {
        std::fs::copy(stores.join(file), home.path().join(file)).unwrap();
    }
    home
}

/// A current gateway on such a folder, with a client for its tenant's callers.
struct Upgraded {
    base: String,
    http: reqwest::Client,
    _gateway: GatewayProcess,
}

impl Upgraded {
    fn serve(home: &Home) -> Self {
        relax_tenant_time_limits(home, TENANT.parse().unwrap());
        let gateway = GatewayProcess::serve(home, &[]);
        let base = format!("http://{}", gateway.listen);
        let http = wardgate::tls::http_client().no_proxy().build().unwrap();
        Self { base, http, _gateway: gateway }
    }

    async fn get(&self, path: &str) -> Value {
        let sent = self.http.get(format!("{}{path}", self.base)).header("x-api-key", KEY);
        sent.send().await.unwrap().json().await.unwrap()
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: Value) -> reqwest::Response {
        let sent = self.http.post(format!("{}{path}", self.base)).json(&body);
        let sent = headers.iter().fold(sent, |sent, (name, value)| sent.header(*name, *value));
        sent.send().await.unwrap()
    }

    /// Waits until a task has ended, and returns it.
    async fn wait_for_end(&self, task: &str) -> Value {
        poll_until("the end of a task", async || {
            let seen = self.get(&format!("/v1/tasks/{task}")).await;
            (seen["status"] == "completed").then_some(seen)
        })
        .await
    }
}

#[tokio::test]
async fn a_folder_of_072a4e4_opens_and_goes_on() {
    let home = earlier("072a4e4");
    let upgraded = Upgraded::serve(&home);

    // Completed tasks exist with their traces, and queued tasks run.
    let calculated = upgraded.wait_for_end(CALCULATED).await;
    assert!(calculated["result"].as_str().unwrap().contains("calculate gave"), "{calculated}");
    let thread = upgraded.get(&format!("/v1/tasks/{CALCULATED}/thread")).await;
    assert!(thread.to_string().contains("\\\"value\\\":42"), "{thread}");
    let waiting = upgraded.wait_for_end(WAITING).await;
    assert_eq!(waiting["execution_attempts"], 1);
    assert!(waiting["result"].as_str().unwrap().contains("still to do"));
    let of_channel = upgraded.wait_for_end(WAITING_OF_CHANNEL).await;
    assert!(of_channel["result"].as_str().unwrap().contains("waiting since before"));
    let listed = upgraded.get("/v1/tasks").await;
    assert_eq!(listed["total"], 6, "{listed}");
    let by_webhook = upgraded.get(&format!("/api/task_status?task_id={BY_WEBHOOK}")).await;
    assert_eq!(by_webhook["status"], "SUCCESS", "{by_webhook}");

    // Idempotency keys refer to the earlier tasks, the agent's webhook and the channel accept requests, and an
    // earlier delivery is recognised as a duplicate.
    let body = json!({"prompt": "what did we say?", "task_id": "order-7", "note": "kept"});
    let path = format!("/?agent_id={AGENT}&getter=result");
    let headers = [("x-api-key", KEY), ("idempotency-key", "order-7-first")];
    let replayed = upgraded.post(&path, &headers, body).await;
    assert_eq!(replayed.status(), 200);
    assert_eq!(replayed.headers()["idempotent-replayed"], "true");
    let triggered = upgraded.post(WEBHOOK, &[], json!({"ticket": 8})).await;
    assert_eq!(triggered.status(), 200);
    let secret = [("x-telegram-bot-api-secret-token", "a-telegram-secret")];
    let update = |id: u32| {
        json!({"update_id": id, "message": {
            "message_id": 3, "date": 1_790_000_002, "chat": {"id": 42, "type": "private"},
            "from": {"id": 42, "is_bot": false, "first_name": "Ada"}, "text": "and now",
        }})
    };
    let again = upgraded.post(HOOK, &secret, update(1002)).await;
    assert_eq!(again.headers()["x-task-id"], WAITING_OF_CHANNEL);
    let taken = upgraded.post(HOOK, &secret, update(1003)).await;
    assert_eq!((taken.status().as_u16(), taken.headers().get("idempotent-replayed")), (200, None));
    assert_eq!(upgraded.post(HOOK, &[], update(1004)).await.status(), 401);

    // The conversation continues.
    let next = json!({"prompt": "and before that?", "task_id": "order-7"});
    let path = format!("/?agent_id={AGENT}");
    let next = upgraded.post(&path, &[("x-api-key", KEY)], next).await;
    let next: Value = next.json().await.unwrap();
    let result: Value = serde_json::from_str(next["result"].as_str().unwrap()).unwrap();
    assert_eq!(result["earlier_messages"], 3, "{next}");
}
