//! `/mcp`: any client of the protocol calls agents, and the tools of plugins that the operator publishes, in both
//! generations of the protocol and without state between requests.

mod published_tools;

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use wardgate::tenants::KeyHolder;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Answer, Call, Client, Gateway, Setup, poll_until};

const LEGACY: [&str; 3] = ["2025-03-26", "2025-06-18", "2025-11-25"];
const STATELESS: &str = "2026-07-28";

/// A request of this revision, whose client has these capabilities.
fn message(caller: &Client, revision: &str, capabilities: &Value, body: &Value) -> Call {
    let mut body = body.clone();
    let call = caller.post("/mcp").header("accept", "application/json, text/event-stream");
    let mut call = call.key(&caller.key).header("mcp-protocol-version", revision);
    if revision == STATELESS {
        let meta = &mut body["params"]["_meta"];
        meta["io.modelcontextprotocol/protocolVersion"] = revision.into();
        meta["io.modelcontextprotocol/clientInfo"] = json!({"name": "tests", "version": "1"});
        meta["io.modelcontextprotocol/clientCapabilities"] = capabilities.clone();
        call = call.header("mcp-method", body["method"].as_str().unwrap());
        let name = &body["params"];
        if let Some(name) = name["name"].as_str().or_else(|| name["taskId"].as_str()) {
            call = call.header("mcp-name", name);
        }
    }
    body["jsonrpc"] = "2.0".into();
    call.json(&body)
}

fn request(caller: &Client, revision: &str, method: &str, params: Value) -> Call {
    message(caller, revision, &json!({}), &json!({"id": 7, "method": method, "params": params}))
}

/// The result of a method.
async fn result(caller: &Client, revision: &str, method: &str, params: Value) -> Value {
    let answer = request(caller, revision, method, params).send().await;
    let response = answer.json();
    assert_eq!((answer.status, &response["id"]), (200, &json!(7)), "{}", answer.text);
    assert_eq!(response.get("error"), None, "{}", answer.text);
    response["result"].clone()
}

/// The error of a method: its code and its message.
async fn error(caller: &Client, revision: &str, method: &str, params: Value) -> (i64, String) {
    let response = request(caller, revision, method, params).send().await.json();
    let message = response["error"]["message"].as_str().unwrap_or_else(|| panic!("{response}"));
    (response["error"]["code"].as_i64().unwrap(), message.to_owned())
}

fn call(name: &str, arguments: &Value) -> Value {
    json!({"name": name, "arguments": arguments})
}

/// The text of a tool's result, which is no error.
fn text(result: &Value) -> &str {
    assert_ne!(result["isError"], true, "{result}");
    result["content"][0]["text"].as_str().unwrap()
}

/// The text of a tool's result, which is an error.
fn failure(result: &Value) -> &str {
    assert_eq!(result["isError"], true, "{result}");
    result["content"][0]["text"].as_str().unwrap()
}

