//! `wardgate plugin`.

mod attempt;
mod new;
mod project;
mod stage;
mod standalone;
mod test;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use http::Method;
use serde_json::Value;

use super::api::{Body, ForTenant, Target, text};
use super::print;
use crate::ids::PluginName;
use crate::plugins::COMPONENT_BYTES_MAX;
use crate::settings::Settings;

/// `wardgate plugin …`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Plugin {
    /// Make a project to write a plugin in, with an example and a golden case for each of its roles.
    New(new::New),
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
        target: Target,
    },
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
    /// Forget a plugin of a tenant. What it was granted stays in its file.
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
}

impl Plugin {
    pub(super) async fn run(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::Test(test) => test.run(settings).await,
            Self::Try(one) => one.run(settings).await,
            Self::New(new) => new.run(),
            Self::Install { component, name, grants, tenant, target } => {
                let name = name.map_or_else(|| name_of(&component), Ok)?;
                let body = installation(&component, grants.as_deref())?;
                let api = target.open(settings).await?;
                let tenant = tenant.resolve(&api).await?;
                let path = format!("/admin/tenants/{tenant}/plugins/{name}");
                let installed = api.call(Method::PUT, &path, Some(body)).await?;
                let roles = installed.get("roles").and_then(Value::as_array);
                let roles = roles.into_iter().flatten().filter_map(Value::as_str);
                let roles = roles.collect::<Vec<_>>().join(", ");
                let digest = text(&installed, "digest");
                let granted = api.folder().map(|folder| folder.grants_path(tenant, &name));
                let granted =
                    granted.map(|path| format!("\nwhat it may do is in {}", path.display()));
                let granted = granted.unwrap_or_default();
                print(&format!("installed {name} ({digest}) with the roles {roles}{granted}"))
            }
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
        }
    }
}

/// The parts of an installation as multipart/form-data (RFC 7578).
fn installation(component: &Path, grants: Option<&Path>) -> anyhow::Result<Body> {
    const TYPE: &str = "multipart/form-data; boundary=wardgate-plugin-0b7d2f6c1e94485aa3d1";
    let (_, boundary) = TYPE.split_once("boundary=").unwrap_or_default();
    let mut body = Vec::new();
    let mut part = |name: &str, path: &Path| -> anyhow::Result<()> {
        let failed = || format!("cannot read {}", path.display());
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).with_context(failed)?;
        file.take(COMPONENT_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(failed)?;
        if bytes.len() as u64 > COMPONENT_BYTES_MAX {
            anyhow::bail!("{} is larger than 64 MiB", path.display());
        }
        let head =
            format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(&bytes);
        body.extend_from_slice(b"\r\n");
        Ok(())
    };
    part("component", component)?;
    if let Some(grants) = grants {
        part("grants", grants)?;
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    Ok((TYPE, body.into()))
}

fn name_of(component: &Path) -> anyhow::Result<PluginName> {
    let stem = component.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let name = stem.replace('_', "-").to_ascii_lowercase();
    name.parse()
        .with_context(|| format!("{stem:?} does not make a plugin name; give one with --name"))
}
