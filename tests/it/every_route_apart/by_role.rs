//! Which role may call which route: each route of the document is called with a key of every role. A route that is
//! in none of these lists fails the test.

use std::collections::BTreeSet;

use wardgate::tenants::KeyHolder;

use super::{fill_parameters, send, two_tenants};
use crate::support::Gateway;
use crate::support::document::{OpenApiDocument, Operation};

/// Routes for all keys of a tenant, including admins. An operator has no agents to call.
const CALLERS: &[&str] = &[
    "POST /",
    "GET /v1/agents",
    "GET /v1/agents/{id}",
    "POST /v1/agents/{id}/invoke",
    "POST /v1/agents/{id}/invoke/async",
    "POST /v1/agents/{id}/invoke/stream",
    "GET /v1/tasks",
    "GET /v1/tasks/{id}",
    "DELETE /v1/tasks/{id}",
    "POST /v1/tasks/{id}/stop",
    "GET /v1/tasks/{id}/thread",
    "GET /v1/tasks/{id}/thread/full",
    "GET /v1/approvals",
    "POST /v1/approvals/{approval}/approve",
    "POST /v1/approvals/{approval}/deny",
    "GET /agents/list",
    "POST /agents/{id}/operations/{tool}",
    "GET /agent-execution/executions/history/{agent}",
    "PATCH /agent-execution/{id}/update",
    "GET /activity/{agent}/{task}",
    "GET /{organization}/agent-execution/{id}/events",
    "GET /agents",
    "GET /agents/{id}",
    "POST /agents/{id}/invoke",
    "POST /agents/{id}/invoke/async",
    "POST /agents/{id}/invoke/stream",
    "GET /tasks",
    "GET /tasks/{id}",
    "DELETE /tasks/{id}",
    "POST /tasks/{id}/stop",
    "GET /tasks/{id}/thread",
    "GET /tasks/{id}/thread/full",
    "POST /v1/agents/{id}/invoke-async",
    "POST /v1/agents/{id}/invoke-stream",
    "POST /agents/{id}/invoke-async",
    "POST /agents/{id}/invoke-stream",
    "POST /v1/agents/{id}/operations/{tool}",
    "POST /agent-execution/{id}",
    "DELETE /agent-execution/{id}",
    "GET /agent-execution/{id}/status",
    "POST /mcp",
];

/// Routes for every key; an operator's key may call them for every tenant.
const ANY_KEY: &[&str] =
    &["GET /api/agent_webhook", "DELETE /api/agent_webhook", "POST /api/agent_webhook/rotate"];

/// Routes for an admin of the tenant and for operators.
const ADMINS: &[&str] = &[
    "GET /admin/tenants",
    "GET /admin/tenants/{tenant}",
    "GET /admin/tenants/{tenant}/keys",
    "POST /admin/tenants/{tenant}/keys",
    "DELETE /admin/tenants/{tenant}/keys/{key}",
    "GET /admin/tenants/{tenant}/agents",
    "POST /admin/tenants/{tenant}/agents",
    "GET /admin/tenants/{tenant}/agents/{agent}",
    "PUT /admin/tenants/{tenant}/agents/{agent}",
    "POST /admin/tenants/{tenant}/agents/{agent}/enable",
    "POST /admin/tenants/{tenant}/agents/{agent}/disable",
    "GET /admin/tenants/{tenant}/agents/{agent}/webhook",
    "DELETE /admin/tenants/{tenant}/agents/{agent}/webhook",
    "POST /admin/tenants/{tenant}/agents/{agent}/webhook/rotate",
    "GET /admin/tenants/{tenant}/plugins",
    "GET /admin/tenants/{tenant}/plugins/{name}",
    "PUT /admin/tenants/{tenant}/plugins/{name}",
    "DELETE /admin/tenants/{tenant}/plugins/{name}",
    "POST /admin/tenants/{tenant}/plugins/{name}/release",
    "GET /admin/tenants/{tenant}/plugins/{name}/component",
    "GET /admin/tenants/{tenant}/channels",
    "GET /admin/tenants/{tenant}/channels/{name}",
    "PUT /admin/tenants/{tenant}/channels/{name}",
    "DELETE /admin/tenants/{tenant}/channels/{name}",
    "GET /admin/tenants/{tenant}/deliveries",
    "POST /admin/tenants/{tenant}/tasks/{task}/redeliver",
    "GET /admin/tenants/{tenant}/secrets",
    "PUT /admin/tenants/{tenant}/secrets/{name}",
    "DELETE /admin/tenants/{tenant}/secrets/{name}",
    "GET /admin/tenants/{tenant}/plugins/{name}/versions",
    "POST /admin/tenants/{tenant}/plugins/{name}/rollback",
    "GET /admin/tenants/{tenant}/tasks",
    "GET /admin/tenants/{tenant}/tasks/{task}",
    "DELETE /admin/tenants/{tenant}/tasks/{task}",
    "POST /admin/tenants/{tenant}/tasks/{task}/stop",
    "GET /admin/tenants/{tenant}/tasks/{task}/recording",
    "GET /admin/tenants/{tenant}/approvals",
    "POST /admin/tenants/{tenant}/approvals/{approval}/approve",
    "POST /admin/tenants/{tenant}/approvals/{approval}/deny",
    "GET /admin/tenants/{tenant}/usage",
    "GET /admin/tenants/{tenant}/mcp-servers",
    "PUT /admin/tenants/{tenant}/mcp-servers/{name}",
    "DELETE /admin/tenants/{tenant}/mcp-servers/{name}",
    "GET /admin/tenants/{tenant}/mcp-servers/{name}/tools",
    "GET /admin/tenants/{tenant}/models",
    "PUT /admin/tenants/{tenant}/models/{name}",
    "DELETE /admin/tenants/{tenant}/models/{name}",
];

