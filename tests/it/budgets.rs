//! What runs may spend: turns stop at a budget of the run, of the agent's day and of the tenant's day, and what they
//! have cost can be read.

use std::time::Duration;

use serde_json::{Value, json};
use wardgate::clock::{Clock, Timestamp};
use wardgate::settings::{Price, Settings};
use wardgate::tenants::Budget;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Gateway, Setup, agent, poll_until};

/// A turn of the scripted model reports 11 tokens of input and 7 of output.
const TURN: u64 = 18;

const CALL: Reply = Reply::Tool("calculate", r#"{"expression":"1"}"#);

/// One millionth for a token of input, two for one of output: a turn costs 25.
const PRICE: Price = Price {
    input: 1_000_000,
    output: 2_000_000,
    cache_read: None,
    cache_write: None,
    reasoning: None,
};

fn setup(server: &ModelServer, budget: Budget) -> Setup {
    Setup::new().model(server).agent(|agent| agent.budget = budget)
}

fn with_price(settings: &mut Settings) {
    settings.models.get_mut("scripted").unwrap().price = Some(PRICE);
}

/// Runs a task that must fail, and returns the reason.
async fn failure(gateway: &Gateway) -> String {
    let task = gateway.ask(json!({"prompt": "hello"})).await.json();
    assert_eq!(task["status"], "failed", "{task}");
    task["result"].as_str().unwrap().to_owned()
}

async fn usage(gateway: &Gateway) -> Vec<Value> {
    gateway.admin_request("GET", "/usage").expect(200).await.json().as_array().unwrap().clone()
}

#[tokio::test]
async fn a_run_stops_at_its_budget_of_tokens_and_keeps_what_it_has_done() {
    let server = ModelServer::start([CALL]).await;
    let budget = Budget { tokens_max: Some(2 * TURN + 1), ..Budget::default() };
    let gateway = setup(&server, budget).start().await;
    let answer = gateway.ask(json!({"prompt": "hello"})).await;
    let reason = answer.json()["result"].as_str().unwrap().to_owned();
    assert_eq!(answer.json()["status"], "failed");
    assert!(reason.contains("the run has used 54 tokens") && reason.contains("of 37"), "{reason}");
    assert_eq!(server.requests().len(), 3, "the turn that goes over it is the last");
    let thread = gateway.thread(&answer.task_id()).await;
    assert_eq!(thread.iter().filter(|message| message["role"] == "tool").count(), 3);
}

#[tokio::test]
async fn the_settings_budget_holds_where_the_agents_is_larger() {
    let server = ModelServer::start([CALL]).await;
    let budget = Budget { tokens_max: Some(1_000_000), ..Budget::default() };
    let setup = setup(&server, budget).settings(|settings| settings.agent.tokens_max = TURN);
    let reason = failure(&setup.start().await).await;
    assert!(reason.contains("of 18 allowed (tokens_max)"), "{reason}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_run_stops_at_its_budget_of_money_which_needs_a_price() {
    let server = ModelServer::start([CALL]).await;
    let budget = Budget { cost_micros_max: Some(50), ..Budget::default() };
    let gateway = setup(&server, budget.clone()).settings(with_price).start().await;
    let reason = failure(&gateway).await;
    assert!(
        reason.contains("cost 50 millionths") && reason.contains("cost_micros_max"),
        "{reason}"
    );
    assert_eq!(server.requests().len(), 2);

    let unpriced = setup(&server, budget).start().await;
    let reason = failure(&unpriced).await;
    assert!(reason.contains("has no price"), "{reason}");
    assert_eq!(server.requests().len(), 2, "no turn whose cost nobody would know");
}

#[tokio::test]
async fn an_agents_day_ends_its_runs_until_the_next_day() {
    let server = ModelServer::start([Reply::Text("done")]).await;
    let clock = Clock::manual(Timestamp::from_micros(1_800_000_000_000_000));
    let budget = Budget { tokens_per_day_max: Some(TURN + 1), ..Budget::default() };
    let gateway = setup(&server, budget).clock(&clock).start().await;
    for _ in 0..2 {
        assert_eq!(gateway.ask(json!({"prompt": "hello"})).await.json()["result"], "done");
    }
    let reason = failure(&gateway).await;
    assert!(reason.contains("today used 36 tokens") && reason.contains("00:00 UTC"), "{reason}");
    let other = gateway.agent_with(|agent| agent.model = "scripted".to_owned()).await;
    assert_eq!(other.ask(json!({"prompt": "hello"})).await.json()["result"], "done");

    clock.advance(Duration::from_secs(86_400));
    assert_eq!(gateway.ask(json!({"prompt": "hello"})).await.json()["result"], "done");
}

#[tokio::test]
async fn a_tenants_day_counts_all_its_agents_and_no_other_tenant() {
    let server = ModelServer::start([Reply::Text("done")]).await;
    let setup = setup(&server, Budget::default());
    let limited = |settings: &mut Settings| settings.agent.tenant_tokens_per_day_max = 2 * TURN;
    let gateway = setup.settings(limited).start().await;
    let second = gateway.agent_with(|agent| agent.model = "scripted".to_owned()).await;
    for client in [&*gateway, &second] {
        assert_eq!(client.ask(json!({"prompt": "hello"})).await.json()["result"], "done");
    }
    let reason = failure(&gateway).await;
    assert!(reason.contains("tenant_tokens_per_day_max"), "{reason}");

    let mut definition = agent("another's");
    definition.model = "scripted".to_owned();
    let tenant = gateway.new_tenant("another").await;
    let another = gateway.new_agent(tenant, definition).await;
    assert_eq!(another.ask(json!({"prompt": "hello"})).await.json()["result"], "done");
}

#[tokio::test]
async fn runs_at_the_same_time_do_not_spend_a_day_together() {
    let server = ModelServer::start([Reply::Held(&Reply::Text("done"))]).await;
    let budget = Budget { tokens_per_day_max: Some(TURN + 1), ..Budget::default() };
    let gateway = setup(&server, budget).start().await;
    let mut tasks = Vec::new();
    for _ in 0..6 {
        tasks.push(gateway.start_run("hello").await);
    }
    // Each turn may take all that is left, so one is under way at a time.
    for turn in 1..=2 {
        poll_until("the turn", async || (server.requests().len() == turn).then_some(())).await;
        server.release(1);
    }
    let mut statuses = Vec::new();
    for task in &tasks {
        statuses.push(gateway.wait_for_end(task).await["status"].as_str().unwrap().to_owned());
    }
    statuses.sort();
    assert_eq!(statuses, ["completed", "completed", "failed", "failed", "failed", "failed"]);
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_turn_that_is_stopped_counts_and_so_does_a_text_that_broke_off() {
    const HALF: &str = "half of an answer that nobody will read to its end, as it breaks off here";
    let server = ModelServer::start([Reply::Paused(HALF, "")]).await;
    let gateway = setup(&server, Budget::default()).start().await;
    let task = gateway.start_run("hello").await;
    server.wait_for_requests(1).await;
    gateway.stop_task(&task).await;
    let recorded = poll_until("its spending", async || usage(&gateway).await.pop()).await;
    assert_eq!((&recorded["turns"], &recorded["estimated_turns"]), (&json!(1), &json!(1)));
    assert!(recorded["budget_tokens"].as_u64().unwrap() > 0, "{recorded}");

    let server = ModelServer::start([Reply::Broken(HALF), Reply::Text("done")]).await;
    let gateway = setup(&server, Budget::default()).start().await;
    gateway.ask(json!({"prompt": "hello"})).await;
    let recorded = usage(&gateway).await.pop().unwrap();
    assert_eq!((&recorded["turns"], &recorded["estimated_turns"]), (&json!(1), &json!(1)));
    assert!(recorded["budget_tokens"].as_u64().unwrap() > TURN + 15, "{recorded}");
    // Nothing but reasoning has arrived.
    const THINKING: &str = "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"Hm.\"}}]}\n\n";
    let headers: &'static [(&str, &str)] = &[("content-type", "text/event-stream")];
    let server = ModelServer::start([Reply::Raw(headers, THINKING.as_bytes().into())]).await;
    let gateway = setup(&server, Budget::default()).start().await;
    failure(&gateway).await;
    let recorded = poll_until("its spending", async || usage(&gateway).await.pop()).await;
    assert!(recorded["budget_tokens"].as_u64().unwrap() > 9, "of three attempts: {recorded}");
    // What is refused at once costs nothing.
    let server = ModelServer::start([Reply::Error(401, "no")]).await;
    let gateway = setup(&server, Budget::default()).start().await;
    failure(&gateway).await;
    assert_eq!(usage(&gateway).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_turn_reserves_all_that_it_may_spend() {
    let server = ModelServer::start([Reply::Held(&Reply::Text("done"))]).await;
    // Less than two turns of 16,384 tokens each may spend.
    let budget = Budget { tokens_per_day_max: Some(30_000), ..Budget::default() };
    let large = |settings: &mut Settings| {
        settings.models.get_mut("scripted").unwrap().output_tokens_max = Some(16_384);
    };
    let gateway = setup(&server, budget).settings(large).start().await;
    let tasks = [gateway.start_run("hello").await, gateway.start_run("hello").await];
    for turn in 1..=2 {
        server.wait_for_requests(turn).await;
        assert_eq!(server.requests().len(), turn, "one under way at a time");
        server.release(1);
    }
    for task in tasks {
        assert_eq!(gateway.wait_for_end(&task).await["status"], "completed");
    }
}

#[tokio::test]
async fn counts_that_cannot_be_right_are_bounded() {
    const TOO_MANY: &str = concat!(
        r#"data: {"choices":[{"delta":{"content":"done"},"finish_reason":"stop"}]}"#,
        "\n\n",
        r#"data: {"choices":[],"usage":{"prompt_tokens":18446744073709551615,"completion_tokens":7}}"#,
        "\n\ndata: [DONE]\n\n",
    );
    let headers: &'static [(&str, &str)] = &[("content-type", "text/event-stream")];
    let server = ModelServer::start([Reply::Raw(headers, TOO_MANY.as_bytes().into())]).await;
    let gateway = setup(&server, Budget::default()).start().await;
    assert_eq!(gateway.ask(json!({"prompt": "hello"})).await.json()["result"], "done");
    let recorded = usage(&gateway).await.pop().unwrap();
    assert_eq!(recorded["budget_tokens"], 2 * 128_000 + 7, "twice the context of the model");
    assert_eq!(recorded["estimated_turns"], 1);
}

#[tokio::test]
async fn the_calls_and_the_time_of_a_run_have_budgets_too() {
    let server = ModelServer::start([CALL]).await;
    let budget = Budget { tool_calls_max: Some(2), ..Budget::default() };
    let reason = failure(&setup(&server, budget).start().await).await;
    assert!(reason.contains("more than 2 tool calls"), "{reason}");

    let silent = ModelServer::start([Reply::Silence]).await;
    let budget = Budget { seconds_max: Some(1), ..Budget::default() };
    let reason = failure(&setup(&silent, budget).start().await).await;
    assert!(reason.contains("within 1 seconds"), "{reason}");
}

#[tokio::test]
async fn what_was_spent_is_shown_by_turn_and_by_day() {
    let server = ModelServer::start([CALL, Reply::Text("done")]).await;
    let gateway = setup(&server, Budget::default()).settings(with_price).start().await;
    let answer = gateway.ask(json!({"prompt": "hello"})).await;
    let thread = gateway.thread(&answer.task_id()).await;
    let costs: Vec<&Value> = thread
        .iter()
        .filter(|message| message["role"] == "assistant")
        .map(|message| &message["metrics"]["cost_micros"])
        .collect();
    assert_eq!(costs, [25, 25]);

    let [day] = usage(&gateway).await.try_into().unwrap();
    assert_eq!(day["agent_id"], gateway.agent);
    assert_eq!((&day["turns"], &day["cost_micros"]), (&json!(2), &json!(50)));
    assert_eq!((&day["budget_tokens"], &day["unpriced_turns"]), (&json!(36), &json!(0)));
    assert_eq!(day["tokens"]["fresh_input"], 22);
    assert_eq!(day["tokens"]["output"], 14);
    for days in ["0", "401", "x"] {
        gateway.admin_request("GET", &format!("/usage?days={days}")).expect(422).await;
    }
}

#[tokio::test]
async fn the_offline_model_costs_nothing() {
    let gateway = Gateway::start().await;
    gateway.ask(json!({"prompt": "hello"})).await;
    assert_eq!(usage(&gateway).await, Vec::<Value>::new());
}
