//! No route gives access to another tenant's data: every route of the OpenAPI document is called with the ids of
//! another tenant in every parameter that takes one.

mod by_role;

use std::collections::BTreeSet;

use reqwest::multipart::{Form, Part};
use serde_json::json;
use wardgate::ids::TenantId;
use wardgate::tenants::{KeyHolder, Policy};

use crate::support::document::{OpenApiDocument, Operation};
use crate::support::mcp_server::{McpServer, Revision};
use crate::support::{Answer, Call, Client, Gateway, agent, guest_path, poll_until};

/// Routes that require no key, and why. (`/openapi.json` and `/docs`, which are not in the document, hold only what
/// is in this repository.)
const WITHOUT_A_KEY: [(&str, &str); 11] = [
    ("OPTIONS /hooks/{channel}", "the channel's verifier decides"),
    ("GET /hooks/{channel}", "the channel's verifier decides"),
    ("POST /hooks/{channel}", "the channel's verifier decides"),
    ("HEAD /hooks/{channel}", "it does nothing"),
    ("GET /api/webhooks/agents/{token}", "the token is the permission"),
    ("POST /api/webhooks/agents/{token}", "the token is the permission"),
    ("HEAD /api/webhooks/agents/{token}", "it does nothing"),
    ("GET /approvals/{approval}/{decision}", "the signature is the permission"),
    ("POST /approvals/{approval}/{decision}", "the signature is the permission"),
    ("GET /api/task_status", "the task's id is the permission (D4)"),
    ("GET /healthz", "it says nothing of any tenant"),
];

/// The thread, user and plugin that each tenant has.
const THREAD: &str = "chat";
const USER: &str = "u-1";
const PLUGIN: &str = "hook";

/// The ids and keys of one tenant. Both tenants use the same names.
struct TenantFixture {
    tenant: TenantId,
    /// Its agent, and a key that calls it.
    caller: Client,
    admin: String,
    task: String,
    /// The id of one of its keys.
    key_id: String,
    /// The id of its channel.
    channel: String,
    /// The id of a pending approval.
    approval: String,
    _mcp_server: McpServer,
}

impl TenantFixture {
    async fn create(gateway: &Gateway, tenant: TenantId, caller: Client) -> Self {
        let admin = gateway.new_key(KeyHolder::Admin(tenant)).await;
        let component = std::fs::read(guest_path("ignores")).unwrap();
        let plugins = &gateway.services.plugins;
        plugins.install(tenant, &PLUGIN.parse().unwrap(), component, Some("")).await.unwrap();
        let secret = json!({"value": secret_value(tenant)});
        let target = format!("/admin/tenants/{tenant}/secrets/{PLUGIN}");
        gateway.request("PUT", &target).key(&admin).json(&secret).expect(200).await;
        let channel = json!({"name": PLUGIN, "agent": "tested", "verifier": "none"});
        let target = format!("/admin/tenants/{tenant}/channels/{PLUGIN}");
        gateway.request("PUT", &target).key(&admin).json(&channel).expect(200).await;
        let channel = gateway.get(&target).key(&admin).expect(200).await.json();
        let channel = channel["id"].as_str().unwrap().to_owned();
        let body = json!({"task_id": THREAD, "user_id": USER, "prompt": "hi"});
        let task = caller.ask(body).await.task_id();
        // A key that is not used otherwise, because its own tenant may revoke it.
        let key = gateway.post(&format!("/admin/tenants/{tenant}/keys")).key(&admin);
        let key = key.json(&json!({"name": "unused"})).expect(201).await.json();
        let key_id = key["id"].as_str().unwrap().to_owned();
        let approval = pending_approval(gateway, tenant, &admin).await;
        let mcp_server = McpServer::start(Revision::Stateless).await;
        let target = format!("/admin/tenants/{tenant}/mcp-servers/{PLUGIN}");
        let put = gateway.request("PUT", &target).key(&gateway.operator_key());
        put.json(&json!({"url": mcp_server.url()})).expect(200).await;
        Self { tenant, caller, admin, task, key_id, channel, approval, _mcp_server: mcp_server }
    }

