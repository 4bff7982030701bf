//! Manages a tenant's channels, which receive the webhooks of providers by means of plugins, and their deliveries.

use std::sync::Arc;

use std::collections::BTreeSet;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{Request, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::budget::Sender;
use super::super::error::ApiError;
use super::super::extract::{PathParams, QueryParams};
use super::super::reply::json;
use super::super::responses::{PluginErrors, ReadErrors, WriteErrors};
use super::{AdminAuth, AdminState, agents, iso};
use crate::ids::{AgentId, ChannelId, Name, PluginName, RequestId, TaskId, TenantId};
use crate::plugins::setting_names;
use crate::sandbox::Subject;
use crate::tasks::{Delivery, DeliveryStatus};
use crate::tenants::{Channel, ChannelAnswer, ChannelDefinition, ChannelThreads, Verification};

/// The most settings, and the most secrets, of one channel; the longest name of either; the longest value of a
/// setting.
const SETTINGS_MAX: usize = 100;
const SETTING_NAME_BYTES_MAX: usize = 128;
const SETTING_BYTES_MAX: usize = 64 << 10;

/// The most deliveries in one response.
const DELIVERIES_MAX: u32 = 100;

/// A channel, as its owner manages it.
#[derive(Serialize, ToSchema)]
#[schema(as = ManagedChannel)]
struct ChannelAnswerBody {
    id: ChannelId,
    /// The tenant that owns it.
    tenant: TenantId,
    /// The URL that the provider must send its webhooks to.
    url: String,
    /// The agent that its requests trigger.
    agent_id: AgentId,
    /// Increases with each change of the definition.
    version: u32,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    definition: ChannelDefinition,
    /// Notes for the owner, such as missing secrets, or verification that is off.
    notes: Vec<String>,
}

/// List the channels of a tenant, by name.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/channels",
    operation_id = "admin_list_channels", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id")),
    responses((status = 200, body = Vec<ChannelAnswerBody>), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
) -> Result<Response, ApiError> {
    let mut answers = Vec::new();
    for channel in state.store.channels(admin.tenant()).await? {
        answers.push(channel_answer(&state, channel).await?);
    }
    Ok(json(StatusCode::OK, &answers))
}

/// Read a channel.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/channels/{name}",
    operation_id = "admin_read_channel", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The channel's name")),
    responses((status = 200, body = ChannelAnswerBody), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn read(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let name: Name = path_params.id("name", "Channel")?;
    let channel = state.store.channel_by_name(admin.tenant(), &name).await?;
    let channel = channel.ok_or_else(|| ApiError::not_found("Channel"))?;
    Ok(json(StatusCode::OK, &channel_answer(&state, channel).await?))
}

/// Create a channel, or replace the definition of the channel with this name.
///
/// The definition is JSON, or TOML with `content-type: application/toml`. An existing channel keeps its URL. A
/// definition without a difference changes nothing.
#[utoipa::path(put, path = "/admin/tenants/{tenant}/channels/{name}",
    operation_id = "admin_replace_channel", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The channel's name, as in the definition")),
    request_body(content((ChannelDefinition = "application/json"), (String = "application/toml"))),
    responses((status = 200, body = ChannelAnswerBody), WriteErrors, PluginErrors), security(("admin_key" = [])))]
pub(super) async fn replace(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let name: Name = path_params.id("name", "Channel")?;
    let (mut head, body) = request.into_parts();
    let sender = Sender::from_head(&head);
    let body = state.bodies.read_body(sender, &mut head, body).await?;
    let definition: ChannelDefinition = agents::parse(&head.headers, body, "a channel file")?;
    if definition.name != name {
        let detail = "the definition has another name than the path";
        return Err(ApiError::caller(422, detail));
    }
    let tenant = admin.tenant();
    check(&definition)?;
    check_secrets(&state, tenant, &definition).await?;
    let agent = agent(&state, tenant, &definition.agent).await?;
    check_plugins(&state, tenant, agent, &definition).await?;
    let channel = state.store.put_channel(tenant, agent, &definition).await?;
    Ok(json(StatusCode::OK, &channel_answer(&state, channel).await?))
}

