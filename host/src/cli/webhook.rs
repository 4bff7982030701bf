//! `wardgate webhook`.

use super::agent::AgentArgs;
use super::api::text;
use super::print;
use crate::settings::Settings;

/// `wardgate webhook …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Webhook {
    /// Print the URL of an agent's webhook.
    ///
    /// The URL is a secret: it triggers the agent without a key.
    Show(AgentArgs),
    /// Replace the URL of an agent's webhook and print the new one.
    ///
    /// The old URL stops working at once. A gateway that serves from the --data folder sees the change within a
    /// second.
    Rotate(AgentArgs),
    /// Revoke the URL of an agent's webhook without a new one.
    Revoke(AgentArgs),
}

impl Webhook {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::Show(one) => {
                let (api, path) = one.path(settings).await?;
                let webhook = api.get(&format!("{path}/webhook")).await?;
                match text(&webhook, "url") {
                    "" => anyhow::bail!(
                        "the webhook was revoked; `wardgate webhook rotate` makes a new one"
                    ),
                    url => print(url),
                }
            }
            Self::Rotate(one) => {
                let (api, path) = one.path(settings).await?;
                print(text(&api.post(&format!("{path}/webhook/rotate")).await?, "url"))
            }
            Self::Revoke(one) => {
                let (api, path) = one.path(settings).await?;
                api.delete(&format!("{path}/webhook")).await?;
                print("revoked")
            }
        }
    }
}
