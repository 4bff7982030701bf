//! The subject of a plugin call: its tenant and agent, and the request or task that it is about.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bound_secret::BoundSecret;
use super::recording::{SharedScript, lock};
use crate::ids::{AgentId, ChannelId, Name, RequestId, TenantId};
use crate::request::{IncomingRequest, Payload};

/// The subject of a plugin call.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The id of the request, for logs and support.
    pub request_id: RequestId,
    /// The tenant on whose behalf the plugin is called.
    pub tenant: TenantId,
    /// The agent. None if a published tool is called, which is no agent's.
    pub agent: Option<AgentId>,
    /// The request, if the call is made while it is being handled.
    pub request: Option<Arc<IncomingRequest>>,
    /// The task as callers see it, if there is one.
    pub task: Option<Arc<Payload>>,
    /// The channel that received the request, if one did.
    pub channel: Option<Arc<ChannelContext>>,
    /// The caller as identified by the channel's verifier, as JSON.
    pub principal: Option<Arc<str>>,
    /// The key of a tool call in a run: the same whenever this call is made again.
    pub idempotency_key: Option<Arc<str>>,
    /// The host's scripted answers, if the call is a test or a replay.
    pub script: Option<SharedScript>,
}

impl Subject {
    /// A subject without request, task or channel.
    #[must_use]
    pub fn new(tenant: TenantId, agent: AgentId, request_id: RequestId) -> Self {
        Self { agent: Some(agent), ..Self::of_tenant(tenant, request_id) }
    }

    /// A subject without agent, request, task or channel.
    #[must_use]
    pub fn of_tenant(tenant: TenantId, request_id: RequestId) -> Self {
        Self {
            request_id,
            tenant,
            agent: None,
            request: None,
            task: None,
            channel: None,
            principal: None,
            idempotency_key: None,
            script: None,
        }
    }

    /// Whether the call is a test: its script was not made from a recording.
    pub(super) fn is_test(&self) -> bool {
        self.script.as_ref().is_some_and(|script| lock(script).value_answers.is_none())
    }

    /// The size of the documents that the plugin can look into, in bytes.
    pub(super) fn document_bytes(&self) -> usize {
        let request = self.request.as_ref().map_or(0, |request| request.body.len());
        request + self.task.as_ref().map_or(0, |task| task.text().len())
    }
}

/// A channel as its plugins see it. Its settings and secrets take precedence over those of a plugin's grants.
#[derive(Debug, Clone)]
pub struct ChannelContext {
    /// The channel's id.
    pub id: ChannelId,
    /// The channel's name within the tenant.
    pub name: Name,
    /// The URL that callers use, without a query.
    pub url: String,
    /// Settings for the channel's plugins.
    pub settings: BTreeMap<String, String>,
    /// The bound secrets, by the names that the plugins use.
    pub secrets: BTreeMap<String, BoundSecret>,
}