    /// The tenant's value for a parameter of this name. Add the parameters of new routes here.
    fn parameter_value(&self, operation: &Operation<'_>, name: &str) -> String {
        let of_agent = operation.path.contains("agents/{id}")
            || operation.path == "/api/agent_webhook"
            || operation.path == "/api/agent_webhook/rotate"
            || (operation.method == "POST" && operation.path == "/agent-execution/{id}");
        match name {
            "tenant" | "organization" => self.tenant.to_string(),
            "agent" | "agent_id" => self.caller.agent.clone(),
            "id" if of_agent => self.caller.agent.clone(),
            "id" | "task" => self.task.clone(),
            "key" => self.key_id.clone(),
            "channel" => self.channel.clone(),
            "approval" => self.approval.clone(),
            _ => panic!(
                "say which id {name:?} of {} {} is, in `TenantFixture::parameter_value` or \
                 `unscoped_value` of tests/it/every_route_apart.rs",
                operation.method, operation.path
            ),
        }
    }

    /// The texts that no other tenant may see.
    fn secrets(&self) -> Vec<String> {
        let tenant = self.tenant.to_string();
        let own = [&self.caller.agent, &self.caller.key, &self.caller.token, &self.admin];
        let rest = [&tenant, &self.task, &self.key_id, &self.approval, &secret_value(self.tenant)];
        own.into_iter().chain(rest).cloned().collect()
    }
}

/// The id of an approval that a task of this tenant waits for.
async fn pending_approval(gateway: &Gateway, tenant: TenantId, admin: &str) -> String {
    let mut definition = agent("asks first");
    definition.tools = vec!["calculator".parse().unwrap()];
    definition.tool_policies.insert("calculate".to_owned(), Policy::Ask.into());
    let caller = gateway.new_agent(tenant, definition).await;
    caller.start_run(r#"calculate {"expression": "1+1"}"#).await;
    let approvals = format!("/admin/tenants/{tenant}/approvals");
    let approval = poll_until("the approval", async || {
        let listed = gateway.get(&approvals).key(admin).expect(200).await.json();
        listed[0]["id"].as_str().map(str::to_owned)
    });
    approval.await
}

/// The value of a tenant's secret.
fn secret_value(tenant: TenantId) -> String {
    format!("the secret of {tenant}")
}

/// The value for parameters that do not refer to anything of a tenant.
fn unscoped_value(operation: &Operation<'_>, name: &str) -> Option<&'static str> {
    Some(match name {
        "status" if operation.path.ends_with("/deliveries") => "dead",
        "tool" => "calculate",
        "name" => PLUGIN,
        "user_id" => USER,
        "page" | "per_page" | "days" => "1",
        "status" => "completed",
        "task_id" => THREAD,
        "asynchronous" | "json" | "disable_attachment_injection" => "false",
        "getter" => "status",
        "prompt" | "user_email" | "user_first_name" | "user_last_name" => "x",
        "params_mapping" | "user_tokens" => "{}",
        _ => return None,
    })
}

/// Adds a body that the operation accepts.
fn with_body(call: Call, operation: &Operation<'_>) -> Call {
    let Some((declared, schema)) = operation.body() else { return call };
    let schema = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next());
    let json = match (declared, schema) {
        ("application/json", None) => json!({"prompt": "hi"}),
        (_, Some("ChannelDefinition")) => {
            json!({"name": PLUGIN, "agent": "tested", "verifier": "none"})
        }
        (_, Some("AgentDefinition")) => json!({"name": "tested"}),
        (_, Some("McpServerDefinition")) => json!({"url": "http://127.0.0.1:9/mcp"}),
        (_, Some("ModelDefinition")) => json!({"kind": "anthropic", "model": "m"}),
        (_, Some("Invocation")) => json!({"id": THREAD, "input": {"text": "hi"}}),
        (_, Some("KeyAsked" | "Comment")) => json!({}),
        (_, Some("NewSecret")) => json!({"value": "a stranger's"}),
        (_, Some("NewTenant")) => json!({"name": "made by a stranger"}),
        (_, Some("Rollback")) => json!({}),
        (_, Some("Operation")) => json!({"expression": "1+1"}),
        (_, Some("Update")) => json!({"status": "failed"}),
        ("application/toml", None) => return call.text(declared, "[limits]\n"),
        (_, Some("Installation")) => {
            let component = std::fs::read(guest_path("replies_now")).unwrap();
            return call.multipart(Form::new().part("component", Part::bytes(component)));
        }
        _ => panic!(
            "say which body {} {} takes, in `with_body` of tests/it/every_route_apart.rs",
            operation.method, operation.path
        ),
    };
    call.json(&json)
}

/// An operation with its parameters filled in.
struct FilledRequest {
    target: String,
    /// Whether it refers to something that belongs to another tenant or does not exist.
    is_foreign: bool,
}

/// Fills in the operation's parameters: ids whose bit is set are `theirs`, the others `own`. Filters of lists are
/// always `theirs`, because a filter that matches nothing is not refused.
fn fill_parameters(
    operation: &Operation<'_>,
    bits: usize,
    own: &TenantFixture,
    theirs: &IdSource<'_>,
) -> FilledRequest {
    let (mut target, mut query) = (operation.path.to_owned(), Vec::new());
    let (mut is_foreign, mut ids) = (false, 0);
    for parameter in operation.parameters().filter(|parameter| parameter.location != "header") {
        let name = parameter.name;
        let of_webhook = operation.path == "/" && name == "agent_id";
        let value = match unscoped_value(operation, name) {
            Some(value) => value.to_owned(),
            None if parameter.required || of_webhook => {
                let is_theirs = bits & (1 << ids) != 0;
                (is_foreign, ids) = (is_foreign || is_theirs, ids + 1);
                if is_theirs {
                    theirs(operation, name)
                } else {
                    own.parameter_value(operation, name)
                }
            }
            None => theirs(operation, name),
        };
        match parameter.location {
            "path" => target = target.replace(&format!("{{{name}}}"), &value),
            _ => query.push(format!("{name}={value}")),
        }
    }
    FilledRequest { target: format!("{target}?{}", query.join("&")), is_foreign }
}

type IdSource<'n> = dyn Fn(&Operation<'_>, &str) -> String + 'n;

