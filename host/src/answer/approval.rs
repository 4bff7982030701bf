//! Approvals: tool calls that a person decides about.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::parsed;
use crate::access::approval_links::ApprovalLinks;
use crate::approval::{Approval, ApprovalStatus, DecidedBy};
use crate::ids::{AgentId, ApprovalId, TaskId};

/// A tool call that a person decides about. Its task is paused meanwhile.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Approval)]
pub struct ApprovalAnswer<'a> {
    id: ApprovalId,
    task_id: TaskId,
    agent_id: AgentId,
    status: ApprovalStatus,
    /// The tool, as the model names it.
    tool_name: &'a str,
    /// What the tool is called with.
    #[schema(value_type = Value)]
    arguments: Value,
    /// Whether the call was under way when the gateway stopped, so that its outcome is unknown. If it is
    /// approved, it is made again.
    outcome_is_unknown: bool,
    #[schema(format = DateTime)]
    created_at: String,
    /// The latest time of a decision.
    #[schema(format = DateTime)]
    expires_at: String,
    #[schema(format = DateTime)]
    decided_at: Option<String>,
    decided_by: Option<DecidedBy>,
    /// What was said with the decision. With a denial, the model is told.
    comment: Option<&'a str>,
    /// A page for a person, without a key; `POST` to the same URL approves. Null unless the status is `pending`.
    approve_url: Option<String>,
    /// The same for the opposite decision.
    deny_url: Option<String>,
}

impl<'a> ApprovalAnswer<'a> {
    /// Builds the answer, with links for those who may decide.
    #[must_use]
    pub fn new(approval: &'a Approval, links: Option<&ApprovalLinks>) -> Self {
        let decided = approval.decided.as_ref();
        let links = links.filter(|_| decided.is_none());
        let url = |approves| links.map(|links| links.url(approval.id, approves));
        Self {
            id: approval.id,
            task_id: approval.task,
            agent_id: approval.agent,
            status: approval.status(),
            tool_name: &approval.tool,
            arguments: parsed(&approval.arguments),
            outcome_is_unknown: approval.position.round > 0,
            created_at: approval.created_at.iso(),
            expires_at: approval.expires_at.iso(),
            decided_at: decided.map(|decided| decided.at.iso()),
            decided_by: decided.map(|decided| decided.by),
            comment: decided.and_then(|decided| decided.comment.as_deref()),
            approve_url: url(true),
            deny_url: url(false),
        }
    }
}
