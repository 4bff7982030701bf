//! `wardgate task`.

use serde_json::Value;

use super::api::{Api, ForTenant, Target, text};
use super::print;
use crate::settings::Settings;
use crate::tasks::{DeliveryStatus, Status};

/// `wardgate task …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Task {
    /// List a tenant's newest tasks: id, status, agent and time of acceptance.
    List {
        /// Only tasks of this status.
        #[arg(long)]
        status: Option<Status>,
        /// Page number, from 1.
        #[arg(long, default_value_t = 1)]
        page: u32,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Print a task as JSON.
    Show(TaskArgs),
    /// Stop a task.
    ///
    /// A task that another process runs from the --data folder stops within a third of a lease.
    Stop(TaskArgs),
    /// List the newest deliveries of answers: task, status, attempts and last error.
    Deliveries {
        /// Only deliveries of this status: waiting (for the task's end), due, delivered or dead (given up).
        #[arg(long)]
        status: Option<DeliveryStatus>,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Deliver a task's answer again, even if it was delivered or given up.
    Redeliver(TaskArgs),
    /// Delete a task and everything that belongs to it.
    Delete(TaskArgs),
}

/// A task of a tenant.
#[derive(Debug, clap::Args)]
pub(super) struct TaskArgs {
    /// Id of the task.
    task: String,
    #[command(flatten)]
    tenant: ForTenant,
    #[command(flatten)]
    target: Target,
}

impl TaskArgs {
    async fn path(&self, settings: &Settings) -> anyhow::Result<(Api, String)> {
        let api = self.target.open(settings).await?;
        let tenant = self.tenant.resolve(&api).await?;
        let task: String = url::form_urlencoded::byte_serialize(self.task.as_bytes()).collect();
        Ok((api, format!("/admin/tenants/{tenant}/tasks/{}", task.replace('+', "%20"))))
    }
}

impl Task {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::List { status, page, tenant, target } => {
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                let status = status.map(|status| format!("&status={status}")).unwrap_or_default();
                let path = format!("/admin/tenants/{tenant}/tasks?page={page}{status}");
                let listed = api.get(&path).await?;
                let tasks = listed.get("items").and_then(|items| items.as_array());
                let lines = tasks.into_iter().flatten().map(|task| {
                    let [id, status, agent, at] =
                        ["id", "status", "agent_id", "created_at"].map(|field| text(task, field));
                    format!("{id}\t{status}\t{agent}\t{at}")
                });
                print(&lines.collect::<Vec<_>>().join("\n"))
            }
            Self::Show(one) => {
                let (api, path) = one.path(settings).await?;
                print(&format!("{:#}", api.get(&path).await?))
            }
            Self::Stop(one) => {
                let (api, path) = one.path(settings).await?;
                print(text(&api.post(&format!("{path}/stop")).await?, "status"))
            }
            Self::Deliveries { status, tenant, target } => {
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                let status = status.map(|status| format!("?status={status}")).unwrap_or_default();
                let found = api.get(&format!("/admin/tenants/{tenant}/deliveries{status}")).await?;
                let lines = found.as_array().into_iter().flatten().map(|delivery| {
                    let [task, status, reason] =
                        ["task", "status", "reason"].map(|field| text(delivery, field));
                    let tries = delivery.get("attempts").unwrap_or(&Value::Null);
                    format!("{task}\t{status}\t{tries}\t{reason}")
                });
                print(&lines.collect::<Vec<_>>().join("\n"))
            }
            Self::Redeliver(one) => {
                let (api, path) = one.path(settings).await?;
                api.post(&format!("{path}/redeliver")).await?;
                print("it is tried again")
            }
            Self::Delete(one) => {
                let (api, path) = one.path(settings).await?;
                api.delete(&path).await?;
                print("deleted")
            }
        }
    }
}