/// The number of ids that an operation requires.
fn required_id_count(operation: &Operation<'_>) -> usize {
    let named = operation
        .parameters()
        .filter(|parameter| unscoped_value(operation, parameter.name).is_none());
    named.filter(|p| p.required || (operation.path == "/" && p.name == "agent_id")).count()
}

async fn send(
    gateway: &Gateway,
    operation: &Operation<'_>,
    target: &str,
    key: Option<&str>,
) -> Answer {
    let call = with_body(gateway.request(&operation.method, target), operation);
    match key {
        Some(key) => call.key(key).send().await,
        None => call.send().await,
    }
}

/// Everything that a tenant has: the response of each GET route of the document to its admin.
async fn all_get_responses(gateway: &Gateway, tenant: &TenantFixture) -> Vec<(String, String)> {
    let mut seen = Vec::new();
    let keyed = OpenApiDocument::checked_in().operations().filter(Operation::requires_key);
    for operation in keyed.filter(|operation| operation.method == "GET") {
        let own =
            fill_parameters(&operation, 0, tenant, &|o, name| tenant.parameter_value(o, name));
        let target = without_filters(&operation, &own.target);
        let answer = send(gateway, &operation, &target, Some(&tenant.admin)).await;
        if !by_role::OPERATORS.contains(&format!("GET {}", operation.path).as_str()) {
            assert!(matches!(answer.status, 200 | 204), "{target}: {}", answer.text);
            seen.push((target, answer.text));
        }
    }
    seen
}

/// The target without optional parameters, so that lists are complete.
fn without_filters(operation: &Operation<'_>, target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let required: Vec<_> = operation.parameters().filter(|parameter| parameter.required).collect();
    let is_required = |pair: &&str| required.iter().any(|p| pair.split('=').next() == Some(p.name));
    let query: Vec<_> = query.split('&').filter(is_required).collect();
    format!("{path}?{}", query.join("&"))
}

async fn two_tenants(gateway: &Gateway) -> (TenantFixture, TenantFixture) {
    let other = gateway.new_tenant("other").await;
    let mut definition = agent("tested");
    definition.tools = vec!["calculator".parse().unwrap()];
    let caller = gateway.new_agent(other, definition).await;
    let own = TenantFixture::create(gateway, gateway.tenant, gateway.caller.clone()).await;
    (own, TenantFixture::create(gateway, other, caller).await)
}

