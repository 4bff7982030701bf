//! `wardgate plugin show` and `wardgate plugin release`.

use anyhow::bail;

use super::super::api::{ForTenant, Target};
use super::super::print;
use crate::ids::PluginName;
use crate::settings::Settings;

/// A plugin of a tenant.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct PluginArgs {
    /// Name of the plugin.
    name: PluginName,
    #[command(flatten)]
    tenant: ForTenant,
    #[command(flatten)]
    target: Target,
}

impl PluginArgs {
    /// Prints the plugin as JSON.
    pub(super) async fn show(self, settings: &Settings) -> anyhow::Result<()> {
        let api = self.target.open(settings).await?;
        let tenant = self.tenant.resolve(&api).await?;
        let path = format!("/admin/tenants/{tenant}/plugins/{}", self.name);
        print(&format!("{:#}", api.get(&path).await?))
    }

    /// Ends the plugin's quarantine.
    pub(super) async fn release(self, settings: &Settings) -> anyhow::Result<()> {
        let api = self.target.open(settings).await?;
        if api.folder().is_some() {
            bail!(
                "a running gateway knows by itself what it has cut off: say which with --url and \
                 --key-file"
            );
        }
        let tenant = self.tenant.resolve(&api).await?;
        api.post(&format!("/admin/tenants/{tenant}/plugins/{}/release", self.name)).await?;
        print(&format!("released {}", self.name))
    }
}
