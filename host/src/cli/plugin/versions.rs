//! `wardgate plugin versions`.

use serde_json::Value;

use super::super::api::{ForTenant, Target, text};
use super::super::print;
use super::describe::signer;
use crate::ids::PluginName;
use crate::settings::Settings;

/// `wardgate plugin versions …`. Each line has: state, digest, time of installation, version, provenance, the role of
/// the installing key, and the signer.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Versions {
    /// Name of the plugin.
    name: PluginName,
    #[command(flatten)]
    tenant: ForTenant,
    #[command(flatten)]
    target: Target,
}

impl Versions {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        let api = self.target.open(settings).await?;
        let tenant = self.tenant.resolve(&api).await?;
        let path = format!("/admin/tenants/{tenant}/plugins/{}/versions", self.name);
        let versions = api.get(&path).await?;
        let lines = versions.as_array().into_iter().flatten().map(line);
        print(&lines.collect::<Vec<_>>().join("\n"))
    }
}

fn line(version: &Value) -> String {
    let is = |what: &str| version.get(what).and_then(Value::as_bool).unwrap_or_default();
    let status = match (is("current"), is("skipped")) {
        (true, _) => "current",
        (_, true) => "skipped",
        _ => "-",
    };
    let field_or_dash =
        |field| Some(text(version, field)).filter(|text| !text.is_empty()).unwrap_or("-");
    let signed = signer(version).unwrap_or_else(|| "unsigned".to_owned());
    let fields =
        ["digest", "installed_at", "version", "provenance", "installed_by"].map(field_or_dash);
    format!("{status}\t{}\t{}", fields.join("\t"), signed.replace('\t', " "))
}
