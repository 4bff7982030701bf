//! `wardgate plugin`.

mod attempt;
mod describe;
mod file;
mod inspect;
mod install;
mod new;
mod project;
mod push;
mod registry;
mod rollback;
pub(super) mod stage;
mod standalone;
mod state;
mod test;
mod versions;

use super::api::{ForTenant, Target, text};
use super::print;
use crate::ids::PluginName;
use crate::settings::Settings;

/// `wardgate plugin …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Plugin {
    /// Make a project to write a plugin in, with an example and a golden case for each of its roles.
    New(new::New),
    /// Run golden cases against a component: no server, no data folder, no network. Exits with 1 where
    /// one of them fails.
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
    /// Make one call and print what came of it, the plugin's log lines, computing time and memory.
    #[command(name = "try")]
    Try(attempt::Try),
    /// Print what a component is before anybody installs it: roles, tools, settings, imports, the grants that
    /// it needs, size and digest. It gets nothing of this machine to see.
    Inspect(inspect::Inspect),
    /// Install a component for a tenant, or a new version of the plugin of that name. Its signature is
    /// checked, it is compiled and checked first; a gateway that serves from the folder uses it within
    /// five seconds.
    Install(Box<install::Install>),
    /// Print a plugin as JSON: its roles, its calls and what they cost, and whether it is cut off because
    /// it kept failing. Calls are those of the gateway that is asked: with --data there are none.
    Show(state::One),
    /// End the quarantine of a plugin: its next calls are let through.
    Release(state::One),
    /// Forget a plugin of a tenant with all its versions. What it was granted stays in its file.
    Remove {
        /// Its name.
        name: PluginName,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// List the plugins of a tenant.
    List {
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// List the versions of a plugin that are kept, the one installed last first.
    Versions(versions::Versions),
    /// Make the version before the current one current again, or any other that is kept. What the plugin
    /// is granted stays.
    Rollback(rollback::Rollback),
    /// Publish a component to an OCI registry, as `wkg oci push` does.
    Push(push::Push),
}

impl Plugin {
    pub(super) async fn run(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::New(new) => new.run(),
            Self::Test(test) => test.run(settings).await,
            Self::Try(one) => one.run(settings).await,
            Self::Inspect(inspect) => inspect.run(settings).await,
            Self::Install(install) => Box::pin(install.run(settings)).await,
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
            Self::Versions(versions) => versions.run(settings).await,
            Self::Rollback(rollback) => rollback.run(settings).await,
            Self::Push(push) => push.run().await,
        }
    }
}
