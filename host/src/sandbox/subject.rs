//! What a call of a plugin is about.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bound_secret::BoundSecret;
use super::recording::{SharedScript, lock};
use crate::ids::{AgentId, ChannelId, Name, RequestId, TenantId};
use crate::request::{IncomingRequest, Payload};

/// What a call is about.
#[derive(Debug, Clone)]
pub struct Subject {
    /// For logs and support.
    pub request_id: RequestId,
    /// On whose behalf.
    pub tenant: TenantId,
    /// For which agent.
    pub agent: AgentId,
    /// The request, where the call is made while it is there.
    pub request: Option<Arc<IncomingRequest>>,
    /// The task as the caller would see it, where there is one.
    pub task: Option<Arc<Payload>>,
    /// The channel that the request came in by, where it did by one.
    pub channel: Option<Arc<ChannelFacts>>,
    /// What the channel's verifier said of the caller, as JSON.
    pub principal: Option<Arc<str>>,
    /// What the host answers in place of the world, where the call is a test or a replay.
    pub script: Option<SharedScript>,
}

impl Subject {
    /// A call for this agent, about nothing yet.
    #[must_use]
    pub fn of(tenant: TenantId, agent: AgentId, request_id: RequestId) -> Self {
        Self {
            request_id,
            tenant,
            agent,
            request: None,
            task: None,
            channel: None,
            principal: None,
            script: None,
        }
    }

    /// Whether a call about it is a test: the host answers from a script that is nobody's recording.
    pub(super) fn is_rehearsed(&self) -> bool {
        self.script.as_ref().is_some_and(|script| lock(script).value_answers.is_none())
    }

    /// The length of the documents that a call about it can look into, in bytes.
    pub(super) fn document_bytes(&self) -> usize {
        let request = self.request.as_ref().map_or(0, |request| request.body.len());
        request + self.task.as_ref().map_or(0, |task| task.text().len())
    }
}

/// What a channel gives to the plugins that it binds. Its settings and secrets come before those of a
/// plugin's grants.
#[derive(Debug, Clone)]
pub struct ChannelFacts {
    /// Its id.
    pub id: ChannelId,
    /// Its name within the tenant.
    pub name: Name,
    /// Its URL as callers know it, without a query.
    pub url: String,
    /// Settings of its plugins.
    pub settings: BTreeMap<String, String>,
    /// The secrets that it binds, by what its plugins call them.
    pub secrets: BTreeMap<String, BoundSecret>,
}