/// Routes for operators only.
pub(super) const OPERATORS: &[&str] = &[
    "POST /admin/tenants",
    "GET /admin/operator-keys",
    "POST /admin/operator-keys",
    "DELETE /admin/operator-keys/{key}",
    "GET /admin/tenants/{tenant}/plugins/{name}/grants",
    "PUT /admin/tenants/{tenant}/plugins/{name}/grants",
    "GET /metrics",
];

/// Whether a caller, an admin and an operator may call this route.
fn may_call(route: &str) -> [bool; 3] {
    let roles = [
        (CALLERS, [true, true, false]),
        (ANY_KEY, [true, true, true]),
        (ADMINS, [false, true, true]),
        (OPERATORS, [false, false, true]),
    ];
    let mut found = roles.into_iter().filter(|(routes, _)| routes.contains(&route));
    let (Some((_, may)), None) = (found.next(), found.next()) else {
        panic!(
            "say whose key may call {route}: in one list of tests/it/every_route_apart/by_role.rs"
        )
    };
    may
}

#[tokio::test]
async fn each_route_is_for_those_roles_that_it_is_for() {
    let gateway = Gateway::start().await;
    let (tenant, _) = two_tenants(&gateway).await;
    let operator = gateway.new_key(KeyHolder::Operator).await;
    let enable = format!("/agents/{}/enable", tenant.caller.agent);
    for operation in OpenApiDocument::checked_in().operations().filter(Operation::requires_key) {
        let route = format!("{} {}", operation.method, operation.path);
        let own =
            fill_parameters(&operation, 0, &tenant, &|o, name| tenant.parameter_value(o, name));
        for (key, may) in
            [&tenant.caller.key, &tenant.admin, &operator].into_iter().zip(may_call(&route))
        {
            let answer = send(&gateway, &operation, &own.target, Some(key)).await;
            assert_eq!(answer.status != 403, may, "{route}: {} {}", answer.status, answer.text);
            assert_ne!(answer.status, 401, "{route}: {}", answer.text);
            // If this route disabled the agent, all later calls would be 403.
            gateway.admin_request("POST", &enable).expect(200).await;
        }
    }
}

#[test]
fn every_route_that_is_listed_is_there() {
    let documented = OpenApiDocument::checked_in().operations();
    let documented: BTreeSet<_> = documented.map(|o| format!("{} {}", o.method, o.path)).collect();
    let listed = [CALLERS, ANY_KEY, ADMINS, OPERATORS].concat();
    let gone: Vec<_> = listed.iter().filter(|route| !documented.contains(**route)).collect();
    assert!(gone.is_empty(), "by_role.rs lists what docs/openapi.json does not have: {gone:?}");
}
