//! Idempotency keys (row D6) and conversations (row X7) are scoped to one surface: the tenant's API, one token of an
//! agent's webhook, or one channel.

use serde_json::{Value, json};

use crate::support::{Answer, Call, Gateway, Setup};

const TOKEN: &str = "a token of the form";

/// A route to the same agent. Each payload has a thread and a prompt.
#[derive(Debug, Clone)]
enum Route {
    Webhook,
    Invoke,
    AgentWebhook(String),
    Channel(String),
    /// A channel without verification.
    UnverifiedChannel(String),
}

impl Route {
    fn send(&self, gateway: &Gateway, body: &Value) -> Call {
        match self {
            Self::Webhook => gateway.webhook("&asynchronous=true").json(body),
            Self::Invoke => {
                let input = json!({"id": body["task_id"], "input": {"text": body["prompt"]}});
                gateway.post_to_agent("invoke/async").json(&input)
            }
            Self::AgentWebhook(token) => {
                gateway.post(&format!("/api/webhooks/agents/{token}")).json(body)
            }
            Self::Channel(path) => gateway.post(path).header("x-webhook-token", TOKEN).json(body),
            Self::UnverifiedChannel(path) => gateway.post(path).json(body),
        }
    }

    /// Sends a message in a thread; returns the task, and how many earlier messages of the thread the agent saw.
    async fn say(&self, gateway: &Gateway, thread: &str, text: &str) -> (String, u64) {
        let body = json!({"task_id": thread, "prompt": text});
        let task = self.send(gateway, &body).expect(200).await.task_id();
        let result = gateway.wait_for_end(&task).await["result"].as_str().unwrap().to_owned();
        let report: Value = serde_json::from_str(&result).unwrap();
        (task, report["earlier_messages"].as_u64().unwrap_or(0))
    }
}

/// A gateway whose agent has a mapper that reads `task_id` and `prompt`, so that its webhook supports them too.
async fn start() -> Gateway {
    let mapper = "zapier-form".parse().unwrap();
    let gateway = Setup::new().agent(|agent| agent.mapper = Some(mapper)).start().await;
    gateway.store_secret("form", TOKEN, false).await;
    gateway
}

async fn channel(gateway: &Gateway, name: &str, more: Value) -> String {
    let mut definition = json!({
        "name": name, "agent": "tested", "verifier": "zapier-form", "mapper": "zapier-form",
        "secrets": {"secret": "form"},
    });
    for (field, value) in more.as_object().unwrap() {
        definition[field] = value.clone();
    }
    gateway.apply_channel(definition).await
}

/// Rotates the agent's webhook token and returns the new one.
async fn rotate(gateway: &Gateway) -> String {
    let agent = gateway.agent.parse().unwrap();
    let token = gateway.folder.webhooks("").rotate(gateway.tenant, agent).await.unwrap();
    token.reveal().to_owned()
}

/// One route for each kind of surface, and two channels.
async fn routes(gateway: &Gateway) -> Vec<Route> {
    vec![
        Route::Webhook,
        Route::AgentWebhook(gateway.token.clone()),
        Route::Channel(channel(gateway, "one", json!({})).await),
        Route::Channel(channel(gateway, "other", json!({})).await),
    ]
}

/// Asserts that the answer is for a new task and reveals nothing about this one.
fn assert_reveals_nothing(answer: &Answer, task: &str, said: &str) {
    assert_ne!(answer.task_id(), task, "{said}");
    let reported = format!("{:?} {}", answer.headers, answer.text);
    assert!(!reported.contains(task), "{said}: {reported}");
    for header in ["idempotent-replayed", "idempotency-mismatch", "x-dedupe-source"] {
        assert_eq!(answer.header(header), None, "{said}");
    }
}

