//! A run goes on where it was when the process died: what was done is not done again, and what may have been done is
//! not repeated. The model and the tools keep their ledgers in this process, and the gateway is killed.

mod at_each_commit;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing::post;
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::Semaphore;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::web::Web;
use crate::support::{Client, GatewayProcess, Home, guest_path, poll_until, wardgate};

/// What tools have written.
#[derive(Debug, Clone)]
struct Ledger {
    /// Tool and key of each effect.
    effects: Arc<Mutex<Vec<(String, String)>>>,
    /// One permit for each answer that may be given.
    answers: Arc<Semaphore>,
}

impl Ledger {
    fn effects(&self) -> Vec<(String, String)> {
        self.effects.lock().unwrap().clone()
    }

    async fn wait_for_effects(&self, count: usize) {
        poll_until("the effect", async || (self.effects().len() >= count).then_some(())).await;
    }
}

async fn write(State(ledger): State<Ledger>, Path(tool): Path<String>, headers: HeaderMap) {
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    ledger.effects.lock().unwrap().push((tool, key));
    ledger.answers.acquire().await.unwrap().forget();
}

/// A data folder with an agent that has the tools of the guest `writes_ledger`, its model and its ledger.
struct Fixture {
    home: Home,
    model: ModelServer,
    ledger: Ledger,
    web: Web,
    /// More lines for the agent's file.
    agent: &'static str,
    /// What the model has the tools write.
    text: &'static str,
}

/// Runs at a time.
const RUNS: usize = 6;

/// As many answers of the ledger as any test needs.
const ALL: usize = 1_000_000;

impl Fixture {
    async fn new(answers: usize, agent: &'static str) -> Self {
        let ledger = Ledger { effects: Arc::default(), answers: Arc::new(Semaphore::new(answers)) };
        let routes = Router::new().route("/{tool}", post(write)).with_state(ledger.clone());
        let web = Web::serve(routes).await;
        let (home, model) = (Home::new(), ModelServer::start([Reply::Silence]).await);
        home.write(
            "settings.toml",
            &format!("[queue]\nruns_max = {RUNS}\nattempts_max = 1000\n{}", model.as_toml()),
        );
        Self { home, model, ledger, web, agent, text: "x" }
    }

    /// Calls of these tools in one turn.
    fn calls(&self, tools: &[&str]) -> Reply {
        let url = format!("http://127.0.0.1:{}", self.web.port);
        let arguments = json!({"url": url, "text": self.text}).to_string();
        let calls = tools.iter().map(|tool| ((*tool).to_owned(), arguments.clone()));
        Reply::Calls(calls.collect())
    }

    /// The model calls these tools, one a turn, and answers `done` then.
    fn script(&self, tools: &[&str]) {
        let mut replies: Vec<Reply> = tools.iter().map(|tool| self.calls(&[tool])).collect();
        replies.push(Reply::Text("done"));
        self.model.set_reply(Reply::ByTurn(Arc::new(replies)));
    }

    fn serve(&self) -> GatewayProcess {
        self.serve_with(&[])
    }

    /// Serves with these variables in its environment.
    fn serve_with(&self, environment: &[(&str, OsString)]) -> GatewayProcess {
        let settings = self.home.path().join("settings.toml");
        let settings = ["--settings", settings.to_str().unwrap()];
        GatewayProcess::serve_with_environment(&self.home, &settings, environment)
    }

    /// Starts a run and kills the gateway while its first call writes to the ledger. Returns the task.
    async fn kill_during_first_call(&self) -> String {
        let gateway = self.serve();
        let task = accepted(&self.agent(&gateway)).await;
        self.ledger.wait_for_effects(1).await;
        gateway.kill();
        task
    }

