//! `wardgate key`.

use super::{Folder, ForTenant, print};
use crate::secrets::PlainSecret;
use crate::tenants::KeyHolder;

/// `wardgate key …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Key {
    /// Create an API key of a tenant and print it. It is shown this once; only its hash is stored.
    Create {
        /// What it is for.
        #[arg(long, default_value = "")]
        name: String,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        folder: Folder,
    },
}

impl Key {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self::Create { name, tenant, folder } = self;
        let folder = folder.open().await?;
        let tenant = tenant.resolve(&folder).await?;
        let key = PlainSecret::random_api_key()?;
        folder.store.put_key(key.hash(), KeyHolder::Tenant(tenant), &name).await?;
        print(key.reveal())
    }
}