#[tokio::test]
async fn d6_a_guessed_key_gives_no_other_surfaces_task_and_a_claimed_one_keeps_nobody_out() {
    let gateway = start().await;
    let routes = routes(&gateway).await;
    for (place, owner) in routes.iter().enumerate() {
        for (other, stranger) in routes.iter().enumerate().filter(|(other, _)| *other != place) {
            let (key, said) =
                (format!("order-{place}-{other}"), format!("{owner:?}, {stranger:?}"));
            let (private, guess) = (json!({"prompt": "private"}), json!({"prompt": "a guess"}));
            let own = owner.send(&gateway, &private).idempotent(&key).expect(200).await;
            let guessed = stranger.send(&gateway, &guess).idempotent(&key).expect(200).await;
            assert_reveals_nothing(&guessed, &own.task_id(), &said);
            // The key belongs to the second caller on its own surface, and still to the first one on its own.
            for (route, body, first) in [(stranger, &guess, &guessed), (owner, &private, &own)] {
                let again = route.send(&gateway, body).idempotent(&key).expect(200).await;
                assert_eq!(again.task_id(), first.task_id(), "{said}");
                assert_eq!(again.header("idempotent-replayed"), Some("true"), "{said}");
            }
        }
    }
}

#[tokio::test]
async fn d6_the_ways_of_the_api_share_its_keys() {
    let gateway = start().await;
    let body = json!({"prompt": "hi"});
    let first = Route::Webhook.send(&gateway, &body).idempotent("k").expect(200).await;
    let other = Route::Invoke.send(&gateway, &body).idempotent("k").expect(422).await;
    assert!(!format!("{:?} {}", other.headers, other.text).contains(&first.task_id()));
    assert_eq!(gateway.stored_task_count().await, 1);
}

#[tokio::test]
async fn d6_a_token_that_replaces_another_one_begins_with_no_keys_and_no_conversations() {
    let gateway = start().await;
    let before = Route::AgentWebhook(gateway.token.clone());
    let body = json!({"prompt": "private", "task_id": "chat"});
    let own = before.send(&gateway, &body).idempotent("k").expect(200).await;
    gateway.wait_for_end(&own.task_id()).await;
    let after = Route::AgentWebhook(rotate(&gateway).await);
    before.send(&gateway, &body).idempotent("k").expect(404).await;
    let guessed = after.send(&gateway, &json!({"prompt": "x"})).idempotent("k").expect(200).await;
    assert_reveals_nothing(&guessed, &own.task_id(), "the token after");
    assert_eq!(after.say(&gateway, "chat", "what was said?").await.1, 0);
    assert_eq!(after.say(&gateway, &own.task_id(), "and there?").await.1, 0);
    assert_eq!(after.say(&gateway, "chat", "and now?").await.1, 1);
}

#[tokio::test]
async fn d6_a_mismatch_names_the_task_to_a_token_and_to_nobody_else() {
    let gateway = start().await;
    for route in routes(&gateway).await {
        let first =
            route.send(&gateway, &json!({"prompt": "one"})).idempotent("k").expect(200).await;
        let other = route.send(&gateway, &json!({"prompt": "two"})).idempotent("k").send().await;
        if matches!(route, Route::AgentWebhook(_)) {
            assert_eq!((other.status, other.task_id()), (200, first.task_id()));
            assert_eq!(other.header("idempotency-mismatch"), Some("true"));
            continue;
        }
        assert_eq!(other.status, 422, "{route:?}: {}", other.text);
        let reported = format!("{:?} {}", other.headers, other.text);
        assert!(!reported.contains(&first.task_id()), "{route:?}: {reported}");
    }
}

#[tokio::test]
async fn d6_of_strangers_on_an_open_channel_none_gets_or_takes_the_key_of_another() {
    let gateway = start().await;
    let open =
        Route::UnverifiedChannel(channel(&gateway, "open", json!({"verifier": "none"})).await);
    let mut tasks: Vec<String> = Vec::new();
    for text in ["private", "a guess", "private"] {
        let sent = open.send(&gateway, &json!({"prompt": text})).idempotent("order-1");
        let sent = sent.expect(200).await;
        for earlier in &tasks {
            assert_reveals_nothing(&sent, earlier, text);
        }
        tasks.push(sent.task_id());
    }
    // An invalid key is rejected there as everywhere.
    open.send(&gateway, &json!({})).idempotent("two words").expect(400).await;
    let verified = Route::Channel(channel(&gateway, "verified", json!({})).await);
    let sent = verified.send(&gateway, &json!({"prompt": "x"})).idempotent("order-1");
    assert_reveals_nothing(&sent.expect(200).await, &tasks[0], "another channel");
}

