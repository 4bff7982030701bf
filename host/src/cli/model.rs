//! `wardgate model`.

use std::path::PathBuf;

use http::Method;
use serde_json::Value;

use super::api::{ForTenant, Target, read_file, text};
use super::print;
use crate::ids::ModelName;
use crate::settings::Settings;
use crate::tenants::ModelDefinition;

/// `wardgate model …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Model {
    /// Store a model of a tenant from a TOML or JSON file, or replace the one of that name.
    ///
    /// The tenant's agents can use it beside the models of the settings, over which it takes precedence.
    #[command(after_help = "\
A model file:
  kind = \"openai-compatible\"               # or \"anthropic\", \"gemini\"
  base_url = \"https://api.openai.com/v1/\"  # the others have one; an admin's is HTTPS and public
  model = \"gpt-4o-mini\"
  api_key = \"openai\"                       # the tenant's secret: `wardgate secret set openai --use send`
  fallback = \"claude\"                      # another one of the tenant's, or one of the settings
  price = { input = 150000, output = 600000 }
All that a model of the settings can have: `wardgate settings`.")]
    Apply {
        /// Name of the model, which agents use.
        name: ModelName,
        /// Model file: JSON if its name ends in .json, TOML otherwise.
        #[arg(value_name = "FILE")]
        definition: PathBuf,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// List a tenant's models: name, kind, model and who has set it.
    List {
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Remove a model.
    ///
    /// Runs of agents that use it fail from then on.
    Remove {
        /// Name of the model.
        name: ModelName,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
}

impl Model {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::Apply { name, definition, tenant, target } => {
                let definition: ModelDefinition = read_file(&definition, "a model file")?;
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                let path = format!("/admin/tenants/{tenant}/models/{name}");
                let body = ("application/json", serde_json::to_vec(&definition)?.into());
                api.call(Method::PUT, &path, Some(body)).await?;
                print(&format!("model {name} is set"))
            }
            Self::List { tenant, target } => {
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                let models = api.get(&format!("/admin/tenants/{tenant}/models")).await?;
                let lines = models.as_array().into_iter().flatten().map(|model| {
                    let definition = model.get("definition").unwrap_or(&Value::Null);
                    let (kind, sent) = (text(definition, "kind"), text(definition, "model"));
                    format!("{}\t{kind}\t{sent}\t{}", text(model, "name"), text(model, "set_by"))
                });
                print(&lines.collect::<Vec<_>>().join("\n"))
            }
            Self::Remove { name, tenant, target } => {
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                api.delete(&format!("/admin/tenants/{tenant}/models/{name}")).await?;
                print(&format!("removed {name}"))
            }
        }
    }
}
