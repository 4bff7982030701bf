//! `wardgate mcp`.

use std::path::PathBuf;

use http::Method;
use serde_json::Value;

use super::api::{ForTenant, Target, read_file, text};
use super::{one_line, print};
use crate::ids::McpServerName;
use crate::settings::Settings;
use crate::tenants::McpServerDefinition;

/// `wardgate mcp …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Mcp {
    /// Store an MCP server of a tenant from a TOML or JSON file, or replace the one of that name.
    #[command(after_help = "\
An MCP server file:
  url = \"https://mcp.example.com/mcp\"       # an admin's is HTTPS and public
  seconds_max = 60                            # of one call
  [auth]
  type = \"api_key\"                          # or \"custom_headers\", \"none\"
  secret = \"crm-key\"                        # the tenant's: `wardgate secret set crm-key --use send`
  # header = \"x-api-key\"                    # Authorization: Bearer if omitted
  # type = \"oauth2\": token_url, client_id, client_secret (a secret), scope, refresh_token (a secret)
  # headers = { x-team = \"crm-team\" }       # for custom_headers: secrets by header
An agent file then has:
  mcp_servers = [{ server = \"crm\", allowed_tools = [\"search\"] }]
  [tool_policies]
  crm__search = { policy = \"allow\", only_reads = true, digest = \"…\" }  # from `wardgate mcp tools crm`")]
    Apply {
        /// Name of the server, which agents use: lower-case letters, digits and hyphens.
        name: McpServerName,
        /// MCP server file: JSON if its name ends in .json, TOML otherwise.
        #[arg(value_name = "FILE")]
        definition: PathBuf,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// List a tenant's MCP servers: name, URL and who has set it.
    List {
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Connect to an MCP server and list its tools: name for agents, digest for their policies, description.
    Tools(Named),
    /// Remove an MCP server.
    ///
    /// Runs of agents that use it go on without its tools.
    Remove(Named),
}

/// An MCP server of a tenant.
#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// Name of the server.
    name: McpServerName,
    #[command(flatten)]
    tenant: ForTenant,
    #[command(flatten)]
    target: Target,
}

impl Mcp {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::Apply { name, definition, tenant, target } => {
                let definition: McpServerDefinition = read_file(&definition, "an MCP server file")?;
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                let path = format!("/admin/tenants/{tenant}/mcp-servers/{name}");
                let body = ("application/json", serde_json::to_vec(&definition)?.into());
                api.call(Method::PUT, &path, Some(body)).await?;
                print(&format!("MCP server {name} is set"))
            }
            Self::List { tenant, target } => {
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                let servers = api.get(&format!("/admin/tenants/{tenant}/mcp-servers")).await?;
                let lines = servers.as_array().into_iter().flatten().map(|server| {
                    let definition = server.get("definition").unwrap_or(&Value::Null);
                    let [name, by] = ["name", "set_by"].map(|field| text(server, field));
                    format!("{name}\t{}\t{by}", text(definition, "url"))
                });
                print(&lines.collect::<Vec<_>>().join("\n"))
            }
            Self::Tools(Named { name, tenant, target }) => {
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                let path = format!("/admin/tenants/{tenant}/mcp-servers/{name}/tools");
                let listed = api.get(&path).await?;
                let lines = |field: &str| listed.get(field).and_then(Value::as_array).cloned();
                let tools = lines("tools").into_iter().flatten().map(|tool| {
                    let [name, digest, description] =
                        ["name", "digest", "description"].map(|field| text(&tool, field));
                    format!("{name}\t{digest}\t{}", one_line(description))
                });
                let notes = lines("notes").into_iter().flatten();
                let notes =
                    notes.map(|note| format!("# {}", one_line(note.as_str().unwrap_or(""))));
                print(&tools.chain(notes).collect::<Vec<_>>().join("\n"))
            }
            Self::Remove(Named { name, tenant, target }) => {
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                api.delete(&format!("/admin/tenants/{tenant}/mcp-servers/{name}")).await?;
                print(&format!("removed {name}"))
            }
        }
    }
}
