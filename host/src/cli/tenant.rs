//! `wardgate tenant`.

use serde_json::json;

use super::api::{Target, text};
use super::print;
use crate::settings::Settings;

/// `wardgate tenant …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Tenant {
    /// Create a tenant and print its id.
    Create {
        /// Unique name of the tenant.
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// List the tenants.
    List {
        #[command(flatten)]
        target: Target,
    },
}

impl Tenant {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::Create { name, target } => {
                let api = target.open_or_create(settings).await?;
                let tenant = api.post_json("/admin/tenants", &json!({"name": name})).await?;
                print(text(&tenant, "id"))
            }
            Self::List { target } => {
                let tenants = target.open(settings).await?.get("/admin/tenants").await?;
                let lines = tenants.as_array().into_iter().flatten();
                let lines =
                    lines.map(|tenant| format!("{}\t{}", text(tenant, "id"), text(tenant, "name")));
                print(&lines.collect::<Vec<_>>().join("\n"))
            }
        }
    }
}
