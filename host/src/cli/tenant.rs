//! `wardgate tenant`.

use super::{Folder, print};
use crate::ids::TenantId;
use crate::tenants;

/// `wardgate tenant …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Tenant {
    /// Create a tenant and print its id.
    Create {
        /// What people call it; unique.
        name: String,
        #[command(flatten)]
        folder: Folder,
    },
    /// List the tenants.
    List {
        #[command(flatten)]
        folder: Folder,
    },
}

impl Tenant {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create { name, folder } => {
                let folder = folder.open().await?;
                let tenant = tenants::Tenant { id: TenantId::random(), name };
                folder.store.create_tenant(&tenant).await?;
                print(&tenant.id.to_string())
            }
            Self::List { folder } => {
                let folder = folder.open().await?;
                let tenants = folder.store.tenants().await?;
                let lines = tenants.iter().map(|tenant| format!("{}\t{}", tenant.id, tenant.name));
                print(&lines.collect::<Vec<_>>().join("\n"))
            }
        }
    }
}