    /// The agent, created by the first call.
    fn agent(&self, gateway: &GatewayProcess) -> Client {
        let settings = self.home.path().join("settings.toml").to_str().unwrap().to_owned();
        let local = ["--data", self.home.path().to_str().unwrap(), "--settings", &settings];
        let run = |arguments: &[&str]| {
            let output = wardgate(&[arguments, &local].concat());
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        let port = self.web.port;
        let grants = format!(
            "[limits]\nwall_ms = 600000\n[[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nport = {port}\n\
             methods = [\"POST\"]\npath = \"/\"\nnetworks = [\"127.0.0.0/8\"]\n"
        );
        let grants = self.home.write("ledger.toml", &grants);
        let component = guest_path("writes_ledger");
        run(&[
            "plugin",
            "install",
            component.to_str().unwrap(),
            "--name",
            "ledger",
            "--grants",
            grants.to_str().unwrap(),
        ]);
        let definition = format!(
            "name = \"crashing\"\nmodel = \"scripted\"\ntools = [\"ledger\"]\n\
             allow_destructive_tools = true\n{}",
            self.agent
        );
        let file = self.home.write("agent.toml", &definition);
        let applied = run(&["agent", "apply", file.to_str().unwrap()]);
        let applied: Value = serde_json::from_slice(&applied).unwrap();
        let (_, token) = applied["webhook_path"].as_str().unwrap().rsplit_once('/').unwrap();
        Client::new(&gateway.listen, applied["agent_id"].as_str().unwrap(), &gateway.key, token)
    }
}

async fn accepted(agent: &Client) -> String {
    let call = agent.webhook("&asynchronous=true").json(&json!({"prompt": "go"}));
    call.expect(200).await.task_id()
}

/// The messages of a task's trace with this role.
async fn messages(agent: &Client, task: &str, role: &str) -> Vec<Value> {
    let thread = agent.thread(task).await;
    thread.into_iter().filter(|message| message["role"] == role).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_and_calls_that_have_ended_are_not_repeated() {
    let fixture = Fixture::new(ALL, "").await;
    // The third turn waits.
    let calls = ["record", "look"].map(|tool| fixture.calls(&[tool]));
    let replies = calls.into_iter().chain([Reply::Held(&Reply::Text("done"))]).collect();
    fixture.model.set_reply(Reply::ByTurn(Arc::new(replies)));
    let gateway = fixture.serve();
    let agent = fixture.agent(&gateway);
    let task = accepted(&agent).await;
    fixture.model.wait_for_requests(3).await;
    gateway.kill();

    let gateway = fixture.serve();
    let agent = fixture.agent(&gateway);
    fixture.model.wait_for_requests(4).await;
    fixture.model.release(2);
    let ended = agent.wait_for_end(&task).await;
    assert_eq!((&ended["status"], &ended["result"]), (&json!("completed"), &json!("done")));
    assert_eq!(ended["execution_attempts"], 2);
    let requests = fixture.model.requests();
    assert_eq!(requests.len(), 4, "only the turn that was under way is asked for again");
    assert_eq!(requests[2].0, requests[3].0, "with the same conversation, byte for byte");
    let effects = fixture.ledger.effects();
    assert_eq!(
        effects.iter().map(|(tool, _)| tool.as_str()).collect::<Vec<_>>(),
        ["record", "look"]
    );
    // The trace is whole, and each step is in it once.
    assert_eq!(messages(&agent, &task, "tool").await.len(), 2);
    assert_eq!(messages(&agent, &task, "assistant").await.len(), 3);
    let database = fixture.home.path().join("wardgate.db");
    gateway.terminate();
    let database = sqlx::sqlite::SqliteConnectOptions::new().filename(database);
    let mut database = database.connect().await.unwrap();
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM journal").fetch_one(&mut database).await.unwrap();
    assert_eq!(left, 0, "the journal goes with the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_may_have_changed_something_is_not_repeated_and_the_model_is_told() {
    let fixture = Fixture::new(0, "").await;
    fixture.script(&["record"]);
    let task = fixture.kill_during_first_call().await;

    let gateway = fixture.serve();
    let agent = fixture.agent(&gateway);
    let ended = agent.wait_for_end(&task).await;
    assert_eq!(ended["status"], "completed", "{ended}");
    assert_eq!(fixture.ledger.effects().len(), 1);
    let result = &messages(&agent, &task, "tool").await[0];
    assert_eq!(result["is_error"], true);
    assert!(result["content"].as_str().unwrap().contains("outcome is unknown"), "{result}");
    let (request, _) = fixture.model.requests().pop().unwrap();
    assert!(request.to_string().contains("outcome is unknown"), "{request}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_may_fail_on_an_unknown_outcome() {
    let fixture = Fixture::new(0, "on_unknown = \"fail\"\n").await;
    fixture.script(&["record"]);
    let task = fixture.kill_during_first_call().await;

    let gateway = fixture.serve();
    let ended = fixture.agent(&gateway).wait_for_end(&task).await;
    assert_eq!(ended["status"], "failed");
    assert!(ended["result"].as_str().unwrap().contains("outcome is unknown"), "{ended}");
    assert_eq!((fixture.ledger.effects().len(), fixture.model.requests().len()), (1, 1));
}

/// Waits until the task is paused, and returns the approval that it waits for.
async fn pending(agent: &Client, task: &str) -> Value {
    poll_until("the pause of a task", async || {
        (agent.task(task).await["status"] == "paused").then_some(())
    })
    .await;
    let listed = agent.get("/v1/approvals?status=pending").key(&agent.key).expect(200).await.json();
    let [approval] = &listed.as_array().unwrap()[..] else { panic!("one call: {listed}") };
    approval.clone()
}

async fn decide(agent: &Client, approval: &Value, decision: &str) {
    let target = format!("/v1/approvals/{}/{decision}", approval["id"].as_str().unwrap());
    agent.post(&target).key(&agent.key).expect(200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_may_decide_about_an_unknown_outcome_each_time_anew() {
    for (decision, effects) in [("approve", 2), ("deny", 1)] {
        let fixture = Fixture::new(0, "on_unknown = \"pause\"\n").await;
        fixture.script(&["record"]);
        let task = fixture.kill_during_first_call().await;

        let gateway = fixture.serve();
        let agent = fixture.agent(&gateway);
        let approval = pending(&agent, &task).await;
        assert_eq!(
            (&approval["tool_name"], &approval["outcome_is_unknown"]),
            (&json!("record"), &json!(true))
        );
        assert_eq!(fixture.ledger.effects().len(), 1, "not before somebody has decided");
        if decision == "approve" {
            // The call that is made again is interrupted too, and what was decided does not hold for a third one.
            decide(&agent, &approval, "approve").await;
            fixture.ledger.wait_for_effects(2).await;
            gateway.kill();
            let gateway = fixture.serve();
            let agent = fixture.agent(&gateway);
            let second = pending(&agent, &task).await;
            assert_ne!(second["id"], approval["id"]);
            decide(&agent, &second, "deny").await;
            assert_eq!(agent.wait_for_end(&task).await["status"], "completed");
            let [first, second] = &fixture.ledger.effects()[..] else { panic!("two effects") };
            assert_eq!(first, second, "with the same key");
        } else {
            decide(&agent, &approval, "deny").await;
            assert_eq!(agent.wait_for_end(&task).await["status"], "completed");
            let result = &messages(&agent, &task, "tool").await[0];
            assert!(result["content"].as_str().unwrap().contains("outcome is unknown"), "{result}");
        }
        assert_eq!(fixture.ledger.effects().len(), effects);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_task_survives_a_kill_and_its_call_is_made_once() {
    let fixture = Fixture::new(ALL, "tool_policies = { record = { policy = \"ask\" } }\n").await;
    fixture.script(&["record"]);
    let gateway = fixture.serve();
    let agent = fixture.agent(&gateway);
    let task = accepted(&agent).await;
    let before = pending(&agent, &task).await;
    gateway.kill();

    let gateway = fixture.serve();
    let agent = fixture.agent(&gateway);
    let after = pending(&agent, &task).await;
    let port = |url: &Value| url.as_str().unwrap().replace(&gateway.listen, "");
    assert_eq!(after["id"], before["id"]);
    let (_, before) = before["approve_url"].as_str().unwrap().split_once("/approvals/").unwrap();
    assert!(port(&after["approve_url"]).ends_with(before), "the link of before is still good");
    assert_eq!(fixture.ledger.effects().len(), 0);
    agent.post(&format!("/approvals/{before}")).expect(200).await;
    let ended = agent.wait_for_end(&task).await;
    assert_eq!((&ended["status"], &ended["execution_attempts"]), (&json!("completed"), &json!(1)));
    assert_eq!((fixture.ledger.effects().len(), fixture.model.requests().len()), (1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_changes_nothing_or_nothing_more_is_made_again_with_its_key() {
    for tool in ["look", "put"] {
        let fixture = Fixture::new(0, "").await;
        fixture.script(&[tool]);
        let task = fixture.kill_during_first_call().await;

        fixture.ledger.answers.add_permits(ALL);
        let gateway = fixture.serve();
        let agent = fixture.agent(&gateway);
        assert_eq!(agent.wait_for_end(&task).await["status"], "completed");
        let effects = fixture.ledger.effects();
        assert_eq!(effects.len(), 2, "{tool}");
        assert_eq!(effects[0], effects[1], "with the same key");
        assert_eq!(effects[0].1.len(), 32);
        assert_eq!(messages(&agent, &task, "tool").await[0]["is_error"], false);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_key_is_an_argument_is_made_again_with_it_and_the_model_does_not_see_it() {
    let fixture = Fixture::new(0, "idempotency_arguments = { pay = \"key\" }\n").await;
    fixture.script(&["pay"]);
    let task = fixture.kill_during_first_call().await;

    fixture.ledger.answers.add_permits(ALL);
    let gateway = fixture.serve();
    let agent = fixture.agent(&gateway);
    assert_eq!(agent.wait_for_end(&task).await["status"], "completed");
    let effects = fixture.ledger.effects();
    assert_eq!((effects.len(), &effects[0]), (2, &effects[1]), "with the same key");
    assert_eq!((effects[0].0.as_str(), effects[0].1.len()), ("pay", 32));
    let (request, _) = fixture.model.requests().pop().unwrap();
    let tools = request["tools"].as_array().unwrap().iter();
    let pay = tools.map(|tool| &tool["function"]).find(|tool| tool["name"] == "pay").unwrap();
    assert_eq!(pay["parameters"]["required"], json!(["url", "text"]));
    assert_eq!(pay["parameters"]["properties"].get("key"), None);
    assert!(!messages(&agent, &task, "tool").await[0]["arguments"].to_string().contains("key"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_only_read_are_made_at_the_same_time_and_others_in_their_order() {
    let fixture = Fixture::new(0, "").await;
    let tools = ["look", "look", "look", "record", "put"];
    let replies = vec![fixture.calls(&tools), Reply::Text("done")];
    fixture.model.set_reply(Reply::ByTurn(Arc::new(replies)));
    let gateway = fixture.serve();
    let agent = fixture.agent(&gateway);
    let task = accepted(&agent).await;
    // Three have begun before one has ended, and no other.
    fixture.ledger.wait_for_effects(3).await;
    fixture.ledger.answers.add_permits(2);
    let called = || fixture.ledger.effects().into_iter().map(|(tool, _)| tool).collect::<Vec<_>>();
    assert_eq!(called(), ["look", "look", "look"]);
    fixture.ledger.answers.add_permits(1);
    fixture.ledger.wait_for_effects(4).await;
    assert_eq!(called()[3], "record");
    fixture.ledger.answers.add_permits(2);
    assert_eq!(agent.wait_for_end(&task).await["status"], "completed");
    assert_eq!(called(), tools);
    let results = messages(&agent, &task, "tool").await;
    let names: Vec<_> =
        results.iter().map(|result| result["tool_name"].as_str().unwrap()).collect();
    assert_eq!(names, tools, "in the order of the calls");
    let (request, _) = fixture.model.requests().pop().unwrap();
    let roles = request["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["role"].as_str().unwrap());
    assert_eq!(roles.filter(|role| *role == "tool").count(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_secret_is_not_stored_is_not_made_without_it() {
    const TOKEN: &str = "hunter2hunter2";
    let mut fixture = Fixture::new(0, "").await;
    fixture.text = "set the password to hunter2hunter2";
    let replies = vec![fixture.calls(&["look", "record"]), Reply::Text("done")];
    fixture.model.set_reply(Reply::ByTurn(Arc::new(replies)));
    let gateway = fixture.serve();
    let body = json!({"prompt": "go", "user_tokens": {"m": TOKEN}});
    let call = fixture.agent(&gateway).webhook("&asynchronous=true").json(&body);
    let task = call.expect(200).await.task_id();
    fixture.ledger.wait_for_effects(1).await;
    gateway.kill();
    assert!(
        !fixture.home.database_bytes().windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes())
    );

    fixture.ledger.answers.add_permits(ALL);
    let gateway = fixture.serve();
    let agent = fixture.agent(&gateway);
    assert_eq!(agent.wait_for_end(&task).await["status"], "completed");
    assert_eq!(
        fixture.ledger.effects().len(),
        1,
        "neither with the token nor with what replaces it"
    );
    for result in messages(&agent, &task, "tool").await {
        assert!(result["content"].as_str().unwrap().contains("contains a secret"), "{result}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_journal_cannot_be_read_does_not_go_on() {
    for damage in ["UPDATE journal SET text = '{'", "DELETE FROM journal WHERE position = 0"] {
        let fixture = Fixture::new(0, "").await;
        fixture.script(&["record"]);
        let task = fixture.kill_during_first_call().await;
        let database = fixture.home.path().join("wardgate.db");
        let database = sqlx::sqlite::SqliteConnectOptions::new().filename(database);
        let mut database = database.connect().await.unwrap();
        sqlx::query(damage).execute(&mut database).await.unwrap();
        database.close().await.unwrap();

        let gateway = fixture.serve();
        let ended = fixture.agent(&gateway).wait_for_end(&task).await;
        assert_eq!(ended["status"], "failed", "{damage}");
        assert!(ended["result"].as_str().unwrap().contains("cannot be read"), "{ended}");
        assert_eq!(fixture.ledger.effects().len(), 1);
    }
}

/// The number of kills: 5, or what `cargo xtask crash-agents --rounds` says.
fn rounds() -> u64 {
    let rounds = std::env::var_os("CRASH_ROUNDS");
    rounds.map_or(5, |rounds| rounds.to_str().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_it_is_killed_each_effect_happens_once_and_each_turn_is_asked_for_once() {
    let fixture = Fixture::new(ALL, "").await;
    let tools = ["record", "look", "put", "record"];
    fixture.script(&tools);
    let mut gateway = fixture.serve();
    let mut agent = fixture.agent(&gateway);
    let mut tasks = Vec::new();
    for round in 0..rounds() {
        for _ in 0..RUNS {
            tasks.push(accepted(&agent).await);
        }
        // Some instant from before the first turn to after the last one, other ones in each round.
        let micros = (round * 7_919 + u64::from(std::process::id())) % 60_000;
        tokio::time::sleep(Duration::from_micros(micros)).await;
        gateway.kill();
        gateway = fixture.serve();
        agent = fixture.agent(&gateway);
    }
    for task in &tasks {
        let ended = agent.wait_for_end(task).await;
        assert_eq!(
            (&ended["status"], &ended["result"]),
            (&json!("completed"), &json!("done")),
            "{ended}"
        );
        let calls = messages(&agent, task, "tool").await;
        assert_eq!(calls.len(), tools.len(), "each step is in the trace once");
    }

    let mut effects = BTreeMap::<(String, String), usize>::new();
    for effect in fixture.ledger.effects() {
        *effects.entry(effect).or_default() += 1;
    }
    let (mut recorded, mut repeated) = (0, 0);
    for ((tool, key), count) in &effects {
        match tool.as_str() {
            "record" => assert_eq!(*count, 1, "{key}: an effect that must not be repeated"),
            _ => repeated += count - 1,
        }
        recorded += usize::from(tool == "record");
    }
    let kills = usize::try_from(rounds()).unwrap();
    let turns = tasks.len() * (tools.len() + 1);
    let asked = fixture.model.requests().len();
    // A kill repeats what is under way: at most one turn or call of each run.
    assert!((turns..=turns + kills * RUNS).contains(&asked), "{asked} turns asked for, of {turns}");
    assert!(repeated <= kills * RUNS, "{repeated} calls repeated");
    let unknown = tasks.len() * 2 - recorded;
    assert!(unknown <= kills * RUNS, "{unknown} effects never happened");
    println!(
        "{kills} kills, {} runs: {asked} turns asked for, of {turns}; {repeated} harmless calls repeated; \
         {recorded} effects that must not be repeated, each once; {unknown} never happened",
        tasks.len()
    );
}
