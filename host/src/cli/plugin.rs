//! `wardgate plugin`.

mod describe;
mod file;
pub(super) mod harness;
mod inspect;
mod install;
mod new;
mod project;
mod push;
mod registry;
mod rollback;
mod standalone;
mod state;
mod test;
mod try_call;
mod versions;

use super::api::{ForTenant, Target, text};
use super::print;
use crate::ids::PluginName;
use crate::settings::Settings;

/// `wardgate plugin …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Plugin {
    /// Create a plugin project, with an example and golden cases for each role.
    New(new::New),
    /// Run golden cases against a component, without server, data folder or network.
    ///
    /// Exits with 1 if a case fails.
    #[command(after_help = "\
A case is a JSON file; of objects only the fields that are named are compared:
  {
    \"about\": \"a message starts a run in the chat's thread\",
    \"call\": \"map-payload\",
    \"request\": {\"headers\": {\"x-token\": \"t\"}, \"body\": {\"message\": {\"text\": \"hi\"}}},
    \"settings\": {\"language\": \"en\"},
    \"secrets\": {\"secret\": \"t\"},
    \"now\": \"2026-01-01T00:00:00Z\",
    \"egress\": [{\"method\": \"GET\", \"url\": \"https://api.example/\", \"answer\": {\"status\": 200, \"body\": {}}}],
    \"expect\": {\"ok\": {\"action\": \"run\", \"params\": {\"prompt\": \"hi\"}}}
  }
docs/PLUGINS.md has all of it.")]
    Test(test::Test),
    /// Make one call and print its outcome, log lines, computing time and memory.
    #[command(name = "try")]
    Try(try_call::Try),
    /// Inspect a component before installing it.
    ///
    /// Prints its roles, tools, settings, imports, required grants, size and digest. The component gets no access to
    /// this machine.
    Inspect(inspect::Inspect),
    /// Install a component for a tenant, or a new version of an installed plugin.
    ///
    /// The component is installed only after its signature is verified and it is compiled and validated. A gateway
    /// that serves from the --data folder uses it within a second.
    Install(Box<install::Install>),
    /// Print a plugin as JSON: its roles, call statistics and quarantine.
    ///
    /// A plugin that keeps failing is quarantined. The statistics are those of the gateway process that answers; a
    /// command with --data has called no plugin, so its statistics are empty.
    Show(state::PluginArgs),
    /// End a plugin's quarantine, so that its next calls run.
    ///
    /// Works on a running gateway (--url) only: quarantine is a state of its process.
    Release(state::PluginArgs),
    /// Remove a plugin of a tenant, with all its versions.
    ///
    /// Its grants file remains.
    Remove {
        /// Name of the plugin.
        name: PluginName,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// List a tenant's plugins.
    List {
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// List the stored versions of a plugin, the last installed first.
    ///
    /// Each line has the state (current, skipped or -), digest, time of installation, version, provenance, the role
    /// of the installing key, and the signer. A rollback passes over skipped versions.
    Versions(versions::Versions),
    /// Make the previous version of a plugin current again, or any other stored version.
    ///
    /// Another rollback goes back further. Versions that were rolled back from are passed over once something else
    /// has been installed. The plugin's grants do not change.
    Rollback(rollback::Rollback),
    /// Publish a component to an OCI registry, as `wkg oci push` does.
    Push(push::Push),
}

impl Plugin {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::New(new) => new.execute(),
            Self::Test(test) => test.execute(settings).await,
            Self::Try(one) => one.execute(settings).await,
            Self::Inspect(inspect) => inspect.execute(settings).await,
            Self::Install(install) => Box::pin(install.execute(settings)).await,
            Self::Show(one) => one.show(settings).await,
            Self::Release(one) => one.release(settings).await,
            Self::Remove { name, tenant, target } => {
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                api.delete(&format!("/admin/tenants/{tenant}/plugins/{name}")).await?;
                print(&format!("removed {name}"))
            }
            Self::List { tenant, target } => {
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                let plugins = api.get(&format!("/admin/tenants/{tenant}/plugins")).await?;
                let lines = plugins.as_array().into_iter().flatten().map(|plugin| {
                    let name = text(plugin, "name");
                    match text(plugin, "digest") {
                        "" => format!("{name}\tbundled"),
                        digest => format!("{name}\t{digest}\t{}", text(plugin, "installed_at")),
                    }
                });
                print(&lines.collect::<Vec<_>>().join("\n"))
            }
            Self::Versions(versions) => versions.execute(settings).await,
            Self::Rollback(rollback) => rollback.execute(settings).await,
            Self::Push(push) => push.execute().await,
        }
    }
}
