//! `wardgate plugin`.

use std::path::PathBuf;

use anyhow::Context as _;

use super::{Folder, ForTenant, print};
use crate::ids::PluginName;
use crate::sandbox::BUNDLED;
use crate::settings::Settings;

/// `wardgate plugin …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Plugin {
    /// Install a component for a tenant, or replace the one of the same name. It is compiled and
    /// checked first; a gateway that serves from the folder uses it within five seconds.
    Install {
        /// The component.
        #[arg(value_name = "FILE")]
        component: PathBuf,
        /// Its name for agents. The file's name without its ending, `_` as `-`, where left out.
        #[arg(long)]
        name: Option<PluginName>,
        /// What it may do: a TOML file with `[[egress]]`, `[settings]` and `[limits]`. Where left out,
        /// what the tenant's file of that plugin says stays in force; where there is none, it may
        /// compute and nothing else.
        #[arg(long, value_name = "FILE")]
        grants: Option<PathBuf>,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        folder: Folder,
    },
    /// List the plugins of a tenant.
    List {
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        folder: Folder,
    },
}

impl Plugin {
    pub(super) async fn run(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::Install { component, name, grants, tenant, folder } => {
                let folder = folder.open().await?;
                let tenant = tenant.resolve(&folder).await?;
                let name = name.map_or_else(|| name_of(&component), Ok)?;
                let bytes = std::fs::read(&component)
                    .with_context(|| format!("cannot read {}", component.display()))?;
                let grants = grants
                    .map(|path| {
                        std::fs::read_to_string(&path)
                            .with_context(|| format!("cannot read {}", path.display()))
                    })
                    .transpose()?;
                let plugins = folder.plugins(settings)?;
                let (installed, roles) =
                    plugins.install(tenant, &name, bytes, grants.as_deref()).await?;
                print(&format!(
                    "installed {name} ({}) with the roles {}\nwhat it may do is in {}",
                    installed.digest,
                    roles.join(", "),
                    plugins.grants_path(tenant, &name).display(),
                ))
            }
            Self::List { tenant, folder } => {
                let folder = folder.open().await?;
                let tenant = tenant.resolve(&folder).await?;
                let installed = folder.store.plugins(tenant).await?;
                let mut lines: Vec<String> = installed
                    .iter()
                    .map(|plugin| {
                        format!("{}\t{}\t{}", plugin.name, plugin.digest, plugin.installed_at.iso())
                    })
                    .collect();
                let own = |name: &str| installed.iter().any(|plugin| plugin.name.as_str() == name);
                let bundled = BUNDLED.iter().filter(|(name, _)| !own(name));
                lines.extend(bundled.map(|(name, _)| format!("{name}\tbundled")));
                print(&lines.join("\n"))
            }
        }
    }
}

fn name_of(component: &std::path::Path) -> anyhow::Result<PluginName> {
    let stem = component.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let name = stem.replace('_', "-").to_ascii_lowercase();
    name.parse()
        .with_context(|| format!("{stem:?} does not make a plugin name; give one with --name"))
}