/// Delete a channel.
///
/// Its URL stops working at once. Its tasks remain.
#[utoipa::path(delete, path = "/admin/tenants/{tenant}/channels/{name}",
    operation_id = "admin_remove_channel", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The channel's name")),
    responses((status = 204, description = "Deleted."), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn remove(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let name: Name = path_params.id("name", "Channel")?;
    if !state.store.delete_channel(admin.tenant(), &name).await? {
        return Err(ApiError::not_found("Channel"));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Filters a list of deliveries.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DeliveriesQuery {
    /// Only deliveries with this status.
    status: Option<DeliveryStatus>,
}

/// A delivery of a task's answer.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery)]
struct DeliveryAnswer {
    task: TaskId,
    channel: ChannelId,
    status: DeliveryStatus,
    /// The number of attempts.
    attempts: u32,
    /// When it is attempted next.
    #[schema(format = DateTime)]
    due_at: Option<String>,
    /// When it was delivered or given up.
    #[schema(format = DateTime)]
    ended_at: Option<String>,
    /// Why the last attempt failed.
    reason: Option<String>,
}

/// List the newest 100 deliveries of a tenant.
///
/// Deliveries that were given up have the status `dead`.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/deliveries",
    operation_id = "admin_list_deliveries", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"), DeliveriesQuery),
    responses((status = 200, body = Vec<DeliveryAnswer>), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn deliveries(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    QueryParams(query): QueryParams<DeliveriesQuery>,
) -> Result<Response, ApiError> {
    let found = state.store.deliveries(admin.tenant(), query.status, DELIVERIES_MAX).await?;
    let answers: Vec<_> = found.into_iter().map(DeliveryAnswer::new).collect();
    Ok(json(StatusCode::OK, &answers))
}

/// Deliver the answer of a task again, whether it was delivered or given up before.
#[utoipa::path(post, path = "/admin/tenants/{tenant}/tasks/{task}/redeliver",
    operation_id = "admin_redeliver_task", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("task" = String, Path, description = "The task's id")),
    responses((status = 202, description = "The delivery is attempted again at once."), ReadErrors),
    security(("admin_key" = [])))]
pub(super) async fn redeliver(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    if !state.store.redeliver(admin.tenant(), path_params.id("task", "Task")?).await? {
        return Err(ApiError::not_found("Delivery that has ended"));
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

impl DeliveryAnswer {
    fn new(delivery: Delivery) -> Self {
        Self {
            task: delivery.task,
            channel: delivery.channel,
            status: delivery.status,
            attempts: delivery.attempts,
            due_at: iso(delivery.due_at),
            ended_at: iso(delivery.ended_at),
            reason: delivery.reason,
        }
    }
}

async fn channel_answer(
    state: &AdminState,
    channel: Channel,
) -> Result<ChannelAnswerBody, ApiError> {
    let facts = state.channels.facts(&channel).await?;
    let missing = facts.secrets.values().filter(|bound| bound.versions().is_none());
    let mut notes: Vec<_> = missing
        .map(|bound| {
            let secret = &bound.binding().secret;
            format!("the tenant has no secret {secret} yet: `wardgate secret set {secret}`")
        })
        .collect();
    // If the binding leaves the form to the plugin, it is known only when the plugin opens the secret.
    let forms = facts.secrets.iter().filter(|(_, bound)| bound.versions().is_some());
    notes.extend(forms.filter_map(|(name, bound)| {
        bound.unusable_reason(bound.binding().form(name, None, |_| None).ok()?)
    }));
    notes.extend(misnamed_secrets(state, &channel).await);
    if channel.definition.verifier == Verification::Off {
        notes
            .push("verification is off: anyone who knows the URL can trigger the agent".to_owned());
        if channel.definition.threads == ChannelThreads::Shared {
            let note =
                "it shares the conversations of the API: anyone who knows the URL can join them";
            notes.push(note.to_owned());
        }
    }
    if !channel.definition.enabled {
        notes.push("it is switched off".to_owned());
    }
    Ok(ChannelAnswerBody {
        id: channel.id,
        tenant: channel.tenant,
        url: facts.url.clone(),
        agent_id: channel.agent,
        version: channel.version,
        created_at: channel.created_at.iso(),
        updated_at: channel.updated_at.iso(),
        definition: channel.definition,
        notes,
    })
}

/// Notes on the names in a channel's `[secrets]` that do not match the secrets that its plugins open. Only plugins
/// that ship with the gateway are checked, since it is not known which secrets other components open.
async fn misnamed_secrets(state: &AdminState, channel: &Channel) -> Vec<String> {
    let definition = &channel.definition;
    let mut notes = Vec::new();
    let mut opened = Some(BTreeSet::new());
    let verifier = match &definition.verifier {
        Verification::By(plugin) => Some((plugin, true)),
        Verification::Off => None,
    };
    let others = [&definition.mapper, &definition.replier].into_iter().flatten();
    for (plugin, verifies) in verifier.into_iter().chain(others.map(|plugin| (plugin, false))) {
        // An unavailable plugin is reported where it is called.
        let binding = state.plugins.binding(channel.tenant, plugin).await;
        let Some(known) = binding.as_ref().ok().and_then(|binding| binding.known_forms()) else {
            opened = None;
            continue;
        };
        if let Some(opened) = &mut opened {
            opened.extend(known.names().map(|(name, _)| name.to_owned()));
        }
        let is_bound = |name: &str| {
            definition.secrets.contains_key(name)
                || binding.as_ref().is_ok_and(|binding| binding.has_secret(name))
        };
        let missing = known.names().filter(|(name, needs)| verifies && *needs && !is_bound(name));
        notes.extend(missing.map(|(name, _)| {
            format!("the plugin {plugin} opens the secret {name:?}, which the channel's [secrets] do not bind")
        }));
    }
    if let Some(opened) = opened {
        let known = match opened.iter().map(String::as_str).collect::<Vec<_>>().join(", ") {
            known if known.is_empty() => "they open none".to_owned(),
            known => format!("they open {known}"),
        };
        let unread = definition.secrets.keys().filter(|name| !opened.contains(*name));
        notes.extend(
            unread.map(|name| {
                format!("none of the channel's plugins opens a secret {name:?}; {known}")
            }),
        );
    }
    notes
}

/// Checks what can be checked without the store and without calling a plugin.
fn check(definition: &ChannelDefinition) -> Result<(), ApiError> {
    let refuse = |detail: &str| Err(ApiError::caller(422, detail));
    if definition.settings.len() > SETTINGS_MAX || definition.secrets.len() > SETTINGS_MAX {
        return refuse("a channel has 100 settings and 100 secrets at most");
    }
    let too_long = definition.settings.iter().any(|(name, value)| {
        name.len() > SETTING_NAME_BYTES_MAX || value.len() > SETTING_BYTES_MAX
    });
    if too_long || definition.secrets.keys().any(|name| name.len() > SETTING_NAME_BYTES_MAX) {
        return refuse("a setting's name has 128 bytes at most, its value 64 KiB");
    }
    if definition.answer == ChannelAnswer::Deliver && definition.replier.is_none() {
        return refuse("answer = \"deliver\" needs a replier, which delivers");
    }
    Ok(())
}

/// Checks that the tenant's secrets may be used as the channel binds them. A secret that does not exist yet passes.
async fn check_secrets(
    state: &AdminState,
    tenant: TenantId,
    definition: &ChannelDefinition,
) -> Result<(), ApiError> {
    if definition.secrets.is_empty() {
        return Ok(());
    }
    let secrets = state.vault.list(tenant).await?;
    for (name, binding) in &definition.secrets {
        let secret = secrets.iter().find(|secret| secret.name == binding.secret);
        let checked = secret.map_or(Ok(()), |secret| binding.check(&secret.uses));
        let refused = |beyond| ApiError::caller(422, format!("[secrets] {name}: {beyond}"));
        checked.map_err(refused)?;
    }
    Ok(())
}

async fn agent(state: &AdminState, tenant: TenantId, agent: &str) -> Result<AgentId, ApiError> {
    let found = match (agent.parse::<AgentId>(), agent.parse::<Name>()) {
        (Ok(id), _) => state.store.agent(tenant, id).await?,
        (Err(_), Ok(name)) => state.store.agent_by_name(tenant, &name).await?,
        (Err(_), Err(_)) => None,
    };
    let shown: String = agent.chars().take(128).collect();
    let missing = || ApiError::caller(422, format!("the tenant has no agent {shown:?}"));
    found.map(|agent| agent.id).ok_or_else(missing)
}

/// Checks that every plugin is installed, has the role that it is named for, and accepts the channel's settings.
async fn check_plugins(
    state: &AdminState,
    tenant: TenantId,
    agent: AgentId,
    definition: &ChannelDefinition,
) -> Result<(), ApiError> {
    let verifier = match &definition.verifier {
        Verification::By(plugin) => Some((plugin, "verifier")),
        Verification::Off => None,
    };
    let mapper = definition.mapper.as_ref().map(|plugin| (plugin, "payload-mapper"));
    let replier = definition.replier.as_ref().map(|plugin| (plugin, "replier"));
    let mut seen: Vec<&PluginName> = Vec::new();
    // The settings that the plugins declare. None if one of them does not declare its settings.
    let mut declared = Some(BTreeSet::new());
    for (plugin, role) in [verifier, mapper, replier].into_iter().flatten() {
        agents::check_role(state, tenant, plugin, role).await?;
        if seen.contains(&plugin) {
            continue;
        }
        seen.push(plugin);
        let binding = state.plugins.binding(tenant, plugin).await?;
        if !binding.role_names().contains(&"about") {
            declared = None;
            continue;
        }
        let schema = binding.config_schema(Subject::new(tenant, agent, RequestId::next())).await;
        let schema =
            schema.value.map_err(|error| ApiError::from_plugin(plugin.as_str(), &error))?;
        match (setting_names(&schema), &mut declared) {
            (Some(names), Some(declared)) => declared.extend(names),
            _ => declared = None,
        }
        let mut settings = binding.settings().clone();
        settings.extend(definition.settings.clone());
        let settings = serde_json::to_string(&settings).unwrap_or_default();
        let subject = Subject::new(tenant, agent, RequestId::next());
        let found = binding.check_config(subject, settings).await.value;
        let found = found.map_err(|error| ApiError::from_plugin(plugin.as_str(), &error))?;
        if !found.is_empty() {
            let found = found.iter().map(|one| format!("{}: {}", one.pointer, one.message));
            let found = found.collect::<Vec<_>>().join("; ");
            let detail = format!("the plugin {plugin} does not accept the settings: {found}");
            return Err(ApiError::caller(422, detail));
        }
    }
    // A name that no plugin declares is a mistake: the setting that was meant would silently keep its default.
    let undeclared = declared.filter(|_| !seen.is_empty()).and_then(|declared| {
        definition
            .settings
            .keys()
            .find(|name| !declared.contains(*name))
            .map(|name| (name, declared))
    });
    if let Some((name, declared)) = undeclared {
        let known = declared.into_iter().collect::<Vec<_>>().join(", ");
        let detail =
            format!("none of the channel's plugins has a setting {name:?}; they have {known}");
        return Err(ApiError::caller(422, detail));
    }
    Ok(())
}
