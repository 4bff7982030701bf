//! `wardgate approval`.

use serde_json::json;

use super::api::{ForTenant, Target, text};
use super::{one_line, print};
use crate::approval::ApprovalStatus;
use crate::settings::Settings;

/// `wardgate approval …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Approval {
    /// List a tenant's newest approvals: id, status, task, end of the time to decide, tool and arguments.
    List {
        /// Only approvals of this status.
        #[arg(long)]
        status: Option<ApprovalStatus>,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Approve a tool call; its task goes on.
    Approve(Decision),
    /// Deny a tool call; its task goes on without it.
    Deny(Decision),
}

/// A decision about an approval.
#[derive(Debug, clap::Args)]
pub(super) struct Decision {
    /// Id of the approval.
    approval: crate::ids::ApprovalId,
    /// Reason; with a denial, the model is told.
    #[arg(long)]
    comment: Option<String>,
    #[command(flatten)]
    tenant: ForTenant,
    #[command(flatten)]
    target: Target,
}

impl Decision {
    async fn send(self, settings: &Settings, decision: &str) -> anyhow::Result<()> {
        let api = self.target.open(settings).await?;
        let tenant = self.tenant.resolve(&api).await?;
        let path = format!("/admin/tenants/{tenant}/approvals/{}/{decision}", self.approval);
        let answer = api.post_json(&path, &json!({"comment": self.comment})).await?;
        print(text(&answer, "status"))
    }
}

impl Approval {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::List { status, tenant, target } => {
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                let status = status.map(|status| format!("?status={status}")).unwrap_or_default();
                let listed = api.get(&format!("/admin/tenants/{tenant}/approvals{status}")).await?;
                let lines = listed.as_array().into_iter().flatten().map(|approval| {
                    let [id, status, task, until, tool] =
                        ["id", "status", "task_id", "expires_at", "tool_name"]
                            .map(|field| text(approval, field));
                    let arguments = approval.get("arguments").map(ToString::to_string);
                    let arguments = one_line(&arguments.unwrap_or_default());
                    format!("{id}\t{status}\t{task}\t{until}\t{}\t{arguments}", one_line(tool))
                });
                print(&lines.collect::<Vec<_>>().join("\n"))
            }
            Self::Approve(decision) => decision.send(settings, "approve").await,
            Self::Deny(decision) => decision.send(settings, "deny").await,
        }
    }
}