/// The names of the tools that are listed.
async fn listed(caller: &Client) -> Vec<String> {
    let list = result(caller, STATELESS, "tools/list", json!({})).await;
    let tools = list["tools"].as_array().unwrap();
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

/// The messages of a stream of server-sent events.
fn messages(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.header("content-type"), Some("text/event-stream"), "{}", answer.text);
    let data = answer.text.lines().filter_map(|line| line.strip_prefix("data:"));
    data.filter(|data| !data.trim().is_empty())
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

/// The model's messages of its last turn, as one text.
fn input(model: &ModelServer) -> String {
    let (request, _) = model.requests().pop().unwrap();
    request["messages"].as_array().unwrap().last().unwrap()["content"].to_string()
}

#[tokio::test]
async fn an_agent_is_a_tool_in_every_revision() {
    let model = ModelServer::start([Reply::Text("It is done.")]).await;
    let gateway = Setup::new().model(&model).agent(|agent| {
        agent.description = Some("Does what it is told.".to_owned());
    });
    let gateway = gateway.start().await;
    for revision in LEGACY.into_iter().chain([STATELESS]) {
        let client = json!({"name": "tests", "version": "1"});
        let info = if revision == STATELESS {
            let info = result(&gateway, revision, "server/discover", json!({})).await;
            assert!(info["supportedVersions"].as_array().unwrap().contains(&json!(revision)));
            info
        } else {
            let hello =
                json!({"protocolVersion": revision, "capabilities": {}, "clientInfo": client});
            let answer = request(&gateway, revision, "initialize", hello).expect(200).await;
            assert!(answer.header("mcp-session-id").is_some());
            let info = answer.json()["result"].clone();
            assert_eq!(info["protocolVersion"], revision);
            info
        };
        assert!(info["capabilities"]["tools"].is_object(), "{info}");

        let list = result(&gateway, revision, "tools/list", json!({})).await;
        let [tool] = &list["tools"].as_array().unwrap()[..] else { panic!("{list}") };
        assert_eq!(
            (&tool["name"], &tool["description"]),
            (&json!("tested"), &json!("Does what it is told."))
        );
        assert!(tool["inputSchema"]["properties"]["prompt"].is_object());
        assert_eq!(list["cacheScope"].as_str(), Some("private"));

        let arguments = json!({"prompt": "Do it.", "payload": {"order": 17}});
        let answer = result(&gateway, revision, "tools/call", call("tested", &arguments)).await;
        assert_eq!(text(&answer), "It is done.", "{revision}");
        let input = input(&model);
        assert!(input.contains("Do it.") && input.contains(r#"{\"order\":17}"#), "{input}");
        let task = gateway.task(answer["_meta"]["io.wardgate/task-id"].as_str().unwrap()).await;
        assert_eq!((&task["source"], &task["status"]), (&json!("mcp"), &json!("completed")));
    }
}

#[tokio::test]
async fn only_a_key_of_the_tenant_is_let_in_and_no_page_of_another_origin() {
    let gateway = Gateway::start().await;
    let other = gateway.new_tenant("others").await;
    let theirs = gateway.new_key(KeyHolder::Tenant(other)).await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let send = || {
        let call = gateway.post("/mcp").header("accept", "application/json, text/event-stream");
        call.json(&list)
    };
    assert_eq!(send().send().await.status, 401);
    assert_eq!(send().key("wrong").send().await.status, 403);
    assert_eq!(send().key(&gateway.operator_key()).send().await.status, 403);
    let bearer = format!("Bearer {}", gateway.key);
    let tools = |answer: Answer| answer.json()["result"]["tools"].as_array().unwrap().len();
    assert_eq!(tools(send().header("authorization", &bearer).expect(200).await), 1);
    assert_eq!(tools(send().key(&theirs).expect(200).await), 0);

    for (origin, status) in [
        ("https://evil.example", 403),
        ("null", 403),
        ("http://localhost.evil.example", 403),
        ("http://localhost:6274", 200),
        (&format!("http://{}", gateway.listen), 200),
    ] {
        let answer = send().key(&gateway.key).header("origin", origin).send().await;
        assert_eq!(answer.status, status, "{origin}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let agent = call("tested", &json!({"prompt": "hello"}));
    let stranger = Client::new(&gateway.listen, "", &theirs, "");
    let (code, _) = error(&stranger, STATELESS, "tools/call", agent).await;
    assert_eq!(code, -32602);
}

#[tokio::test]
async fn a_client_that_asks_for_progress_is_told_of_each_step() {
    let calls = [Reply::Tool("calculate", r#"{"expression":"6*7"}"#), Reply::Text("42")];
    for revision in ["2025-06-18", STATELESS] {
        let model = ModelServer::start(calls.clone()).await;
        let gateway = Setup::new().model(&model).start().await;
        let mut params = call("tested", &json!({"prompt": "Six times seven?"}));
        params["_meta"] = json!({"progressToken": "p-1"});
        let answer = request(&gateway, revision, "tools/call", params).expect(200).await;
        let mut messages = messages(&answer);
        let response = messages.pop().unwrap();
        assert_eq!((&response["id"], text(&response["result"])), (&json!(7), "42"));
        let told: Vec<_> = messages
            .iter()
            .map(|message| {
                assert_eq!(message["method"], "notifications/progress");
                assert_eq!(message["params"]["progressToken"], "p-1");
                message["params"]["message"].as_str().unwrap()
            })
            .collect();
        let steps = [
            "the run has started",
            "the model has answered",
            "the agent calls calculate",
            "calculate has answered",
            "the model has answered",
        ];
        assert_eq!(told, steps, "{revision}");
        let counted: Vec<_> =
            messages.iter().map(|message| &message["params"]["progress"]).collect();
        assert!(counted.is_sorted_by_key(|count| count.as_f64().unwrap() as u32));
    }
}

#[tokio::test]
async fn a_run_is_a_task_for_a_client_of_that_extension() {
    const HELD: Reply = Reply::Held(&Reply::Text("at last"));
    let model = ModelServer::start([HELD]).await;
    let gateway = Setup::new().model(&model).start().await;
    let tasks = json!({"extensions": {"io.modelcontextprotocol/tasks": {}}});
    let send = async |method: &str, params: Value| {
        let body = json!({"id": 7, "method": method, "params": params});
        message(&gateway, STATELESS, &tasks, &body).send().await.json()
    };
    let start = async || {
        let started = send("tools/call", call("tested", &json!({"prompt": "Wait."}))).await;
        let started = started["result"].clone();
        assert_eq!(
            (&started["resultType"], &started["status"]),
            (&json!("task"), &json!("working"))
        );
        started["taskId"].as_str().unwrap().to_owned()
    };
    let id = start().await;
    assert_eq!(send("tasks/get", json!({"taskId": id})).await["result"]["status"], "working");
    model.wait_for_requests(1).await;
    model.release(1);
    assert_eq!(gateway.wait_for_end(&id).await["result"], "at last");
    let task = send("tasks/get", json!({"taskId": id})).await["result"].clone();
    assert_eq!(task["status"], "completed");
    assert_eq!(text(&task["result"]), "at last");

    let id = start().await;
    assert_eq!(
        send("tasks/update", json!({"taskId": id, "inputResponses": {}})).await["error"]["code"],
        -32600
    );
    assert!(send("tasks/cancel", json!({"taskId": id})).await["result"].is_object());
    assert_eq!(send("tasks/get", json!({"taskId": id})).await["result"]["status"], "cancelled");
    assert_eq!(gateway.task(&id).await["status"], "stopped");
    assert_eq!(send("tasks/get", json!({"taskId": "no-such-task"})).await["error"]["code"], -32602);

    // Without the capability, there are no tasks for a client.
    let (code, _) = error(&gateway, STATELESS, "tasks/get", json!({"taskId": id})).await;
    assert_eq!(code, -32021);
    // Another tenant has no such task.
    let theirs = gateway.new_tenant("others").await;
    let key = gateway.new_key(KeyHolder::Tenant(theirs)).await;
    let stranger = Client::new(&gateway.listen, "", &key, "");
    for method in ["tasks/get", "tasks/cancel"] {
        let body = json!({"id": 7, "method": method, "params": {"taskId": id}});
        let answer = message(&stranger, STATELESS, &tasks, &body).send().await.json();
        assert_eq!(answer["error"]["code"], -32602, "{method}");
    }
}

/// Starts a call whose model does not answer, and returns its task and the call.
async fn held_call(
    gateway: &Gateway,
    model: &ModelServer,
    call: Call,
) -> (String, tokio::task::JoinHandle<Option<Answer>>) {
    let before = model.requests().len();
    let known = gateway.recent_tasks().await.len();
    let call = tokio::spawn(async move { Some(call.send().await) });
    model.wait_for_requests(before + 1).await;
    let tasks = gateway.recent_tasks().await;
    assert_eq!(tasks.len(), known + 1);
    (tasks[0]["id"].as_str().unwrap().to_owned(), call)
}

#[tokio::test]
async fn a_client_cancels_a_call_as_its_revision_has_it() {
    let model = ModelServer::start([Reply::Silence]).await;
    let gateway = Setup::new().model(&model).start().await;
    let params = call("tested", &json!({"prompt": "Wait."}));

    // A closed connection, since 2026-07-28: with and without a stream.
    for meta in [json!({}), json!({"progressToken": 1})] {
        let mut params = params.clone();
        params["_meta"] = meta;
        let sent = request(&gateway, STATELESS, "tools/call", params);
        let (task, call) = held_call(&gateway, &model, sent).await;
        call.abort();
        assert_eq!(gateway.wait_for_end(&task).await["status"], "stopped");
    }

    // A notification, before.
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {},
                       "clientInfo": {"name": "tests", "version": "1"}});
    let initialized = request(&gateway, "2025-11-25", "initialize", hello).expect(200).await;
    let session = initialized.header("mcp-session-id").unwrap().to_owned();
    let sent = request(&gateway, "2025-11-25", "tools/call", params.clone());
    let sent = sent.header("mcp-session-id", &session);
    let (task, call) = held_call(&gateway, &model, sent).await;
    let cancel = |session: &str, id: Value| {
        let body = json!({"method": "notifications/cancelled", "params": {"requestId": id}});
        let call = message(&gateway, "2025-11-25", &json!({}), &body);
        call.header("mcp-session-id", session).expect(202)
    };
    cancel("another-session", json!(7)).await;
    cancel(&session, json!(8)).await;
    cancel(&session, json!("7")).await;
    assert_eq!(gateway.task(&task).await["status"], "executing");
    cancel(&session, json!(7)).await;
    assert_eq!(gateway.task(&task).await["status"], "stopped");
    let answer = call.await.unwrap().unwrap().json();
    assert_eq!(failure(&answer["result"]), "stopped on request");
}

#[tokio::test]
async fn a_connection_that_breaks_does_not_stop_a_call_that_can_be_asked_for_again() {
    const HELD: Reply = Reply::Held(&Reply::Text("done"));
    let model = ModelServer::start([HELD]).await;
    let gateway = Setup::new().model(&model).start().await;
    let mut keyed = call("tested", &json!({"prompt": "Wait."}));
    keyed["_meta"] = json!({"io.wardgate/idempotency-key": "order-17"});
    let plain = call("tested", &json!({"prompt": "Wait."}));
    for (revision, params) in [(STATELESS, keyed.clone()), ("2025-11-25", plain)] {
        let sent = request(&gateway, revision, "tools/call", params);
        let (task, call) = held_call(&gateway, &model, sent).await;
        call.abort();
        let _ = call.await;
        model.release(1);
        assert_eq!(gateway.wait_for_end(&task).await["status"], "completed", "{revision}");
    }
    let turns = model.requests().len();
    let again = result(&gateway, STATELESS, "tools/call", keyed.clone()).await;
    assert_eq!(text(&again), "done");
    assert_eq!(model.requests().len(), turns, "it is not run again");
    keyed["arguments"]["prompt"] = "Something else.".into();
    let other = result(&gateway, STATELESS, "tools/call", keyed).await;
    assert!(failure(&other).contains("used before with a different request"), "{other}");
}

#[tokio::test]
async fn what_goes_wrong_in_a_call_is_said_to_the_model() {
    let model = ModelServer::start([Reply::Error(400, "the model is unwell")]).await;
    let gateway = Setup::new().model(&model).agent(|agent| agent.turns_max = Some(1));
    let gateway = gateway.start().await;
    let failed = result(&gateway, STATELESS, "tools/call", call("tested", &json!({"prompt": "x"})));
    assert!(failure(&failed.await).contains("the model is unwell"));
    for (arguments, why) in [
        (json!({"promt": "x"}), "unknown field `promt`"),
        (json!({"prompt": 7}), "expected a string"),
        (json!({"payload": [1]}), "payload is not a JSON object"),
        (json!({"conversation": "x".repeat(600)}), "conversation"),
    ] {
        let refused = result(&gateway, STATELESS, "tools/call", call("tested", &arguments)).await;
        assert!(failure(&refused).contains(why), "{refused}");
    }
    let (code, why) = error(&gateway, STATELESS, "tools/call", call("nothing", &json!({}))).await;
    assert_eq!(
        (code, why.as_str()),
        (-32602, "there is no tool \"nothing\", or its agent is disabled")
    );
    gateway.admin_request("POST", &format!("/agents/{}/disable", gateway.agent)).expect(200).await;
    let (code, _) = error(&gateway, STATELESS, "tools/call", call("tested", &json!({}))).await;
    assert_eq!(code, -32602);
    assert_eq!(listed(&gateway).await, [""; 0]);
}

#[tokio::test]
async fn a_run_that_takes_longer_than_a_caller_may_wait_goes_on() {
    let model = ModelServer::start([Reply::Held(&Reply::Text("late"))]).await;
    let setup = Setup::new().model(&model);
    let setup = setup.settings(|settings| settings.http.sync_wait_max = Duration::from_millis(50));
    let gateway = setup.start().await;
    for revision in ["2025-06-18", STATELESS] {
        let waited = result(&gateway, revision, "tools/call", call("tested", &json!({}))).await;
        let id = waited["_meta"]["io.wardgate/task-id"].as_str().unwrap();
        assert!(failure(&waited).contains(&format!("goes on; GET /v1/tasks/{id}")), "{waited}");
        model.release(1);
        assert_eq!(gateway.wait_for_end(id).await["result"], "late");
    }
}

#[tokio::test]
async fn a_conversation_goes_on() {
    let model = ModelServer::start([Reply::Text("Hello.")]).await;
    let gateway = Setup::new().model(&model).start().await;
    let ask = async |conversation: &str| {
        let arguments = json!({"prompt": "And?", "conversation": conversation});
        let answer = result(&gateway, STATELESS, "tools/call", call("tested", &arguments)).await;
        answer["_meta"]["io.wardgate/task-id"].as_str().unwrap().to_owned()
    };
    let first = ask("chat").await;
    ask("chat").await;
    let turns = |model: &ModelServer| {
        let (request, _) = model.requests().pop().unwrap();
        let messages = request["messages"].as_array().unwrap();
        messages.iter().filter(|message| message["role"] == "user").count()
    };
    assert_eq!(turns(&model), 2);
    ask(&first).await;
    assert_eq!(turns(&model), 3, "the id of a task stands for its conversation");
}

#[tokio::test]
async fn an_answer_in_a_form_is_structured_content() {
    let model = ModelServer::start([Reply::Text(r#"{"total":42}"#)]).await;
    let schema = json!({"type": "object", "properties": {"total": {"type": "integer"}},
                        "required": ["total"], "additionalProperties": false});
    let form = schema.clone();
    let gateway = Setup::new().model(&model).agent(|agent| {
        agent.tools.clear();
        agent.output_schema = Some(form);
    });
    let gateway = gateway.start().await;
    for revision in ["2025-06-18", STATELESS] {
        let list = result(&gateway, revision, "tools/list", json!({})).await;
        assert_eq!(list["tools"][0]["outputSchema"], schema);
        let answer = result(&gateway, revision, "tools/call", call("tested", &json!({}))).await;
        assert_eq!(answer["structuredContent"], json!({"total": 42}));
        assert_eq!(text(&answer), r#"{"total":42}"#);
    }
}

#[tokio::test]
async fn an_agent_keeps_the_name_of_its_tool() {
    let gateway = Gateway::start().await;
    for name in ["Support: first line", "a__b", "ärger", "x".repeat(64).as_str()] {
        gateway.agent_with(|agent| agent.name = name.parse().unwrap()).await;
    }
    let names = listed(&gateway).await;
    let [tested, support, double, umlaut, long] = &names[..] else { panic!("{names:?}") };
    assert_eq!((tested.as_str(), long), ("tested", &"x".repeat(64)));
    for (name, start) in [(support, "Support_first_line_"), (double, "a_b_"), (umlaut, "_rger_")] {
        assert!(name.starts_with(start) && name.len() == start.len() + 6, "{name}");
    }
    gateway.agent_with(|agent| agent.name = "support_ first line".parse().unwrap()).await;
    assert_eq!(listed(&gateway).await[..5], names);
    let answer = result(&gateway, STATELESS, "tools/call", call(support, &json!({"prompt": "x"})));
    assert_eq!(answer.await["isError"], false);
}

#[tokio::test]
async fn messages_that_are_none_are_refused_and_bounded() {
    let gateway = Gateway::start().await;
    let send = |body: String| {
        let call = gateway.post("/mcp").header("accept", "application/json, text/event-stream");
        call.key(&gateway.key).text("application/json", body).send()
    };
    let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    for (body, status) in [
        (String::new(), 400),
        ("{".to_owned(), 400),
        ("[]".to_owned(), 415),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]"#.to_owned(), 415),
        (r#"{"jsonrpc":"2.0","id":1}"#.to_owned(), 415),
        (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_owned(), 400),
        (deep.clone(), 400),
        (
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"tested","arguments":{deep}}}}}"#
            ),
            400,
        ),
        (format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#, "x".repeat(1 << 20)), 413),
    ] {
        let answer = send(body.clone()).await;
        assert_eq!(answer.status, status, "{:.80} {}", body, answer.text);
    }
    for method in ["GET", "DELETE"] {
        let call = gateway.request(method, "/mcp").key(&gateway.key);
        assert_eq!(call.send().await.status, 405, "{method}");
    }
    let unknown = request(&gateway, STATELESS, "resources/list", json!({})).send().await;
    assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (404, &json!(-32601)));
    let revision = request(&gateway, "2031-01-01", "tools/list", json!({})).send().await;
    assert_eq!(revision.status, 400, "{}", revision.text);
    let accepts = gateway.post("/mcp").key(&gateway.key).json(&json!({"jsonrpc": "2.0"}));
    assert_eq!(accepts.header("accept", "application/json").send().await.status, 406);
}

#[tokio::test]
async fn many_calls_at_once_each_get_their_own_answer() {
    let gateway = Gateway::start().await;
    let calls = (0..40).map(async |number| {
        let arguments = json!({"prompt": format!("number {number}.")});
        let answer = result(&gateway, STATELESS, "tools/call", call("tested", &arguments)).await;
        assert!(text(&answer).contains(&format!("number {number}.")), "{answer}");
    });
    join_all(calls).await;
    poll_until("an end of all of them", async || {
        let tasks = gateway.recent_tasks().await;
        tasks.iter().all(|task| task["status"] == "completed").then_some(())
    })
    .await;
}
