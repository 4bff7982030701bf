//! `wardgate plugin rollback`.

use http::Method;
use serde_json::json;

use super::super::api::{ForTenant, Target, text};
use super::super::print;
use super::describe::{notes, roles};
use crate::ids::{PluginDigest, PluginName};
use crate::settings::Settings;

/// `wardgate plugin rollback …`. Another rollback goes back further. Versions that were rolled back from are passed
/// over once something else has been installed.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Rollback {
    /// Name of the plugin.
    name: PluginName,
    /// Digest of a stored version, earlier or later, as `plugin versions` prints it.
    #[arg(long, value_name = "DIGEST")]
    to: Option<PluginDigest>,
    #[command(flatten)]
    tenant: ForTenant,
    #[command(flatten)]
    target: Target,
}

impl Rollback {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        let api = self.target.open(settings).await?;
        let tenant = self.tenant.resolve(&api).await?;
        let path = format!("/admin/tenants/{tenant}/plugins/{}/rollback", self.name);
        let body = json!({"to": self.to.map(|digest| digest.to_string())}).to_string();
        let body = ("application/json", body.into());
        let current = api.call(Method::POST, &path, Some(body)).await?;
        print(&format!(
            "rolled {} back to {} of {}, from {}, with the roles {}{}",
            self.name,
            text(&current, "digest"),
            text(&current, "installed_at"),
            text(&current, "provenance"),
            roles(&current),
            notes(&current)
        ))
    }
}
