//! Rows D6 and X24 against a model: whatever requests arrive concurrently, at any time, before or after a restart,
//! an idempotency key of an agent's surface has one task in 24 hours, and every request with the key refers to it.

use std::collections::HashMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use wardgate::clock::{Clock, Timestamp};

use crate::support::{Answer, Client, Gateway, Setup};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const AGENTS: usize = 2;

/// The way in which a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryPoint {
    Synchronous,
    Asynchronous,
    /// The agent's own webhook.
    AgentWebhook,
    /// A channel of the agent.
    Channel,
}

/// A namespace of idempotency keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Surface {
    Api,
    Webhook,
    Channel,
}

impl EntryPoint {
    fn surface(self) -> Surface {
        match self {
            Self::Synchronous | Self::Asynchronous => Surface::Api,
            Self::AgentWebhook => Surface::Webhook,
            Self::Channel => Surface::Channel,
        }
    }
}

/// The token of the channels' senders.
const TOKEN: &str = "a token of the form";

/// The content of a request. Rejected requests use the same keys, and must not claim them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Payload(u8),
    BrokenJson,
    WrongParameter,
    WrongKey,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    agent: usize,
    /// The `Idempotency-Key`; without one, every request is a separate task.
    key: Option<u8>,
    entry_point: EntryPoint,
    content: Content,
}

