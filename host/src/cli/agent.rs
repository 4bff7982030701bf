//! `wardgate agent`.

use std::path::PathBuf;

use anyhow::bail;
use http::Method;
use serde_json::{Value, json};

use super::api::{
    Api, Body, ForTenant, Target, agent_by_name, agent_id, error_message, read_file, text,
};
use super::print;
use crate::ids::TenantId;
use crate::settings::Settings;
use crate::tenants::AgentDefinition;

/// Attempts to apply an agent while other clients change it.
const TRIES_MAX: usize = 5;

/// `wardgate agent …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Agent {
    /// Create an agent from a TOML or JSON file, or update the tenant's agent of that name.
    ///
    /// Prints the agent's id, version and webhook path as JSON. Applying the same file again changes nothing. A
    /// gateway that serves from the --data folder sees the change within a second.
    #[command(after_help = "\
An agent file:
  name = \"support\"
  description = \"Answers support requests\"
  instructions = \"You answer support requests.\"
  model = \"offline\"                   # or one of the settings' [models]
  tools = [\"calculator\", \"http-fetch\"]
  mapper = \"my-mapper\"                # left out: the documented params_mapping
  getter = \"my-getter\"                # left out: the documented getter
  allow_destructive_tools = false
  turns_max = 8
  idempotency_arguments = { charge = \"key\" }   # an argument of a tool that gets the call's idempotency key
  output_schema = { type = \"object\", required = [\"city\"], properties = { city = { type = \"string\" } } }
                                      # answers are JSON of this form; needs a language model
  [budget]                            # what its runs may spend; a run that reaches a limit fails
  tokens_max = 200000                 # of one run: input that no cache held, and output
  tokens_per_day_max = 5000000        # also: cost_micros_max, cost_micros_per_day_max,
  seconds_max = 300                   # tool_calls_max")]
    Apply {
        /// Agent file: JSON if its name ends in .json, TOML otherwise.
        #[arg(value_name = "FILE")]
        definition: PathBuf,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// List a tenant's agents.
    List {
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Print an agent as JSON.
    Show(AgentArgs),
    /// Make an agent reject new tasks; callers get status 403.
    Disable(AgentArgs),
    /// Make an agent accept new tasks again.
    Enable(AgentArgs),
}

/// An agent of a tenant.
#[derive(Debug, clap::Args)]
pub(super) struct AgentArgs {
    /// Agent, by id or name.
    agent: String,
    #[command(flatten)]
    tenant: ForTenant,
    #[command(flatten)]
    target: Target,
}

impl AgentArgs {
    /// Opens the API and returns it with the agent's path.
    pub(super) async fn path(&self, settings: &Settings) -> anyhow::Result<(Api, String)> {
        let api = self.target.open(settings).await?;
        let tenant = self.tenant.resolve(&api).await?;
        let agent = agent_id(&api, tenant, &self.agent).await?;
        Ok((api, format!("/admin/tenants/{tenant}/agents/{agent}")))
    }
}

impl Agent {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::Apply { definition, tenant, target } => {
                let definition: AgentDefinition = read_file(&definition, "an agent file")?;
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                let agent = apply(&api, tenant, &definition).await?;
                let id = text(&agent, "id");
                let webhook =
                    api.get(&format!("/admin/tenants/{tenant}/agents/{id}/webhook")).await?;
                let url = webhook.get("url").and_then(Value::as_str);
                let path = url.and_then(|url| Some(&url[url.find("/api/webhooks/")?..]));
                let line = json!({
                    "organization_id": tenant,
                    "agent_id": id,
                    "version": agent.get("version"),
                    "webhook_path": path,
                });
                print(&line.to_string())
            }
            Self::List { tenant, target } => {
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                let agents = api.get(&format!("/admin/tenants/{tenant}/agents")).await?;
                let lines = agents.as_array().into_iter().flatten().map(|agent| {
                    let name = agent.pointer("/definition/name").and_then(Value::as_str);
                    let enabled = agent.get("enabled") == Some(&Value::Bool(true));
                    let note = if enabled { "" } else { "\tdisabled" };
                    format!("{}\t{}{note}", text(agent, "id"), name.unwrap_or_default())
                });
                print(&lines.collect::<Vec<_>>().join("\n"))
            }
            Self::Show(one) => {
                let (api, path) = one.path(settings).await?;
                print(&format!("{:#}", api.get(&path).await?))
            }
            Self::Disable(one) => {
                let (api, path) = one.path(settings).await?;
                api.post(&format!("{path}/disable")).await?;
                print("it takes no new tasks")
            }
            Self::Enable(one) => {
                let (api, path) = one.path(settings).await?;
                api.post(&format!("{path}/enable")).await?;
                print("it takes new tasks")
            }
        }
    }
}

/// Creates or updates the agent of this name, and retries if other clients change it meanwhile.
async fn apply(api: &Api, tenant: TenantId, definition: &AgentDefinition) -> anyhow::Result<Value> {
    let body = || -> anyhow::Result<Body> {
        Ok(("application/json", serde_json::to_vec(definition)?.into()))
    };
    let agents = format!("/admin/tenants/{tenant}/agents");
    for _ in 0..TRIES_MAX {
        let known = agent_by_name(api, tenant, definition.name.as_str()).await?;
        let (method, path) = match &known {
            None => (Method::POST, agents.clone()),
            Some(agent) => (Method::PUT, format!("{agents}/{}", text(agent, "id"))),
        };
        let version = known.as_ref().and_then(|agent| agent.get("version")?.as_u64());
        match api.try_call(method, &path, Some(body()?), version).await? {
            (200..=299, agent) => return Ok(agent),
            // Another client has created or changed the agent since it was read.
            (409 | 412, _) => {}
            (status, answer) => bail!("{}", error_message(status, &answer)),
        }
    }
    bail!("another client keeps changing this agent; nothing was applied")
}
