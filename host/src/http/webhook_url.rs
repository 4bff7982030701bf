//! `/api/agent_webhook`: manages an agent's own webhook URL, as in DocsGPT's API (CONTRACT D5). It takes a key of the
//! agent's tenant or of an operator, in `x-api-key` or as a bearer token.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode, Uri};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::error::ApiError;
use super::extract::header_key_or_bearer;
use super::layers::record_tenant;
use super::reply::json;
use super::responses::WebhookUrlErrors;
use crate::access::webhooks::Webhooks;
use crate::access::{Access, AdminCaller};
use crate::ids::AgentId;
use crate::intake;
use crate::secrets::PlainSecret;
use crate::store::Store;

/// The agent that the webhook belongs to.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "documentation: the query is read by hand, for errors in DocsGPT's shape"
)]
pub(super) struct WebhookQuery {
    /// The agent's id.
    id: String,
}

/// The services that these routes use.
#[derive(Debug)]
pub(super) struct WebhookUrlState {
    pub(super) access: Access,
    pub(super) store: Store,
    pub(super) webhooks: Webhooks,
}

/// The URL of an agent's webhook.
#[derive(Serialize, ToSchema)]
pub(super) struct WebhookUrl {
    success: bool,
    /// A secret: anyone who knows this URL can trigger the agent. Absent once it is revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_url: Option<String>,
}

/// Read the URL of an agent's webhook.
///
/// The URL is created once and stays the same until it is rotated.
#[utoipa::path(get, path = "/api/agent_webhook",
    operation_id = "read_webhook_url", tag = "DocsGPT", params(WebhookQuery),
    responses((status = 200, body = WebhookUrl), WebhookUrlErrors), security(("api_key" = []), ("bearer" = [])))]
pub(super) async fn read(
    State(state): State<Arc<WebhookUrlState>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let (owner, agent) = owner(&state, &headers, &uri).await?;
    let token = state.webhooks.token(owner.tenant(), agent).await.map_err(shaped)?;
    let token = token.ok_or_else(|| {
        let detail = "the webhook was revoked; rotate it to get a new one";
        ApiError::caller(404, detail).shaped_as_docsgpt()
    })?;
    Ok(answer(&state, Some(&token)))
}

/// Rotate the URL of an agent's webhook.
///
/// The previous URL stops working at once.
#[utoipa::path(post, path = "/api/agent_webhook/rotate",
    operation_id = "rotate_webhook_url", tag = "DocsGPT", params(WebhookQuery),
    responses((status = 200, body = WebhookUrl), WebhookUrlErrors), security(("api_key" = []), ("bearer" = [])))]
pub(super) async fn rotate(
    State(state): State<Arc<WebhookUrlState>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let (owner, agent) = owner(&state, &headers, &uri).await?;
    let token = state.webhooks.rotate(owner.tenant(), agent).await.map_err(shaped)?;
    Ok(answer(&state, Some(&token)))
}

/// Revoke the URL of an agent's webhook.
///
/// The URL stops working at once, and no new one is created.
#[utoipa::path(delete, path = "/api/agent_webhook",
    operation_id = "revoke_webhook_url", tag = "DocsGPT", params(WebhookQuery),
    responses((status = 200, body = WebhookUrl), WebhookUrlErrors), security(("api_key" = []), ("bearer" = [])))]
pub(super) async fn revoke(
    State(state): State<Arc<WebhookUrlState>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let (owner, agent) = owner(&state, &headers, &uri).await?;
    state.store.revoke_webhook(owner.tenant(), agent).await.map_err(shaped)?;
    Ok(answer(&state, None))
}

async fn owner(
    state: &WebhookUrlState,
    headers: &HeaderMap,
    uri: &Uri,
) -> Result<(AdminCaller, AgentId), ApiError> {
    let key = header_key_or_bearer(headers).map_err(ApiError::shaped_as_docsgpt)?;
    if key.is_none() {
        return Err(ApiError::from(crate::access::Denied::NoKey).shaped_as_docsgpt());
    }
    let pairs = intake::decode_query(uri.query().unwrap_or_default());
    let pairs = pairs.map_err(|error| ApiError::from(error).shaped_as_docsgpt())?;
    let id = pairs.into_iter().find(|(name, id)| name == "id" && !id.is_empty());
    let (_, id) = id.ok_or_else(|| ApiError::caller(400, "ID is required").shaped_as_docsgpt())?;
    let unknown = || ApiError::not_found("Agent").shaped_as_docsgpt();
    // An invalid id is replaced by a random one, so that a wrong key is still reported first.
    let agent: Option<AgentId> = id.parse().ok();
    let requested_agent = agent.unwrap_or_else(AgentId::random);
    let owner = state.access.webhook_owner(key.as_deref(), requested_agent).await;
    let owner = owner.map_err(|denied| ApiError::from(denied).shaped_as_docsgpt())?;
    let owner = owner.ok_or_else(unknown)?;
    record_tenant(owner.tenant());
    Ok((owner, agent.ok_or_else(unknown)?))
}

fn answer(state: &WebhookUrlState, token: Option<&PlainSecret>) -> Response {
    let webhook_url = token.map(|token| state.webhooks.url(token));
    json(StatusCode::OK, &WebhookUrl { success: true, webhook_url })
}

fn shaped(error: crate::store::StoreError) -> ApiError {
    ApiError::from(error).shaped_as_docsgpt()
}