#[derive(Debug, Clone)]
enum Step {
    /// These requests arrive concurrently.
    Send(Vec<Request>),
    Wait(Duration),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let entry_point = select(vec![
        EntryPoint::Synchronous,
        EntryPoint::Asynchronous,
        EntryPoint::AgentWebhook,
        EntryPoint::Channel,
    ]);
    let content = prop_oneof![
        6 => (0..2_u8).prop_map(Content::Payload),
        1 => select(vec![Content::BrokenJson, Content::WrongParameter, Content::WrongKey]),
    ];
    let key = prop_oneof![8 => (0..2_u8).prop_map(Some), 1 => Just(None)];
    let request =
        (0..AGENTS, key, entry_point, content).prop_map(|(agent, key, entry_point, content)| {
            Request { agent, key, entry_point, content }
        });
    let instant = Duration::from_micros(1);
    let durations = vec![instant, HOUR, 12 * HOUR, DAY - HOUR, DAY - instant, DAY, DAY + instant];
    prop_oneof![
        6 => vec(request, 1..9).prop_map(Step::Send),
        3 => select(durations).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

impl Request {
    /// Whether the gateway treats both as the same request. A request for another kind of response is a different
    /// one.
    fn is_same_request(&self, other: &Self) -> bool {
        self.entry_point == other.entry_point && self.content == other.content
    }

    /// The status of a request that is rejected before its idempotency key is read.
    fn rejection_status(&self) -> Option<u16> {
        match (self.content, self.entry_point) {
            (Content::Payload(_), _) => None,
            (Content::WrongKey, EntryPoint::AgentWebhook) => Some(404),
            (Content::WrongKey, EntryPoint::Channel) => Some(401),
            // A channel's plugins accept any body.
            (Content::WrongParameter, EntryPoint::Channel) => None,
            (Content::WrongKey, _) => Some(403),
            // The agent's own webhook has no parameters, so the body is broken JSON instead.
            (Content::BrokenJson | Content::WrongParameter, _) => Some(400),
        }
    }

    async fn send(self, callers: [(Client, String); AGENTS]) -> Answer {
        let (mut caller, hook) = callers[self.agent].clone();
        let mut token = TOKEN.to_owned();
        if self.content == Content::WrongKey {
            for credential in [&mut caller.key, &mut caller.token, &mut token] {
                credential.push('x');
            }
        }
        let (body, more) = match self.content {
            Content::Payload(number) => (json!({"n": number}).to_string(), ""),
            Content::WrongParameter if self.entry_point != EntryPoint::AgentWebhook => {
                ("{}".to_owned(), "&json=maybe")
            }
            _ => ("{\"n\":".to_owned(), ""),
        };
        let call = match self.entry_point {
            EntryPoint::Synchronous => caller.webhook(more),
            EntryPoint::Asynchronous => caller.webhook(&format!("&asynchronous=true{more}")),
            EntryPoint::AgentWebhook => caller.trigger(),
            EntryPoint::Channel => caller.post(&hook).header("x-webhook-token", &token),
        };
        let call = call.text("application/json", body);
        match self.key {
            Some(key) => call.idempotent(&format!("key-{key}")).send().await,
            None => call.send().await,
        }
    }
}

/// The task that owns a key, and the request that created it.
#[derive(Debug, Clone)]
struct Owner {
    task: String,
    request: Request,
    since: Duration,
}

/// The state that the contract implies.
#[derive(Debug, Default)]
struct Model {
    now: Duration,
    owners: HashMap<(usize, Surface, u8), Owner>,
    tasks: Vec<(usize, String)>,
}

impl Model {
    /// Checks that these responses to concurrent requests are possible in some order of acceptance.
    fn check(&mut self, answered: &[(Request, Answer)]) -> Result<(), TestCaseError> {
        let is_first = |answer: &Answer| {
            answer.status == 200 && answer.header("idempotent-replayed").is_none()
        };
        // Those that created a task come first: the others may have been accepted after them.
        let (first, rest): (Vec<_>, Vec<_>) =
            answered.iter().partition(|(_, answer)| is_first(answer));
        for (request, answer) in first {
            prop_assert_eq!(request.rejection_status(), None, "{:?} was taken", request);
            let task = answer.task_id();
            let known = self.tasks.iter().any(|(_, known)| *known == task);
            prop_assert!(!known, "{:?} was told a task that is not new", request);
            if let Some(key) = request.key {
                let owner = self.owner(request, key);
                prop_assert!(owner.is_none(), "{:?} is a second task beside {:?}", request, owner);
                let owner = Owner { task: task.clone(), request: *request, since: self.now };
                self.owners.insert((request.agent, request.entry_point.surface(), key), owner);
            }
            self.tasks.push((request.agent, task));
        }
        rest.into_iter().try_for_each(|(request, answer)| self.check_repeated(request, answer))
    }

    /// The current owner of the key.
    fn owner(&self, request: &Request, key: u8) -> Option<&Owner> {
        let owner = self.owners.get(&(request.agent, request.entry_point.surface(), key))?;
        (self.now - owner.since < DAY).then_some(owner)
    }

    /// Checks a response to a request that created no task.
    fn check_repeated(&self, request: &Request, answer: &Answer) -> Result<(), TestCaseError> {
        let message = format!("{request:?}: {} {}", answer.status, answer.text);
        if let Some(status) = request.rejection_status() {
            prop_assert_eq!(answer.status, status, "{}", message);
            return Ok(());
        }
        let owner = request.key.and_then(|key| self.owner(request, key));
        let owner =
            owner.ok_or_else(|| TestCaseError::fail(format!("nobody was first: {message}")))?;
        let same = request.is_same_request(&owner.request);
        match (request.entry_point, same, answer.status) {
            (EntryPoint::AgentWebhook, ..) => {
                let body = json!({"success": true, "task_id": owner.task});
                prop_assert_eq!((answer.status, answer.json()), (200, body), "{}", message);
                let mismatch = (!same).then_some("true");
                prop_assert_eq!(answer.header("idempotency-mismatch"), mismatch, "{}", message);
            }
            (_, false, status) => {
                prop_assert_eq!(status, 422, "{}", message);
                return Ok(());
            }
            (EntryPoint::Synchronous, true, 409) => {
                prop_assert!(answer.header("retry-after").is_some(), "{}", message);
                let location = format!("/v1/tasks/{}", owner.task);
                prop_assert_eq!(answer.header("location"), Some(&*location), "{}", message);
                return Ok(());
            }
            (EntryPoint::Synchronous, true, status) => {
                prop_assert_eq!((status, &answer.json()["id"]), (200, &json!(owner.task)));
            }
            (EntryPoint::Channel, true, status) => {
                let body = json!({"status": "Started", "task_id": owner.task});
                prop_assert_eq!((status, answer.json()), (200, body), "{}", message);
            }
            (EntryPoint::Asynchronous, true, status) => {
                prop_assert_eq!((status, answer.json()), (200, json!({"status": "Started"})));
            }
        }
        prop_assert_eq!(answer.task_id(), owner.task.clone(), "{}", message);
        prop_assert_eq!(answer.header("idempotent-replayed"), Some("true"), "{}", message);
        Ok(())
    }
}

/// A gateway with two agents, which can be restarted.
struct Fixture {
    clock: Clock,
    gateway: Gateway,
    /// Each with the path of the agent's channel.
    callers: [(Client, String); AGENTS],
}

async fn channel(gateway: &Gateway, name: &str, caller: &Client) -> String {
    let definition = json!({
        "name": name, "agent": caller.agent, "verifier": "zapier-form", "mapper": "zapier-form",
        "secrets": {"secret": "form"},
    });
    gateway.apply_channel(definition).await
}

impl Fixture {
    async fn start() -> Self {
        let clock = Clock::manual(Timestamp::from_micros(1_769_647_246_000_000));
        let gateway = Setup::new().clock(&clock).start().await;
        gateway.store_secret("form", TOKEN, false).await;
        let (first, second) = (gateway.caller.clone(), gateway.agent_with(|_| {}).await);
        let one = channel(&gateway, "one", &first).await;
        let two = channel(&gateway, "two", &second).await;
        let callers = [(first, one), (second, two)];
        Self { clock, gateway, callers }
    }

    async fn restart(mut self) -> Self {
        let home = self.gateway.stop().await;
        self.gateway = Setup::new().clock(&self.clock).home(home).start().await;
        for (caller, _) in &mut self.callers {
            *caller = Client::new(&self.gateway.listen, &caller.agent, &caller.key, &caller.token);
        }
        self
    }

    async fn send(&self, requests: &[Request]) -> Vec<(Request, Answer)> {
        let mut calls = JoinSet::new();
        for request in requests.iter().copied() {
            let callers = self.callers.clone();
            calls.spawn(async move { (request, request.send(callers).await) });
        }
        calls.join_all().await
    }
}

async fn run_steps(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (mut fixture, mut model) = (Fixture::start().await, Model::default());
    for step in steps {
        match step {
            Step::Send(requests) => model.check(&fixture.send(&requests).await)?,
            Step::Wait(duration) => {
                fixture.clock.advance(duration);
                model.now += duration;
            }
            Step::Restart => fixture = fixture.restart().await,
        }
        prop_assert_eq!(fixture.gateway.stored_task_count().await, model.tasks.len() as i64);
    }
    for (agent, task) in &model.tasks {
        let task = fixture.callers[*agent].0.wait_for_end(task).await;
        prop_assert_eq!(&task["status"], &Value::from("completed"), "{}", task);
    }
    Ok(())
}

#[test]
fn d6_x24_one_task_for_a_key_whatever_arrives_and_when() {
    let runtime = Runtime::new().unwrap();
    let config = Config { failure_persistence: None, ..Config::with_cases(24) };
    let steps = vec(step(), 4..16);
    TestRunner::new(config).run(&steps, |steps| runtime.block_on(run_steps(steps))).unwrap();
}
