//! `wardgate agent`.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;

use super::{Folder, ForTenant, print};
use crate::ids::AgentId;
use crate::sandbox::BUNDLED;
use crate::settings::Settings;
use crate::tenants::AgentDefinition;

/// `wardgate agent …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Agent {
    /// Create an agent from a TOML file, or replace the tenant's agent of the same name, and print its
    /// id and webhook path. A gateway that serves from the folder uses it within five seconds.
    #[command(after_help = "\
An agent file:
  name = \"support\"
  instructions = \"You answer support requests.\"
  model = \"offline\"                   # or one of the settings' [models]
  tools = [\"calculator\", \"http-fetch\"]
  mapper = \"my-mapper\"                # left out: the documented params_mapping
  getter = \"my-getter\"                # left out: the documented getter
  allow_destructive_tools = false
  turns_max = 8")]
    Apply {
        /// The file.
        #[arg(value_name = "FILE")]
        definition: PathBuf,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        folder: Folder,
    },
    /// List the agents of a tenant.
    List {
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        folder: Folder,
    },
}

impl Agent {
    pub(super) async fn run(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::Apply { definition, tenant, folder } => {
                let folder = folder.open().await?;
                let tenant = tenant.resolve(&folder).await?;
                let text = std::fs::read_to_string(&definition)
                    .with_context(|| format!("cannot read {}", definition.display()))?;
                let definition: AgentDefinition = toml::from_str(&text)
                    .with_context(|| format!("{} is no agent file", definition.display()))?;
                if definition.model != "offline" && !settings.models.contains_key(&definition.model)
                {
                    anyhow::bail!("the settings have no model {:?}", definition.model);
                }
                let plugins = definition.tools.iter().chain(&definition.mapper);
                for plugin in plugins.chain(&definition.getter) {
                    let bundled = BUNDLED.iter().any(|(name, _)| *name == plugin.as_str());
                    if !bundled && folder.store.plugin(tenant, plugin).await?.is_none() {
                        anyhow::bail!(
                            "no plugin {plugin} is installed for this tenant; `wardgate plugin install` \
                             does it"
                        );
                    }
                }
                let agents = folder.store.agents(tenant).await?;
                let same_name = agents.iter().find(|a| a.definition.name == definition.name);
                let id = same_name.map_or_else(AgentId::random, |agent| agent.id);
                let token = folder.put_agent(tenant, id, &definition).await?;
                let line = json!({
                    "organization_id": tenant,
                    "agent_id": id,
                    "webhook_path": format!("/api/webhooks/agents/{}", token.reveal()),
                });
                print(&line.to_string())
            }
            Self::List { tenant, folder } => {
                let folder = folder.open().await?;
                let tenant = tenant.resolve(&folder).await?;
                let agents = folder.store.agents(tenant).await?;
                let lines = agents.iter().map(|a| format!("{}\t{}", a.id, a.definition.name));
                print(&lines.collect::<Vec<_>>().join("\n"))
            }
        }
    }
}
