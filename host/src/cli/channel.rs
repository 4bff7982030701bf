//! `wardgate channel`.

use std::path::PathBuf;

use http::Method;
use serde_json::Value;

use super::api::{Api, ForTenant, Target, read_file, text};
use super::print;
use crate::ids::Name;
use crate::settings::Settings;
use crate::tenants::ChannelDefinition;

/// `wardgate channel …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Channel {
    /// Create a channel from a TOML or JSON file, or update the tenant's channel of that name.
    ///
    /// Prints the URL to which the provider sends its webhooks; applying a file again does not change it. A gateway
    /// that serves from the --data folder sees the change within a second.
    #[command(after_help = "\
A channel file:
  name = \"support-slack\"
  agent = \"support\"                 # by name or id
  verifier = \"slack\"                # the plugin that checks signatures; \"none\" switches that off
  mapper = \"slack\"                  # left out: the agent's own
  replier = \"slack\"                 # left out: answers are JSON
  answer = \"deliver\"                # at once, then through the replier; \"acknowledge\": at once;
                                    # \"wait\": when the run has ended
  threads = \"own\"                   # its conversations are its own; \"shared\": those of the tenant's API,
                                    # for all who may send through the channel
  [settings]
  tolerance-seconds = \"300\"
  [secrets]                         # what the plugin calls it = the tenant's secret (`wardgate secret set`)
  secret = \"slack-signing\"          # a table says its form and what plugins may do with it besides:
                                    # { secret = \"…\", prefix = \"whsec_\", encoding = \"base64\",
                                    #   use = [\"verify\", \"compare\", \"sign\"] }")]
    Apply {
        /// Channel file: JSON if its name ends in .json, TOML otherwise.
        #[arg(value_name = "FILE")]
        definition: PathBuf,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// List a tenant's channels: name, URL and agent.
    List {
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Print a channel as JSON.
    Show(ChannelArgs),
    /// Remove a channel and keep its tasks.
    ///
    /// Its URL stops working at once. A gateway that serves from the --data folder sees the change within a second.
    Remove(ChannelArgs),
}

/// A channel of a tenant.
#[derive(Debug, clap::Args)]
pub(super) struct ChannelArgs {
    /// Name of the channel.
    name: Name,
    #[command(flatten)]
    tenant: ForTenant,
    #[command(flatten)]
    target: Target,
}

impl ChannelArgs {
    async fn path(&self, settings: &Settings) -> anyhow::Result<(Api, String)> {
        let api = self.target.open(settings).await?;
        let tenant = self.tenant.resolve(&api).await?;
        let path = format!("/admin/tenants/{tenant}/channels/{}", escaped(&self.name));
        Ok((api, path))
    }
}

impl Channel {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::Apply { definition, tenant, target } => {
                let definition: ChannelDefinition = read_file(&definition, "a channel file")?;
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                let name = escaped(&definition.name);
                let path = format!("/admin/tenants/{tenant}/channels/{name}");
                let body = ("application/json", serde_json::to_vec(&definition)?.into());
                let channel = api.call(Method::PUT, &path, Some(body)).await?;
                let notes = channel.get("notes").and_then(Value::as_array);
                let notes = notes.into_iter().flatten().filter_map(Value::as_str);
                let notes = notes.map(|note| format!("\nnote: {note}")).collect::<String>();
                let url = text(&channel, "url");
                print(&format!("channel {}: {url}{notes}", definition.name))
            }
            Self::List { tenant, target } => {
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                let channels = api.get(&format!("/admin/tenants/{tenant}/channels")).await?;
                let lines = channels.as_array().into_iter().flatten().map(|channel| {
                    let named = |pointer: &str| {
                        channel.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
                    };
                    let (name, agent) = (named("/definition/name"), named("/definition/agent"));
                    format!("{name}\t{}\t{agent}", named("/url"))
                });
                print(&lines.collect::<Vec<_>>().join("\n"))
            }
            Self::Show(one) => {
                let (api, path) = one.path(settings).await?;
                print(&format!("{:#}", api.get(&path).await?))
            }
            Self::Remove(one) => {
                let (api, path) = one.path(settings).await?;
                api.delete(&path).await?;
                print(&format!("removed {}", one.name))
            }
        }
    }
}

/// Percent-encodes a name as one segment of a path.
fn escaped(name: &Name) -> String {
    percent_encoding::utf8_percent_encode(name.as_str(), percent_encoding::NON_ALPHANUMERIC)
        .to_string()
}
