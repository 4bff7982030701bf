//! The plugins whose tools the operator publishes at `/mcp`.

use std::path::Path;
use std::sync::Arc;

use super::grants::parse_grants;
use super::{PluginUnavailable, Plugins};
use crate::disk::run_blocking;
use crate::ids::{PluginName, TenantId};
use crate::sandbox::Binding;

impl Plugins {
    /// The published plugins of a tenant, by name. One that cannot be loaded is left out, and logged.
    ///
    /// # Errors
    /// If the store or the folder of the tenant's grants cannot be read.
    pub async fn published(
        &self,
        tenant: TenantId,
    ) -> Result<Vec<Arc<Binding>>, PluginUnavailable> {
        let mut published = Vec::new();
        for name in self.names_with_grants(tenant).await? {
            // A file that grants something else need not be bound, which may compile a component.
            let text = self.grants_text(tenant, &name).await?;
            if !parse_grants(&name, &text).is_ok_and(|grants| grants.publishes_tools()) {
                continue;
            }
            match self.published_plugin(tenant, &name).await {
                Ok(binding) => published.extend(binding),
                Err(error @ PluginUnavailable::Store(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(%tenant, plugin = %name, %error, "a published plugin is left out");
                }
            }
        }
        Ok(published)
    }

    /// A plugin of a tenant. None if it is not published.
    ///
    /// # Errors
    /// [`PluginUnavailable`].
    pub async fn published_plugin(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<Option<Arc<Binding>>, PluginUnavailable> {
        let binding = match self.binding(tenant, name).await {
            Err(PluginUnavailable::Unknown(_)) => return Ok(None),
            binding => binding?,
        };
        Ok(binding.publishes_tools().then_some(binding))
    }

    /// The names for which the tenant has a grants file, sorted.
    async fn names_with_grants(
        &self,
        tenant: TenantId,
    ) -> Result<Vec<PluginName>, PluginUnavailable> {
        let folder = self.folder.join("grants").join(tenant.to_string());
        let names = run_blocking(move || match std::fs::read_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>(),
        });
        let names: Vec<std::ffi::OsString> =
            names.await.map_err(PluginUnavailable::GrantsFolder)?;
        let name = |file: &std::ffi::OsString| -> Option<PluginName> {
            let file = Path::new(file);
            let is_grants = file.extension().is_some_and(|extension| extension == "toml");
            file.file_stem().filter(|_| is_grants)?.to_str()?.parse().ok()
        };
        let mut names: Vec<PluginName> = names.iter().filter_map(name).collect();
        names.sort_unstable();
        Ok(names)
    }
}