#[tokio::test]
async fn x7_a_conversation_is_joined_by_its_name_on_its_own_surface_only() {
    let gateway = start().await;
    let mut routes = routes(&gateway).await;
    routes.push(Route::UnverifiedChannel(
        channel(&gateway, "open", json!({"verifier": "none"})).await,
    ));
    for route in &routes {
        let (_, seen) = route.say(&gateway, "telegram:12345", "my PIN is 4711").await;
        assert_eq!(seen, 0, "{route:?}");
    }
    for route in &routes {
        let (_, seen) = route.say(&gateway, "telegram:12345", "what did I say?").await;
        assert_eq!(seen, 1, "{route:?}");
    }
    let (_, seen) = Route::Invoke.say(&gateway, "telegram:12345", "and here?").await;
    assert_eq!(seen, 2, "the API is one surface");
}

#[tokio::test]
async fn x7_an_earlier_tasks_id_goes_on_with_it_on_its_own_surface_only() {
    let gateway = start().await;
    let mut routes = routes(&gateway).await;
    routes.push(Route::UnverifiedChannel(
        channel(&gateway, "open", json!({"verifier": "none"})).await,
    ));
    let mut tasks = Vec::new();
    for route in &routes {
        tasks.push(route.say(&gateway, "chat", "private").await.0);
    }
    for (place, route) in routes.iter().enumerate() {
        for (of, task) in tasks.iter().enumerate().filter(|(of, _)| *of != place) {
            let (_, seen) = route.say(&gateway, task, "what was said?").await;
            assert_eq!(seen, 0, "{route:?} with a task of {:?}", routes[of]);
        }
        let (_, seen) = route.say(&gateway, &tasks[place], "what did I say?").await;
        assert_eq!(seen, 1, "{route:?}");
    }
}

#[tokio::test]
async fn x7_a_channel_shares_the_apis_conversations_where_its_file_says_so() {
    let gateway = start().await;
    let shared = json!({"threads": "shared"});
    let one = Route::Channel(channel(&gateway, "one", shared.clone()).await);
    let two = Route::Channel(channel(&gateway, "two", shared).await);
    let own = Route::Channel(channel(&gateway, "own", json!({"threads": "own"})).await);
    let (task, seen) = Route::Webhook.say(&gateway, "chat", "one").await;
    assert_eq!(seen, 0);
    assert_eq!(one.say(&gateway, "chat", "two").await.1, 1);
    assert_eq!(two.say(&gateway, &task, "three").await.1, 2);
    assert_eq!(Route::Invoke.say(&gateway, "chat", "four").await.1, 3);
    assert_eq!(own.say(&gateway, "chat", "five").await.1, 0);
    assert_eq!(Route::AgentWebhook(gateway.token.clone()).say(&gateway, "chat", "six").await.1, 0);
    // Its idempotency keys are still its own.
    let body = json!({"prompt": "x"});
    let first = Route::Webhook.send(&gateway, &body).idempotent("k").expect(200).await;
    let by_channel = one.send(&gateway, &json!({"prompt": "y"})).idempotent("k").expect(200).await;
    assert_reveals_nothing(&by_channel, &first.task_id(), "a channel that shares threads");

    channel(&gateway, "open", json!({"verifier": "none", "threads": "shared"})).await;
    let open = gateway.admin_request("GET", "/channels/open").expect(200).await.json();
    assert!(open["notes"][1].as_str().unwrap().contains("can join them"), "{open}");
    let wrong = json!({"name": "one", "agent": "tested", "verifier": "none", "threads": "all"});
    let refused = gateway.admin_request("PUT", "/channels/one").json(&wrong).expect(422).await;
    assert!(refused.detail().contains("all"), "{}", refused.text);
}

#[tokio::test]
async fn x7_where_a_path_takes_a_name_it_is_one_of_the_api() {
    let gateway = start().await;
    let open =
        Route::UnverifiedChannel(channel(&gateway, "open", json!({"verifier": "none"})).await);
    let (own, _) = Route::Webhook.say(&gateway, "chat", "mine").await;
    let (foreign, _) = open.say(&gateway, "chat", "of a stranger").await;
    assert_eq!(gateway.task("chat").await["id"], own.as_str());
    open.say(&gateway, "only there", "of a stranger").await;
    for below in ["", "/thread", "/thread/full"] {
        let target = format!("/v1/tasks/only%20there{below}");
        gateway.get(&target).key(&gateway.key).expect(404).await;
    }
    // By its id the tenant can read a task from any surface.
    assert_eq!(gateway.task(&foreign).await["thread_id"], "chat");
}