/// Calls an operation as another tenant. If it names things of the owner, the response must be the same refusal as
/// for things that do not exist. No response may show anything of the owner.
async fn call_as_stranger(
    gateway: &Gateway,
    operation: &Operation<'_>,
    stranger: &TenantFixture,
    owner: &TenantFixture,
) {
    let nobodys = "00000000-0000-4000-8000-000000000000";
    for bits in 0..1 << required_id_count(operation) {
        let theirs =
            fill_parameters(operation, bits, stranger, &|o, name| owner.parameter_value(o, name));
        let absent = fill_parameters(operation, bits, stranger, &|_, _| nobodys.to_owned());
        for (who, key, refusals) in [
            ("a caller", Some(stranger.caller.key.as_str()), &[403, 404][..]),
            ("an admin", Some(&stranger.admin), &[403, 404]),
            ("nobody", None, &[401]),
            ("a wrong key", Some("wgk_wrong"), &[403]),
        ] {
            let what = format!("{} {} by {who}", operation.method, theirs.target);
            let answer = send(gateway, operation, &theirs.target, key).await;
            let shown = format!("{:?} {}", answer.headers, answer.text);
            let seen = owner.secrets().into_iter().find(|secret| shown.contains(secret));
            assert_eq!(seen, None, "{what} sees this: {shown}");
            let refused = refusals.contains(&answer.status);
            let own_things = !theirs.is_foreign && refusals.contains(&404);
            assert!(refused || (own_things && answer.status < 500), "{what}: {shown}");
            if theirs.is_foreign {
                let absent = send(gateway, operation, &absent.target, key).await;
                assert_eq!((answer.status, answer.text), (absent.status, absent.text), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn no_route_gives_or_changes_anything_of_another_tenant() {
    let gateway = Gateway::start().await;
    let (owner, stranger) = two_tenants(&gateway).await;
    let document = OpenApiDocument::parse(&gateway.get("/openapi.json").expect(200).await.text);
    let before = all_get_responses(&gateway, &owner).await;
    for operation in document.operations().filter(Operation::requires_key) {
        call_as_stranger(&gateway, &operation, &stranger, &owner).await;
        let after = all_get_responses(&gateway, &owner).await;
        for (after, before) in after.iter().zip(&before) {
            assert_eq!(after, before, "{} {} changed it", operation.method, operation.path);
        }
    }
    owner.caller.ask(json!({"prompt": "still mine"})).await;
    owner.caller.trigger().json(&json!({"x": 1})).expect(200).await;
    // The refusals did not come from keys that had been revoked.
    gateway.get("/v1/agents").key(&stranger.caller.key).expect(200).await;
    let tenant = format!("/admin/tenants/{}", stranger.tenant);
    gateway.get(&tenant).key(&stranger.admin).expect(200).await;
}

#[tokio::test]
async fn an_operator_too_finds_things_under_their_own_tenant_only() {
    let gateway = Gateway::start().await;
    let (owner, stranger) = two_tenants(&gateway).await;
    let operator = gateway.new_key(KeyHolder::Operator).await;
    let before = all_get_responses(&gateway, &owner).await;
    let mut tried = 0;
    for operation in OpenApiDocument::checked_in().operations() {
        if required_id_count(&operation) < 2
            || !operation.path.starts_with("/admin/tenants/{tenant}/")
        {
            continue;
        }
        // The first id is the tenant.
        let crossed =
            fill_parameters(&operation, 0b10, &stranger, &|o, name| owner.parameter_value(o, name));
        let answer = send(&gateway, &operation, &crossed.target, Some(&operator)).await;
        assert_eq!(answer.status, 404, "{} {}", operation.method, crossed.target);
        tried += 1;
    }
    assert!(tried >= 11, "only {tried} routes of the document were tried");
    assert_eq!(all_get_responses(&gateway, &owner).await, before);
}

#[tokio::test]
async fn exactly_these_routes_ask_for_no_key() {
    let document = OpenApiDocument::checked_in();
    let open = document.operations().filter(|operation| !operation.requires_key());
    let open: BTreeSet<_> = open.map(|o| format!("{} {}", o.method, o.path)).collect();
    let listed: BTreeSet<_> = WITHOUT_A_KEY.iter().map(|(route, _)| (*route).to_owned()).collect();
    assert_eq!(open, listed);
}

#[tokio::test]
async fn a_threads_name_in_place_of_a_tasks_id_means_the_tenants_own_task() {
    let gateway = Gateway::start().await;
    let (first, second) = two_tenants(&gateway).await;
    let mut tried = 0;
    let keyed = OpenApiDocument::checked_in().operations().filter(Operation::requires_key);
    for operation in keyed.filter(|operation| operation.method == "GET") {
        for (own, other) in [(&first, &second), (&second, &first)] {
            let filled = fill_parameters(&operation, 0, own, &|_, _| String::new()).target;
            let named = filled.replace(&own.task, THREAD);
            if named == filled {
                continue;
            }
            let answer = send(&gateway, &operation, &named, Some(&own.admin)).await;
            let by_id = send(&gateway, &operation, &filled, Some(&own.admin)).await;
            assert_eq!((answer.status, &answer.text), (200, &by_id.text), "{named}");
            assert!(!answer.text.contains(&other.task), "{named}: {}", answer.text);
            tried += 1;
        }
    }
    assert!(tried >= 18, "only {tried} requests of the document were tried");
}
